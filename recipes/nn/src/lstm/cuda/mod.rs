//! The LSTM on a CUDA device: layers as launches of `lstm*.cu`, and the tagger that they make up with `crf.cu`.
//!
//! Sequences are packed as on the CPU, and a layer has the same two steps: the input's part of the gates for all rows at
//! once, and the recurrence. In f16 both run on tensor cores, for up to 128 units; f32 runs on CUDA cores, for goldens.
//!
//! Stacks of any size are `stack`'s, where rows stand step by step.

mod crf;
#[cfg(test)]
mod emulator;
mod layer;
mod layout;
mod network;
mod operator;
mod sequences;
mod stack;
#[cfg(feature = "cuda")]
mod tagger;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub use operator::CudaBiLstm;
#[cfg(feature = "cuda")]
pub(super) use {stack::Classifier, tagger::Tagger};

use crate::cuda::Span;

/// Rows of values in device memory, `stride` values from one to the next.
#[derive(Clone, Copy, Debug)]
struct Rows {
    span: Span,
    stride: usize,
}

/// Sequences in device memory, as [`sequences::sorted`] makes them.
#[derive(Clone, Copy, Debug)]
struct Sequences {
    span: Span,
    count: usize,
}

/// Writes numbers as the device reads them.
///
/// # Panics
/// There is no room for them.
fn write(to: &mut [u8], numbers: impl Iterator<Item = u32>) {
    let mut places = to.chunks_exact_mut(size_of::<u32>());
    for number in numbers {
        let place = places.next().expect("room for all numbers");
        place.copy_from_slice(&number.to_le_bytes());
    }
}
