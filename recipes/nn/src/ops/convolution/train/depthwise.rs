//! Each channel with a filter of its own: the convolution itself, and each phase of the gradient of its input.
//!
//! Vectors are channels. A tile is some windows of a line, whose sums stay in registers; images are read where they are, and
//! windows that reach beyond them see fewer taps.

use std::ops::Range;

use rayon::prelude::*;

use super::sweep::Sweep;
use crate::{
    host::Shared,
    ops::Onto,
    simd::{Level, MAX_LEN, Vector, dispatch, load_up_to, store_up_to},
};

/// Windows of a tile, whose sums are enough to keep the processor from waiting for any of them.
const TILE: usize = 8;

/// Values of a tap's weights: those of all channels, up to a whole vector.
pub(super) fn pitch(channels: usize) -> usize {
    channels.next_multiple_of(MAX_LEN)
}

/// Lays weights `[channels, filter]` by taps: `[taps, pitch]`.
pub(super) fn pack(weight: &[f32], filter: usize, taps: &[usize], to: &mut [f32]) {
    let channels = weight.len() / filter;
    for (tap, to) in taps.iter().zip(to.chunks_exact_mut(pitch(channels))) {
        for (to, weight) in to.iter_mut().zip(weight.chunks_exact(filter)) {
            *to = weight[*tap];
        }
    }
}

/// Windows with filters.
pub(super) struct Filters<'a> {
    pub(super) sweep: &'a Sweep,
    /// See [`pack`].
    pub(super) weight: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    /// Images that are read.
    pub(super) x: &'a [f32],
    /// Images that are written.
    pub(super) y: Shared,
    pub(super) onto: Onto,
}

/// A line of windows.
struct Line<'a> {
    filters: &'a Filters<'a>,
    /// The taps, down, that lie inside the image.
    down: Range<usize>,
    /// The image's line under the first of them.
    x: usize,
    /// Where the first window's sum goes.
    y: usize,
    /// The windows of which all taps, across, lie inside the image.
    whole: Range<usize>,
}

impl Filters<'_> {
    /// Computes it on rayon's pool.
    ///
    /// # Safety
    /// The processor has the level; the slices have the lengths that the sweep states; nobody else uses `y` meanwhile.
    pub(super) unsafe fn run(&self, level: Level) {
        let sweep = self.sweep;
        (0..sweep.lines()).into_par_iter().for_each(|line| {
            let (image, row) = (line / sweep.windows[0], line % sweep.windows[0]);
            let down = sweep.inside(0, row);
            let top = sweep.start[0] + (row * sweep.stride[0] + down.start) as isize;
            let y = sweep.given(line..line + 1).next().unwrap_or_default();
            let line = Line {
                filters: self,
                x: image * sweep.from.height + top.max(0) as usize,
                down,
                y,
                whole: sweep.whole(),
            };
            // SAFETY: as the caller's; the line of the output is this task's alone.
            unsafe { run_line(level, &line) };
        });
    }
}

dispatch!(fn run_line(line: &Line<'_>) = line_kernel);

#[inline(always)]
unsafe fn line_kernel<V: Vector>(line: &Line<'_>) {
    let sweep = line.filters.sweep;
    let windows = sweep.windows[1];
    for channel in (0..sweep.from.channels).step_by(V::LEN) {
        let mut column = 0;
        while column < windows {
            // SAFETY: as the caller's: tiles lie within the line, and those of several windows within the whole ones.
            unsafe {
                if line.whole.contains(&column) {
                    let left = line.whole.end - column;
                    column += match left {
                        TILE.. => line.tile::<V, TILE>(channel, column),
                        4.. => line.tile::<V, 4>(channel, column),
                        2.. => line.tile::<V, 2>(channel, column),
                        _ => line.tile::<V, 1>(channel, column),
                    };
                } else {
                    column += line.tile::<V, 1>(channel, column);
                }
            }
        }
    }
}

impl Line<'_> {
    /// Computes `T` windows, and says so.
    #[inline(always)]
    unsafe fn tile<V: Vector, const T: usize>(&self, channel: usize, column: usize) -> usize {
        let Filters {
            sweep,
            weight,
            bias,
            x,
            y,
            onto,
        } = self.filters;
        let channels = sweep.from.channels;
        let count = V::LEN.min(channels - channel);
        let stride = sweep.stride[1] * channels;
        let step = sweep.step[1] * channels;
        // For several windows these are all taps.
        let across = sweep.inside(1, column);
        let left = sweep.start[1] + (column * sweep.stride[1] + across.start) as isize;
        // SAFETY: as the caller's: the taps lie inside the image, and weights are whole vectors.
        unsafe {
            let to = y.at(self.y + column * step + channel);
            let mut sums = [V::splat(0.0); T];
            if let Some(bias) = bias {
                sums = [load_up_to(bias.as_ptr().add(channel), count); T];
            }
            if *onto == Onto::Add {
                for (t, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(load_up_to(to.add(t * step), count));
                }
            }
            for (row, ky) in self.down.clone().enumerate() {
                let at = (self.x + row) * sweep.from.width + left.max(0) as usize;
                let mut x = x.as_ptr().wrapping_add(at * channels + channel);
                for kx in across.clone() {
                    let tap = (ky * sweep.kernel[1] + kx) * pitch(channels);
                    let weight = V::load(weight.as_ptr().add(tap + channel));
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let x: V = load_up_to(x.add(t * stride), count);
                        *sum = x.mul_add(weight, *sum);
                    }
                    x = x.wrapping_add(channels);
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                store_up_to(sum, to.add(t * step), count);
            }
        }
        T
    }
}
