//! The operators of a plan's steps, one folder or file each.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod batch_norm;
pub(crate) mod convolution;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod embedding;
pub(crate) mod gate;
pub(crate) mod layer_norm;
pub(crate) mod lstm;
pub(crate) mod optimizer;
pub(crate) mod pick;
pub(crate) mod pixels;
pub(crate) mod pool;
pub(crate) mod shuffle;

use std::ops::Range;

use rayon::prelude::*;

use crate::host::Shared;

/// Values of a task that does little with each: they and what is made of them fit into the second-level cache.
const CHUNK: usize = 1 << 14;

/// Calls `f` with all parts of a length, a task each, on rayon's pool. Which parts there are follows from the length alone.
pub(crate) fn chunks(len: usize, f: impl Fn(Range<usize>) + Sync) {
    (0..len.div_ceil(CHUNK))
        .into_par_iter()
        .for_each(|i| f(i * CHUNK..len.min((i + 1) * CHUNK)));
}

/// How a gradient joins those that others gave of the same values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Onto {
    /// It is the first one, and written over whatever was there.
    Write,
    /// It is added to what is there.
    Add,
}

impl Onto {
    /// What there is then.
    #[inline(always)]
    pub(crate) fn put(self, to: &mut f32, gradient: f32) {
        match self {
            Self::Write => *to = gradient,
            Self::Add => *to += gradient,
        }
    }
}

/// Some channels of images in a workspace, `[images, height, width, pitch]`.
#[derive(Clone, Copy)]
pub(crate) struct Images {
    /// From the first image's first pixel's first channel on.
    pub(crate) values: Shared,
    /// Pixels, `[down, across]`.
    pub(crate) size: [usize; 2],
    pub(crate) channels: usize,
    /// Values from one pixel to the next.
    pub(crate) pitch: usize,
}

impl Images {
    /// Pixels of an image.
    pub(crate) fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// The first channel of a pixel, counted through all images.
    ///
    /// # Safety
    /// As [`Shared::at`].
    #[inline(always)]
    pub(crate) unsafe fn pixel(&self, index: usize) -> *mut f32 {
        // SAFETY: as the caller's.
        unsafe { self.values.at(index * self.pitch) }
    }
}
