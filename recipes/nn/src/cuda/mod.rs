//! A CUDA device: kernels, the memory that networks live in, and passes of many launches.
//!
//! The kernels are compiled from `cuda/*.cu` when this crate is built. A network lays its weights out once, in one piece
//! of memory ([`Weights`]). A pass is a [`Program`]: its launches, with the places that each reads and writes. It runs in
//! a [`Lane`], which has a stream and memory of its own and is kept for the next pass, so that nothing is allocated then. A
//! small pass is recorded as a CUDA graph, for launching it would take longer than computing it.
//!
//! A lane's pass is over when its results have been copied to the host, and nothing else waits for the device: while one
//! lane's pass computes, another's input can be on its way.
//!
//! What is trained stays in a `Session`'s memory from step to step. Its weights change with each, so that there is nothing to
//! lay out for kernels of our own: products, and convolutions where there is a library of these, are the vendor's. So are the
//! averages of what several devices have found (`Gpu::joined`), which are made beside what computes.
//!
//! Layouts and programs are plain data: they are made, and tested, without a device. What talks to one is compiled
//! where the feature `cuda` is.

#[cfg(test)]
pub(crate) mod check;
mod convolution;
mod draft;
mod early;
mod held;
mod picture;
mod place;
mod product;
mod program;
mod weights;

#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod handles;
#[cfg(feature = "cuda")]
mod kernels;
#[cfg(feature = "cuda")]
mod lane;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod library;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod session;

use half::{f16, slice::HalfFloatSliceExt};

pub(crate) use convolution::{Convolution, Geometry, Way};
pub(crate) use draft::Draft;
#[cfg(feature = "cuda")]
pub(crate) use held::Held;
pub(crate) use place::{Layout, Place, Span};
pub(crate) use product::{Matrix, Product};
#[cfg(test)]
pub(crate) use program::Launch;
pub(crate) use program::{Argument, Boxes, Grid, Map, Patches, Program, Source, Swizzle, Work};
pub(crate) use weights::Weights;

#[cfg(feature = "cuda")]
pub(crate) use {
    gpu::Gpu,
    lane::{Lane, Pass},
    memory::{Buffer, Recording, recording},
    picture::{Decoder, Decoding},
    session::{Fill, Recorded, Session},
};

/// What is kept in device memory between kernels; they compute in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    F16,
    F32,
}

impl Element {
    /// Bytes of one.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// As the kernels' names have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// Writes values as the device reads them.
    ///
    /// # Panics
    /// There is no room for them.
    pub(crate) fn write(self, values: &[f32], to: &mut [u8]) {
        let to = &mut to[..values.len() * self.size()];
        match self {
            // Some at once, for which processors have instructions.
            Self::F16 => {
                let mut halves = [f16::ZERO; 256];
                let chunks = to.chunks_mut(2 * halves.len());
                for (to, values) in chunks.zip(values.chunks(halves.len())) {
                    let halves = &mut halves[..values.len()];
                    halves.convert_from_f32_slice(values);
                    (to.as_chunks_mut().0.iter_mut().zip(halves))
                        .for_each(|(to, half)| *to = half.to_le_bytes());
                }
            }
            Self::F32 => (to.as_chunks_mut().0.iter_mut().zip(values))
                .for_each(|(to, value)| *to = value.to_le_bytes()),
        }
    }

    /// Reads values as the device has written them.
    pub(crate) fn read(self, from: &[u8]) -> Vec<f32> {
        match self {
            Self::F16 => (from.as_chunks().0.iter())
                .map(|&value| f16::from_le_bytes(value).to_f32())
                .collect(),
            Self::F32 => (from.as_chunks().0.iter())
                .map(|&value| f32::from_le_bytes(value))
                .collect(),
        }
    }
}

/// What a program depends on beside its network and its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) element: Element,
    /// Streaming multiprocessors of the card.
    pub(crate) processors: usize,
    /// Its compute capability, major and minor.
    pub(crate) capability: (i32, i32),
    /// Whether the vendor's library of convolutions is there and to be used.
    pub(crate) cudnn: bool,
    /// Where other devices train the same network, how many values of gradients are averaged with theirs at once, at least.
    pub(crate) bucket: Option<usize>,
}

#[cfg(test)]
impl Target {
    /// An H100.
    pub(crate) fn hopper(element: Element) -> Self {
        Self {
            element,
            processors: 132,
            capability: (9, 0),
            cudnn: false,
            bucket: None,
        }
    }

    /// An A100.
    pub(crate) fn ampere(element: Element) -> Self {
        Self {
            element,
            processors: 108,
            capability: (8, 0),
            cudnn: false,
            bucket: None,
        }
    }
}

#[cfg(all(test, feature = "cuda"))]
pub(crate) use gpu::tests;
