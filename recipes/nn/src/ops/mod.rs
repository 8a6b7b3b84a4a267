//! The operators of a plan's steps, one folder or file each.

pub(crate) mod convolution;
pub(crate) mod pixels;
pub(crate) mod pool;

use crate::host::Shared;

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
