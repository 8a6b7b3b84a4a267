//! How an image is padded with zeros before a convolution, and what size it has after it.

use candle_core::{Result, bail};

/// An image's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Size {
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Size {
    pub(crate) fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// The rule that gives the padding; PyTorch and TensorFlow models differ in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// So many zeros before and after: PyTorch's.
    Symmetric(usize),
    /// As many as make the output `ceil(size / stride)` long, the odd one after: TensorFlow's `SAME`.
    Same,
}

/// A convolution along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Pixels in.
    pub(crate) size: usize,
    /// Pixels out.
    pub(crate) out: usize,
    /// Zeros before the first pixel.
    pub(crate) before: usize,
    /// Pixels from one output to the next.
    pub(crate) stride: usize,
}

impl Padding {
    /// The number of zeros `(before, after)` an axis of `size` pixels.
    pub fn around(self, size: usize, kernel: usize, stride: usize) -> (usize, usize) {
        match self {
            Self::Symmetric(zeros) => (zeros, zeros),
            Self::Same => {
                let covered = size.div_ceil(stride).saturating_sub(1) * stride + kernel;
                let zeros = covered.saturating_sub(size);
                (zeros / 2, zeros - zeros / 2)
            }
        }
    }

    /// The whole geometry, or `None` where not one window fits.
    pub(crate) fn axis(self, size: usize, kernel: usize, stride: usize) -> Option<Axis> {
        let (before, after) = self.around(size, kernel, stride);
        let room = (size + before + after).checked_sub(kernel)?;
        Some(Axis {
            size,
            out: room / stride + 1,
            before,
            stride,
        })
    }

    /// Both axes, down and across.
    ///
    /// # Errors
    /// Not one window fits.
    pub(crate) fn axes(self, size: Size, kernel: usize, stride: usize) -> Result<[Axis; 2]> {
        let axis = |size| self.axis(size, kernel, stride);
        match (axis(size.height), axis(size.width)) {
            (Some(rows), Some(columns)) => Ok([rows, columns]),
            _ => bail!(
                "an image of {} by {} is too small for a {kernel}x{kernel} kernel",
                size.height,
                size.width
            ),
        }
    }
}

impl Axis {
    /// The taps of a window that lie inside the image, and the pixel under the first of them.
    #[inline(always)]
    pub(crate) fn taps(&self, out: usize, kernel: usize) -> (usize, usize, usize) {
        let start = out * self.stride;
        let first = self.before.saturating_sub(start).min(kernel);
        let end = kernel.min((self.size + self.before).saturating_sub(start));
        (
            first,
            end.max(first),
            (start + first).saturating_sub(self.before),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_puts_the_odd_zero_after() {
        assert_eq!(Padding::Same.around(224, 3, 2), (0, 1));
        assert_eq!(Padding::Same.around(7, 3, 2), (1, 1));
        assert_eq!(Padding::Same.around(112, 5, 2), (1, 2));
        assert_eq!(Padding::Same.around(5, 5, 1), (2, 2));
        assert_eq!(Padding::Same.axis(65, 5, 2).unwrap().out, 33);
        assert_eq!(Padding::Symmetric(1).axis(7, 3, 2).unwrap().out, 4);
        assert_eq!(Padding::Symmetric(0).axis(2, 3, 1), None);
    }

    #[test]
    fn taps_stay_inside_the_image() {
        let axis = Padding::Symmetric(2).axis(3, 5, 1).unwrap();
        assert_eq!(axis.taps(0, 5), (2, 5, 0));
        assert_eq!(axis.taps(1, 5), (1, 4, 0));
        assert_eq!(axis.taps(2, 5), (0, 3, 0));
    }
}
