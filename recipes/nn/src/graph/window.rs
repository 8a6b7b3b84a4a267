//! Windows that move over an image, as PyTorch counts them.

use std::ops::Range;

/// Something down and across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair(pub [usize; 2]);

impl From<usize> for Pair {
    fn from(both: usize) -> Self {
        Self([both; 2])
    }
}

impl From<[usize; 2]> for Pair {
    fn from(pair: [usize; 2]) -> Self {
        Self(pair)
    }
}

/// How a window moves over an image: each pair is `[down, across]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Pixels that it covers.
    pub kernel: [usize; 2],
    /// Pixels from one window to the next.
    pub stride: [usize; 2],
    /// Pixels before the first and after the last one of the image.
    pub padding: [usize; 2],
}

impl Window {
    /// Without padding, a pixel at a time.
    pub fn new(kernel: impl Into<Pair>) -> Self {
        Self {
            kernel: kernel.into().0,
            stride: [1; 2],
            padding: [0; 2],
        }
    }

    /// So many pixels from one window to the next.
    pub fn stride(mut self, stride: impl Into<Pair>) -> Self {
        self.stride = stride.into().0;
        self
    }

    /// So many pixels on each side.
    pub fn padding(mut self, padding: impl Into<Pair>) -> Self {
        self.padding = padding.into().0;
        self
    }

    /// Whether each window is one pixel, and each pixel's.
    pub fn is_pointwise(self) -> bool {
        self == Self::new(1)
    }

    /// The windows down and across an image; `None` where not one fits.
    pub fn over(self, size: [usize; 2], ceil: bool) -> Option<[usize; 2]> {
        let count = |axis| self.count(axis, size[axis], ceil);
        Some([count(0)?, count(1)?])
    }

    fn count(self, axis: usize, size: usize, ceil: bool) -> Option<usize> {
        let [kernel, stride, padding] =
            [self.kernel, self.stride, self.padding].map(|pair| pair[axis]);
        let room = (size + 2 * padding).checked_sub(kernel)?;
        if stride == 0 || kernel == 0 || size == 0 {
            return None;
        }
        let whole = room / stride + 1;
        // A window that reaches over the end must still begin within the image or the padding before it.
        let over = ceil && !room.is_multiple_of(stride) && whole * stride < size + padding;
        Some(whole + usize::from(over))
    }

    /// The pixels of an axis under a window, and how many it covers with those of the padding.
    pub fn pixels(self, axis: usize, size: usize, window: usize) -> (Range<usize>, usize) {
        let [kernel, stride, padding] =
            [self.kernel, self.stride, self.padding].map(|pair| pair[axis]);
        let start = window * stride;
        let end = (start + kernel).min(size + 2 * padding);
        let inside = |place: usize| place.saturating_sub(padding).min(size);
        (inside(start)..inside(end), end - start)
    }
}

/// The pixels of field `index` of `fields` that are as even as they can be: they overlap where the size is no multiple.
pub(crate) fn field(size: usize, fields: usize, index: usize) -> Range<usize> {
    index * size / fields..((index + 1) * size).div_ceil(fields)
}
