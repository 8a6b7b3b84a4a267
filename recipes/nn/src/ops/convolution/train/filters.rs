//! The gradient of depthwise weights: for each channel and tap, a sum over all pixels.
//!
//! Vectors are channels, and the sums of a filter's taps stay in registers while lines of pixels go past. Some lines are a
//! part, always the same ones, so that sums do not depend on the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{super::sweep::Sweep, depthwise::pitch};
use crate::{
    host,
    simd::{Level, Vector, dispatch, load_up_to},
};

/// Values that a part reads, about: they stay in the second-level cache while one vector of channels after the other is
/// summed.
const NEAR: usize = 64 << 10;

/// The sums over windows and the gradient of what came of them.
struct Sums<'a> {
    sweep: &'a Sweep,
    x: &'a [f32],
    dy: &'a [f32],
    /// Lines of windows, of all images.
    lines: Range<usize>,
    /// The windows of which all taps, across, lie inside the image.
    whole: Range<usize>,
}

/// The gradient of weights `[channels, filter]`, computed on rayon's pool.
pub(super) fn gradient(level: Level, sweep: &Sweep, [x, dy]: [&[f32]; 2], dweight: &mut [f32]) {
    let channels = sweep.from.channels;
    let taps = sweep.taps();
    let line = sweep.line(channels) * sweep.stride[0] + sweep.windows[1] * channels;
    let at_once = (NEAR / line.max(1)).max(1);
    let parts = host::split(sweep.lines(), 1, sweep.lines().div_ceil(at_once));
    let sums: Vec<Vec<f32>> = (parts.into_par_iter())
        .map(|lines| {
            let mut sums = vec![0.0; taps * pitch(channels)];
            let task = Sums {
                sweep,
                x,
                dy,
                lines,
                whole: sweep.whole(),
            };
            // SAFETY: the level is the processor's.
            unsafe { add_lines(level, &task, &mut sums) };
            sums
        })
        .collect();
    (dweight.par_chunks_exact_mut(taps.max(1)).enumerate()).for_each(|(channel, to)| {
        for (tap, to) in to.iter_mut().enumerate() {
            let at = tap * pitch(channels) + channel;
            let sum: f64 = sums.iter().map(|part| f64::from(part[at])).sum();
            *to = sum as f32;
        }
    });
}

dispatch!(fn add_lines(task: &Sums<'_>, to: &mut [f32]) = add_lines_kernel);

#[inline(always)]
unsafe fn add_lines_kernel<V: Vector>(task: &Sums<'_>, to: &mut [f32]) {
    let [down, across] = task.sweep.kernel;
    for channel in (0..task.sweep.from.channels).step_by(V::LEN) {
        // SAFETY: as the caller's.
        unsafe {
            match [down, across] {
                [3, 3] => task.taps::<V, 3, 3>(channel, [0, 0], to),
                [5, 5] => task.taps::<V, 5, 5>(channel, [0, 0], to),
                _ => {
                    for tap in 0..down * across {
                        task.taps::<V, 1, 1>(channel, [tap / across, tap % across], to);
                    }
                }
            }
        }
    }
}

impl Sums<'_> {
    /// Sums for `D` by `A` taps of a filter from `[ky, kx]` on.
    #[inline(always)]
    unsafe fn taps<V: Vector, const D: usize, const A: usize>(
        &self,
        channel: usize,
        [ky, kx]: [usize; 2],
        to: &mut [f32],
    ) {
        let sweep = self.sweep;
        let channels = sweep.from.channels;
        let count = V::LEN.min(channels - channel);
        let [line, apart] = [sweep.from.width * channels, sweep.stride[1] * channels];
        // SAFETY: as the caller's: only taps inside the image are read.
        unsafe {
            let mut sums = [[V::splat(0.0); A]; D];
            for index in self.lines.clone() {
                let (image, row) = (index / sweep.windows[0], index % sweep.windows[0]);
                let down = sweep.inside(0, row);
                let top = sweep.start[0] + (row * sweep.stride[0]) as isize;
                let dy = self.dy.as_ptr();
                let dy = dy.add(index * sweep.windows[1] * channels + channel);
                // The first value under the line's first window, which need not be there.
                let first = (image * sweep.from.height) as isize + top + ky as isize;
                let first = first * sweep.from.width as isize + sweep.start[1] + kx as isize;
                let x = self.x.as_ptr().wrapping_offset(first * channels as isize);
                let x = x.wrapping_add(channel);
                let whole = if down.start <= ky && ky + D <= down.end {
                    self.whole.clone()
                } else {
                    0..0
                };
                for column in whole.clone() {
                    let dy: V = load_up_to(dy.add(column * channels), count);
                    let x = x.wrapping_add(column * apart);
                    for (y, sums) in sums.iter_mut().enumerate() {
                        for (i, sum) in sums.iter_mut().enumerate() {
                            let x: V = load_up_to(x.add(y * line + i * channels), count);
                            *sum = x.mul_add(dy, *sum);
                        }
                    }
                }
                for column in (0..whole.start).chain(whole.end..sweep.windows[1]) {
                    let dy: V = load_up_to(dy.add(column * channels), count);
                    let x = x.wrapping_add(column * apart);
                    let across = sweep.inside(1, column);
                    for (y, sums) in sums.iter_mut().enumerate() {
                        for (i, sum) in sums.iter_mut().enumerate() {
                            if down.contains(&(ky + y)) && across.contains(&(kx + i)) {
                                let x = x.wrapping_add(y * line + i * channels);
                                *sum = load_up_to::<V>(x, count).mul_add(dy, *sum);
                            }
                        }
                    }
                }
            }
            for (y, sums) in sums.into_iter().enumerate() {
                for (i, sum) in sums.into_iter().enumerate() {
                    let tap = (ky + y) * sweep.kernel[1] + kx + i;
                    sum.store(to[tap * pitch(channels) + channel..].as_mut_ptr());
                }
            }
        }
    }
}
