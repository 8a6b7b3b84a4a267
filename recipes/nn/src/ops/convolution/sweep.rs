//! Which pixels a convolution joins, forward and back, and lines of images with the zeros that windows see around them.
//!
//! The gradient of the input is a convolution as well. At a stride of one the filter is turned around. At a larger stride
//! the input's pixels fall into phases, by their place between windows: each phase sees taps of its own, and is a
//! convolution at a stride of one with these, whose results are as far apart as the stride. No zero is multiplied.

use std::ops::Range;

use super::Before;
use crate::{
    graph::{Shape, Window},
    ops::Images,
    simd::{Level, Vector, dispatch, load_up_to, store_up_to},
};

/// Windows over images, and the pixels that their sums go to. All pairs are `[down, across]`.
#[derive(Clone, Debug)]
pub(super) struct Sweep {
    pub(super) images: usize,
    /// An image that is read.
    pub(super) from: Shape,
    /// An image that is written.
    pub(super) to: Shape,
    /// Taps of a window.
    pub(super) kernel: [usize; 2],
    /// Pixels that are read from one window to the next.
    pub(super) stride: [usize; 2],
    /// The first pixel under the first window, which may lie before the image.
    pub(super) start: [isize; 2],
    pub(super) windows: [usize; 2],
    /// The pixel that the first window's sum goes to.
    pub(super) first: [usize; 2],
    /// Pixels that are written from one window to the next.
    pub(super) step: [usize; 2],
}

/// A part of the input's gradient.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub(super) sweep: Sweep,
    /// The filter's taps in the order of the window's.
    pub(super) taps: Vec<usize>,
}

/// The pixels of one axis of a phase.
struct Axis {
    /// Taps of the filter, in the order of the pixels of the output's gradient under them.
    taps: Vec<usize>,
    start: isize,
    windows: usize,
}

impl Axis {
    fn new(window: &Window, axis: usize, size: usize, phase: usize) -> Self {
        let [kernel, stride, padding] =
            [window.kernel, window.stride, window.padding].map(|pair| pair[axis]);
        // Window `w` sees pixel `phase + m * stride` at the tap `phase + padding + (m - w) * stride`.
        let least = (phase + padding) % stride;
        let mut taps: Vec<usize> = (least..kernel).step_by(stride).collect();
        taps.reverse();
        let start = ((phase + padding) / stride) as isize + 1 - taps.len() as isize;
        Self {
            taps,
            start,
            windows: size.saturating_sub(phase).div_ceil(stride),
        }
    }
}

impl Sweep {
    /// Of the convolution itself.
    pub(super) fn forward(window: &Window, from: Shape, to: Shape, images: usize) -> Self {
        Self {
            images,
            from,
            to,
            kernel: window.kernel,
            stride: window.stride,
            start: window.padding.map(|padding| -(padding as isize)),
            windows: [to.height, to.width],
            first: [0; 2],
            step: [1; 2],
        }
    }

    /// Of the gradient of images `from`, which became `to`.
    pub(super) fn backward(window: &Window, from: Shape, to: Shape, images: usize) -> Vec<Phase> {
        let [down, across] = window.stride;
        let phases = (0..down).flat_map(|y| (0..across).map(move |x| [y, x]));
        let phase = |first: [usize; 2]| {
            let rows = Axis::new(window, 0, from.height, first[0]);
            let columns = Axis::new(window, 1, from.width, first[1]);
            let taps = (rows.taps.iter())
                .flat_map(|y| (columns.taps.iter()).map(move |x| y * window.kernel[1] + x));
            Phase {
                taps: taps.collect(),
                sweep: Self {
                    images,
                    from: to,
                    to: from,
                    kernel: [rows.taps.len(), columns.taps.len()],
                    stride: [1; 2],
                    start: [rows.start, columns.start],
                    windows: [rows.windows, columns.windows],
                    first,
                    step: window.stride,
                },
            }
        };
        phases.map(phase).collect()
    }

    /// Lines of windows of all images.
    pub(super) fn lines(&self) -> usize {
        self.images * self.windows[0]
    }

    /// Taps of a window.
    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether each window is one pixel, and each pixel's, in their order.
    pub(super) fn is_pointwise(&self) -> bool {
        self.is_direct()
            && (self.stride, self.step) == ([1; 2], [1; 2])
            && self.windows == [self.from.height, self.from.width]
            && self.windows == [self.to.height, self.to.width]
    }

    /// Whether each window is one pixel of the image.
    pub(super) fn is_direct(&self) -> bool {
        let size = [self.from.height, self.from.width];
        let inside = |axis: usize| {
            let last = self.windows[axis].saturating_sub(1) * self.stride[axis];
            self.start[axis] >= 0 && self.start[axis] as usize + last < size[axis]
        };
        self.kernel == [1; 2] && inside(0) && inside(1)
    }

    /// The taps of an axis of a window that lie inside the image.
    #[inline(always)]
    pub(super) fn inside(&self, axis: usize, window: usize) -> Range<usize> {
        let size = [self.from.height, self.from.width][axis] as isize;
        let first = self.start[axis] + (window * self.stride[axis]) as isize;
        let tap = |place: isize| (place - first).clamp(0, self.kernel[axis] as isize) as usize;
        tap(0)..tap(size)
    }

    /// The windows of a line of which all taps, across, lie inside the image.
    pub(super) fn whole(&self) -> Range<usize> {
        let all = 0..self.windows[1];
        let whole = |window: &usize| self.inside(1, *window).len() == self.kernel[1];
        match (all.clone().find(whole), all.rev().find(whole)) {
            (Some(first), Some(last)) => first..last + 1,
            _ => 0..0,
        }
    }

    /// Pixels of a line of the image as far as windows reach, with the zeros.
    fn reach(&self) -> usize {
        self.windows[1].saturating_sub(1) * self.stride[1] + self.kernel[1]
    }

    /// Values of such a line, of pixels that are `pitch` apart.
    pub(super) fn line(&self, pitch: usize) -> usize {
        self.reach() * pitch
    }

    /// Where the runs of a window begin in filled lines, from its first value on: its lines, if channels of neighbouring pixels
    /// are summed over together, and otherwise its pixels.
    pub(super) fn runs(&self, together: bool, pitch: usize) -> Vec<usize> {
        let [down, across] = self.kernel;
        let across = if together { 1 } else { across };
        (0..down)
            .flat_map(|y| (0..across).map(move |x| y * self.line(pitch) + x * pitch))
            .collect()
    }

    /// The lines of windows as rows of images: the image, and its rows.
    pub(super) fn rows(&self, lines: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let height = self.windows[0].max(1);
        let images = lines.start / height..lines.end.div_ceil(height);
        images.map(move |image| {
            let first = image * height;
            let rows = lines.start.max(first) - first..lines.end.min(first + height) - first;
            (image, rows)
        })
    }

    /// Lines of an image under so many lines of windows.
    fn under(&self, rows: usize) -> usize {
        rows.saturating_sub(1) * self.stride[0] + self.kernel[0]
    }

    /// Values that [`Self::fill`] writes.
    pub(super) fn len(&self, lines: Range<usize>, pitch: usize) -> usize {
        let lines: usize = (self.rows(lines))
            .map(|(_, rows)| self.under(rows.len()))
            .sum();
        lines * self.line(pitch)
    }

    /// Copies what is under some lines of windows, with zeros around it, to pixels that are `pitch` apart. What is to be done to
    /// values first is done to them, and not to the zeros.
    ///
    /// # Safety
    /// The processor has the level; the images are as large as they should be, and nobody writes them meanwhile.
    pub(super) unsafe fn fill(
        &self,
        level: Level,
        (x, before): (&Images, Option<&Before>),
        lines: Range<usize>,
        pitch: usize,
        to: &mut [f32],
    ) {
        let mut to = &mut to[..self.len(lines.clone(), pitch)];
        let Shape { height, width, .. } = self.from;
        let line = self.line(pitch);
        // The columns of a line that are the image's, and which of the image's they are.
        let columns = self.reach() as isize;
        let inside = |place: isize| (place - self.start[1]).clamp(0, columns) as usize * pitch;
        let [begin, end] = [inside(0), inside(width as isize)];
        let skipped = self.start[1].clamp(0, width as isize) as usize;
        for (image, rows) in self.rows(lines) {
            let under = self.under(rows.len());
            let (here, rest) = std::mem::take(&mut to).split_at_mut(under * line);
            to = rest;
            let first = self.start[0] + (rows.start * self.stride[0]) as isize;
            for (row, to) in (first..).zip(here.chunks_exact_mut(line.max(1))) {
                if row < 0 || row >= height as isize {
                    to.fill(0.0);
                    continue;
                }
                to[..begin].fill(0.0);
                to[end..].fill(0.0);
                let first = (image * height + row as usize) * width + skipped;
                let to = &mut to[begin..end];
                // SAFETY: as the caller's: the image has the line.
                unsafe { copy(level, (x, before), first, pitch, to) };
            }
        }
    }

    /// Where in what [`Self::fill`] wrote the first value under each line of windows is.
    pub(super) fn filled(&self, lines: Range<usize>, pitch: usize) -> impl Iterator<Item = usize> {
        let mut before = 0;
        self.rows(lines).flat_map(move |(_, rows)| {
            let first = before;
            before += self.under(rows.len());
            (0..rows.len()).map(move |row| (first + row * self.stride[0]) * self.line(pitch))
        })
    }

    /// The pixel that the first window of each line is, if windows are pixels.
    pub(super) fn direct(&self, lines: Range<usize>) -> impl Iterator<Item = usize> {
        let [y, x] = self.start.map(|start| start.max(0) as usize);
        self.rows(lines).flat_map(move |(image, rows)| {
            rows.map(move |row| {
                let line = image * self.from.height + y + row * self.stride[0];
                line * self.from.width + x
            })
        })
    }

    /// The first pixel that each line of windows gives.
    pub(super) fn given(&self, lines: Range<usize>) -> impl Iterator<Item = usize> {
        self.rows(lines).flat_map(move |(image, rows)| {
            rows.map(move |row| {
                let line = image * self.to.height + self.first[0] + row * self.step[0];
                line * self.to.width + self.first[1]
            })
        })
    }
}

/// Copies pixels from `first` on to `pitch` apart, with what is to be done to values first.
///
/// # Safety
/// As [`Sweep::fill`]'s; there are as many pixels as `to` has room for.
pub(super) unsafe fn copy(
    level: Level,
    (from, before): (&Images, Option<&Before>),
    first: usize,
    pitch: usize,
    to: &mut [f32],
) {
    // SAFETY: as the caller's.
    unsafe {
        match before {
            Some(before) => scale_line(level, from, first, before, pitch, to),
            None => copy_line(from, first, pitch, to),
        }
    }
}

unsafe fn copy_line(from: &Images, first: usize, pitch: usize, to: &mut [f32]) {
    if to.is_empty() {
        return;
    }
    // SAFETY: as the caller's: there are as many pixels as `to` has.
    unsafe {
        if from.pitch == pitch && from.channels == pitch {
            let from = from.pixel(first);
            std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
            return;
        }
        for (pixel, to) in to.chunks_exact_mut(pitch).enumerate() {
            let values = from.pixel(first + pixel);
            std::ptr::copy_nonoverlapping(values, to.as_mut_ptr(), from.channels);
        }
    }
}

dispatch! {
    /// Pixels from `first` on, each channel scaled, shifted and activated.
    fn scale_line(from: &Images, first: usize, before: &Before, pitch: usize, to: &mut [f32])
        = scale_line_kernel
}

#[inline(always)]
unsafe fn scale_line_kernel<V: Vector>(
    from: &Images,
    first: usize,
    before: &Before,
    pitch: usize,
    to: &mut [f32],
) {
    let channels = before.scale.len();
    let (scale, shift) = (before.scale.as_ptr(), before.shift.as_ptr());
    for (pixel, to) in to.chunks_exact_mut(pitch).enumerate() {
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
