//! Each channel with a filter of its own: the convolution itself, and each phase of the gradient of its input.
//!
//! Vectors are channels. A tile is some windows of a line, whose sums stay in registers; images are read where they are, and
//! windows that reach beyond them see fewer taps.

use std::ops::Range;

use rayon::prelude::*;

use super::super::sweep::Sweep;
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

/// Computes some sweeps of the same images on rayon's pool, line by line: what one has read or written is near for the next.
///
/// # Safety
/// The processor has the level; the slices have the lengths that the sweeps state; nobody else uses the outputs meanwhile, and no
/// two sweeps write the same.
pub(super) unsafe fn run(level: Level, all: &[Filters<'_>]) {
    let rows = all.iter().map(|filters| filters.sweep.windows[0]).max();
    let images = all.first().map_or(0, |filters| filters.sweep.images);
    let rows = rows.unwrap_or(0);
    (0..images * rows).into_par_iter().for_each(|line| {
        let (image, row) = (line / rows, line % rows);
        for filters in all {
            let sweep = filters.sweep;
            if row >= sweep.windows[0] {
                continue;
            }
            let line = image * sweep.windows[0] + row;
            let down = sweep.inside(0, row);
            let top = sweep.start[0] + (row * sweep.stride[0] + down.start) as isize;
            let y = sweep.given(line..line + 1).next().unwrap_or_default() * sweep.to.channels;
            let line = Line {
                filters,
                x: image * sweep.from.height + top.max(0) as usize,
                down,
                y,
                whole: sweep.whole(),
            };
            // SAFETY: as the caller's; the line of the output is this task's alone.
            unsafe { run_line(level, &line) };
        }
    });
}

dispatch!(fn run_line(line: &Line<'_>) = line_kernel);

#[inline(always)]
unsafe fn line_kernel<V: Vector>(line: &Line<'_>) {
    let sweep = line.filters.sweep;
    // SAFETY: as the caller's.
    unsafe {
        match (sweep.kernel[1], sweep.stride[1]) {
            (1, 1) => line.tiles::<V, 1, 1>(),
            (2, 1) => line.tiles::<V, 2, 1>(),
            (3, 1) => line.tiles::<V, 3, 1>(),
            (5, 1) => line.tiles::<V, 5, 1>(),
            (3, 2) => line.tiles::<V, 3, 2>(),
            (5, 2) => line.tiles::<V, 5, 2>(),
            _ => {
                for column in 0..sweep.windows[1] {
                    line.single::<V>(column);
                }
            }
        }
    }
}

impl Line<'_> {
    /// Computes the line for filters of `A` taps across, at a stride of `S`.
    #[inline(always)]
    unsafe fn tiles<V: Vector, const A: usize, const S: usize>(&self) {
        let mut column = 0;
        while column < self.filters.sweep.windows[1] {
            // SAFETY: as the caller's: tiles lie within the line, and those of several windows within the whole ones.
            unsafe {
                let whole = self.whole.contains(&column);
                column += match self.whole.end.saturating_sub(column) {
                    TILE.. if whole => self.tile::<V, A, S, TILE>(column),
                    4.. if whole => self.tile::<V, A, S, 4>(column),
                    2.. if whole => self.tile::<V, A, S, 2>(column),
                    _ => {
                        self.single::<V>(column);
                        1
                    }
                };
            }
        }
    }

    /// Computes `T` whole windows, and says so.
    #[inline(always)]
    unsafe fn tile<V: Vector, const A: usize, const S: usize, const T: usize>(
        &self,
        column: usize,
    ) -> usize {
        let Filters { sweep, weight, .. } = self.filters;
        let channels = sweep.from.channels;
        let line = sweep.from.width * channels;
        for channel in (0..channels).step_by(V::LEN) {
            let count = V::LEN.min(channels - channel);
            // SAFETY: as the caller's: the taps lie inside the image, and weights are whole vectors.
            unsafe {
                let (mut x, to) = self.begin(column, 0, channel);
                let mut sums = [V::splat(0.0); T];
                self.fill::<V, T>(channel, to, &mut sums);
                for ky in self.down.clone() {
                    let weight = weight.as_ptr().add(ky * A * pitch(channels) + channel);
                    for kx in 0..A {
                        let weight = V::load(weight.add(kx * pitch(channels)));
                        for (t, sum) in sums.iter_mut().enumerate() {
                            let x: V = load_up_to(x.add((t * S + kx) * channels), count);
                            *sum = x.mul_add(weight, *sum);
                        }
                    }
                    x = x.wrapping_add(line);
                }
                for (t, sum) in sums.into_iter().enumerate() {
                    store_up_to(sum, to.add(t * self.step()), count);
                }
            }
        }
        T
    }

    /// Computes a window of which some taps may lie outside the image.
    #[inline(always)]
    unsafe fn single<V: Vector>(&self, column: usize) {
        let Filters { sweep, weight, .. } = self.filters;
        let channels = sweep.from.channels;
        let across = sweep.inside(1, column);
        for channel in (0..channels).step_by(V::LEN) {
            let count = V::LEN.min(channels - channel);
            // SAFETY: as the caller's: the taps lie inside the image, and weights are whole vectors.
            unsafe {
                let (mut x, to) = self.begin(column, across.start, channel);
                let mut sums = [V::splat(0.0)];
                self.fill::<V, 1>(channel, to, &mut sums);
                for ky in self.down.clone() {
                    for (i, kx) in across.clone().enumerate() {
                        let tap = (ky * sweep.kernel[1] + kx) * pitch(channels);
                        let weight = V::load(weight.as_ptr().add(tap + channel));
                        let x: V = load_up_to(x.add(i * channels), count);
                        sums[0] = x.mul_add(weight, sums[0]);
                    }
                    x = x.wrapping_add(sweep.from.width * channels);
                }
                store_up_to(sums[0], to, count);
            }
        }
    }

    /// Values from one window's sum to the next.
    #[inline(always)]
    fn step(&self) -> usize {
        self.filters.sweep.step[1] * self.filters.sweep.from.channels
    }

    /// Where a channel under the first tap of a window is that is `skipped` taps from its left, and where its sum goes.
    #[inline(always)]
    unsafe fn begin(
        &self,
        column: usize,
        skipped: usize,
        channel: usize,
    ) -> (*const f32, *mut f32) {
        let Filters { sweep, x, y, .. } = self.filters;
        let left = sweep.start[1] + (column * sweep.stride[1] + skipped) as isize;
        let at = self.x * sweep.from.width + left.max(0) as usize;
        let x = x.as_ptr().wrapping_add(at * sweep.from.channels + channel);
        // SAFETY: as the caller's.
        (x, unsafe { y.at(self.y + column * self.step() + channel) })
    }

    /// What sums begin with.
    #[inline(always)]
    unsafe fn fill<V: Vector, const T: usize>(
        &self,
        channel: usize,
        to: *mut f32,
        sums: &mut [V; T],
    ) {
        let count = V::LEN.min(self.filters.sweep.from.channels - channel);
        // SAFETY: as the caller's: bias and outputs have these channels.
        unsafe {
            if let Some(bias) = self.filters.bias {
                *sums = [load_up_to(bias.as_ptr().add(channel), count); T];
            }
            if self.filters.onto == Onto::Add {
                for (t, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(load_up_to(to.add(t * self.step()), count));
                }
            }
        }
    }
}
