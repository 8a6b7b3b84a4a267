//! Lines of the input with zeros around them, and with what is to be done to them before they are convolved.

use std::ops::Range;

use super::{Before, Images, Pass};
use crate::simd::{Level, Vector, dispatch, load_up_to, store_up_to};

/// The lines under some lines of windows, of one image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    /// The first one, counted with those of the padding.
    first: usize,
    /// How many there are.
    lines: usize,
    /// Pixels of each, as far as the windows reach.
    width: usize,
    channels: usize,
}

impl Packed {
    /// Those under `lines` of the output.
    pub(super) fn under(pass: &Pass<'_>, lines: &Range<usize>) -> Self {
        let window = pass.layer.window;
        let reach = |axis: usize, count: usize| {
            count.saturating_sub(1) * window.stride[axis] + window.kernel[axis]
        };
        Self {
            first: lines.start * window.stride[0],
            lines: reach(0, lines.len()),
            width: reach(1, pass.output.size[1]),
            channels: pass.layer.inputs,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lines * self.line()
    }

    /// Values of a line.
    pub(super) fn line(&self) -> usize {
        self.width * self.channels
    }

    /// Copies the lines of an image to memory of [`Self::len`] values.
    ///
    /// # Safety
    /// The processor has the level, and nobody writes the input meanwhile.
    pub(super) unsafe fn fill(&self, level: Level, pass: &Pass<'_>, image: usize, to: &mut [f32]) {
        let Images { size, .. } = pass.input;
        let [above, left] = pass.layer.window.padding;
        for (index, to) in to.chunks_exact_mut(self.line()).enumerate() {
            let row = (self.first + index)
                .checked_sub(above)
                .filter(|row| *row < size[0]);
            let Some(row) = row else {
                to.fill(0.0);
                continue;
            };
            let left = left.min(self.width);
            let columns = size[1].min(self.width - left);
            let [start, end] = [left, left + columns].map(|column| column * self.channels);
            to[..start].fill(0.0);
            to[end..].fill(0.0);
            let to = &mut to[start..end];
            let pixel = (image * size[0] + row) * size[1];
            // SAFETY: as the caller's: the image has the line.
            unsafe {
                match &pass.layer.before {
                    Some(before) => scale_line(level, &pass.input, pixel, before, to),
                    None => copy_line(&pass.input, pixel, self.channels, to),
                }
            }
        }
    }
}

unsafe fn copy_line(from: &Images, first: usize, channels: usize, to: &mut [f32]) {
    // SAFETY: as the caller's: there are as many pixels as `to` has.
    unsafe {
        if from.pitch == channels {
            let from = from.pixel(first);
            std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
            return;
        }
        for (pixel, to) in to.chunks_exact_mut(channels).enumerate() {
            let from = from.pixel(first + pixel);
            std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), channels);
        }
    }
}

dispatch! {
    /// Pixels from `first` on, each channel scaled, shifted and activated.
    fn scale_line(from: &Images, first: usize, before: &Before, to: &mut [f32]) = scale_line_kernel
}

#[inline(always)]
unsafe fn scale_line_kernel<V: Vector>(
    from: &Images,
    first: usize,
    before: &Before,
    to: &mut [f32],
) {
    let channels = before.scale.len();
    let (scale, shift) = (before.scale.as_ptr(), before.shift.as_ptr());
    for (pixel, to) in to.chunks_exact_mut(channels).enumerate() {
        for channel in (0..channels).step_by(V::LEN) {
            let count = V::LEN.min(channels - channel);
            // SAFETY: as the caller's: there are `count` channels from there on, and factors and terms for them.
            unsafe {
                let x: V = load_up_to(from.pixel(first + pixel).add(channel), count);
                let scale = load_up_to(scale.add(channel), count);
                let x = x.mul_add(scale, load_up_to(shift.add(channel), count));
                let x: V = before.activation.apply(x);
                store_up_to(x, to.as_mut_ptr().add(channel), count);
            }
        }
    }
}
