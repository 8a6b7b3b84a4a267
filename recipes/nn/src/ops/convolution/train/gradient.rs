//! The gradient of weights: for each tap, sums over all pixels of the input's channels times those of the output's gradient.
//!
//! Some hundred pixels at a time, so that both stay near: the gradient is laid in strips of two vectors for that, while the
//! input is read where windows see it, as in the forward pass. The sums of a task stay in its second-level cache. Where there
//! are few weights for many pixels, pixels are shared out as well, always alike, so that sums do not depend on the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    dense::TASKS_PER_THREAD,
    pack::Strips,
    sweep::Sweep,
    tile::{Sink, Tile},
};
use crate::{
    host::{self, Shared},
    matmul::tiles,
    simd::{Level, Vector, dispatch, load_up_to, store_up_to},
    workspace::with_thread_memory,
};

/// Pixels that are summed over at a time, about: a strip of them fills most of the nearest cache.
const PIXELS: usize = 256;
/// Pixels of a part, at least.
const PART_PIXELS: usize = 1024;
/// Values of the sums of all parts together, at most, if there is more than one.
const SUMS: usize = 1 << 20;
/// Strips of a task, at most.
const STRIPS: usize = 8;

/// Channels of a task where each window is a pixel, at most: they stay in the second-level cache with the gradient's strips and
/// the sums of both.
const CHANNELS: usize = 384;
/// Values of a cache line.
const LINE: usize = 16;

/// The sums over windows and the gradient of what came of them.
pub(super) struct Sums<'a> {
    pub(super) sweep: &'a Sweep,
    pub(super) strips: Strips,
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
}

/// Some pixels by some channels of the input by some strips.
#[derive(Clone)]
struct Share {
    /// Lines of windows; where windows are pixels in their order, pixels.
    lines: Range<usize>,
    /// Of the input, where each window is a pixel; otherwise all.
    channels: Range<usize>,
    /// Counted through all blocks.
    strips: Range<usize>,
    /// The part's sums of all strips.
    to: Shared,
}

/// A share of which both sides have been laid out.
struct Task<'a> {
    strips: &'a Strips,
    share: &'a Share,
    /// What lines are places in.
    x: *const f32,
    /// Where the first value under the first window of each line is.
    lines: &'a [usize],
    /// Windows of a line.
    columns: usize,
    /// Values from one window to the next.
    step: usize,
    /// Where the rows of a window begin, from its first value on.
    rows: &'a [usize],
    /// Values of a row.
    row: usize,
    /// The gradient under these windows, `[strips, pixels, strip]`.
    dy: *const f32,
    /// Whether sums are added to what is there.
    add: bool,
}

impl Sums<'_> {
    /// Into how many parts the pixels are shared out.
    pub(super) fn parts(sweep: &Sweep, strips: &Strips) -> usize {
        let pixels = sweep.lines() * sweep.windows[1];
        let most = SUMS / strips.len().max(1);
        (pixels / PART_PIXELS)
            .min(most)
            .clamp(1, sweep.lines().max(1))
    }

    /// Computes `[parts, strips]` on rayon's pool.
    ///
    /// # Safety
    /// The processor has the level; the slices have the lengths that the sweep states.
    pub(super) unsafe fn run(&self, level: Level, sums: &mut [f32]) {
        let sweep = self.sweep;
        let count = Self::parts(sweep, &self.strips);
        assert_eq!(sums.len(), count * self.strips.len(), "sums");
        let sums = Shared::new(sums);
        let flat = sweep.is_pointwise();
        let lines = if flat {
            sweep.lines() * sweep.windows[1]
        } else {
            sweep.lines()
        };
        let inputs = sweep.from.channels;
        let channels = if sweep.is_direct() && self.strips.blocks() == 1 {
            host::split(inputs, LINE, inputs.div_ceil(CHANNELS))
        } else {
            vec![0..inputs]
        };
        let wanted = TASKS_PER_THREAD * rayon::current_num_threads();
        let strips = self.strips.count();
        let groups = wanted.div_ceil(count * channels.len());
        let strips = host::split(strips, 1, groups.max(strips.div_ceil(STRIPS)));
        let mut shares = Vec::new();
        for (part, lines) in host::split(lines, 1, count).into_iter().enumerate() {
            for channels in &channels {
                shares.extend(strips.iter().map(|strips| Share {
                    lines: lines.clone(),
                    channels: channels.clone(),
                    strips: strips.clone(),
                    to: sums.from(part * self.strips.len()),
                }));
            }
        }
        shares.into_par_iter().with_max_len(1).for_each(|share| {
            let columns = if flat { 1 } else { sweep.windows[1].max(1) };
            let at_once = (PIXELS / columns).max(1);
            let lines = share.lines.clone();
            let blocks = host::split(lines.len(), 1, lines.len().div_ceil(at_once));
            for block in blocks {
                let share = Share {
                    lines: lines.start + block.start..lines.start + block.end,
                    ..share.clone()
                };
                // SAFETY: as the caller's, and no two tasks share a part, channels and strips.
                unsafe { self.block(level, &share, block.start > 0) };
            }
        });
    }

    /// Lays out some lines of a share, and sums over them.
    unsafe fn block(&self, level: Level, share: &Share, add: bool) {
        let (sweep, lines) = (self.sweep, share.lines.clone());
        let (from, to) = (sweep.from.channels, sweep.to.channels);
        let (direct, flat) = (sweep.is_direct(), sweep.is_pointwise());
        let pixels = lines.len() * if flat { 1 } else { sweep.windows[1] };
        // An odd number of cache lines from pixel to pixel, so that pixels do not push each other out of the nearest cache.
        let pitch = (share.channels.len().div_ceil(LINE) | 1) * LINE;
        let room = if direct {
            pixels * pitch
        } else {
            sweep.len(lines.clone()).next_multiple_of(LINE)
        };
        let len = room + share.strips.len() * pixels * self.strips.strip;
        with_thread_memory(len, |memory| {
            let (x, dy) = memory.split_at_mut(room);
            let given = Pixels {
                lines: if flat {
                    vec![lines.start * to]
                } else {
                    sweep.given(lines.clone()).collect()
                },
                columns: if flat { pixels } else { sweep.windows[1] },
                apart: to,
            };
            let places = if flat {
                vec![lines.start * from]
            } else if direct {
                sweep.direct(lines.clone()).collect()
            } else {
                sweep.fill(self.x, lines.clone(), x);
                sweep.filled(lines).collect()
            };
            let read = Pixels {
                lines: places,
                columns: given.columns,
                apart: sweep.stride[1] * from,
            };
            // SAFETY: as the caller's: both have these pixels, and there is room for them.
            unsafe {
                lay_gradient(level, self, &given, share.strips.clone(), dy);
                if direct {
                    lay_input(level, self.x, &read, share.channels.clone(), pitch, x);
                }
            }
            let rows = if direct {
                vec![0]
            } else {
                sweep.runs(self.strips.blocks() == 1)
            };
            let task = Task {
                strips: &self.strips,
                share,
                x: x.as_ptr(),
                lines: if direct { &[0] } else { &read.lines },
                columns: if direct { pixels } else { read.columns },
                step: if direct { pitch } else { read.apart },
                rows: &rows,
                row: match (direct, self.strips.blocks()) {
                    (true, 1) => share.channels.len(),
                    _ => self.strips.taps * self.strips.block_sums() / rows.len(),
                },
                dy: dy.as_ptr(),
                add,
            };
            // SAFETY: as the caller's; what was laid out reaches as far as windows do.
            unsafe { run_task(level, &task) };
        });
    }
}

/// Pixels of some lines.
struct Pixels {
    /// Where their first pixels are.
    lines: Vec<usize>,
    /// Pixels of a line.
    columns: usize,
    /// Values from one to the next.
    apart: usize,
}

dispatch! {
    /// Lays the gradient of pixels in strips.
    fn lay_gradient(sums: &Sums<'_>, pixels: &Pixels, strips: Range<usize>, to: &mut [f32]) = lay_gradient_kernel
}

#[inline(always)]
unsafe fn lay_gradient_kernel<V: Vector>(
    sums: &Sums<'_>,
    pixels: &Pixels,
    indices: Range<usize>,
    to: &mut [f32],
) {
    let strip = sums.strips.strip;
    let apart = pixels.lines.len() * pixels.columns * strip;
    let strips: Vec<Range<usize>> = indices.map(|index| sums.strips.channels(index)).collect();
    let mut to = to.as_mut_ptr();
    for line in &pixels.lines {
        for column in 0..pixels.columns {
            // SAFETY: as the caller's: the gradient has the pixel, and there is room for it in each strip.
            unsafe {
                let from = sums.dy.as_ptr().add(line + column * pixels.apart);
                for (nth, channels) in strips.iter().enumerate() {
                    for lane in (0..strip).step_by(V::LEN) {
                        let count = V::LEN.min(channels.len().saturating_sub(lane));
                        let from = from.wrapping_add(channels.start + lane);
                        let vector: V = load_up_to(from, count);
                        vector.store(to.add(nth * apart + lane));
                    }
                }
                to = to.add(strip);
            }
        }
    }
}

dispatch! {
    /// Copies some channels of pixels, as far apart as `pitch`.
    fn lay_input(x: &[f32], pixels: &Pixels, channels: Range<usize>, pitch: usize, to: &mut [f32]) = lay_input_kernel
}

#[inline(always)]
unsafe fn lay_input_kernel<V: Vector>(
    x: &[f32],
    pixels: &Pixels,
    channels: Range<usize>,
    pitch: usize,
    to: &mut [f32],
) {
    let mut to = to.as_mut_ptr();
    for line in &pixels.lines {
        for column in 0..pixels.columns {
            // SAFETY: as the caller's: the input has the pixel, and there is room for it.
            unsafe {
                let from = x
                    .as_ptr()
                    .add(line + column * pixels.apart + channels.start);
                for channel in (0..channels.len()).step_by(V::LEN) {
                    let count = V::LEN.min(channels.len() - channel);
                    let vector: V = load_up_to(from.add(channel), count);
                    vector.store(to.add(channel));
                }
                to = to.wrapping_add(pitch);
            }
        }
    }
}

dispatch!(fn run_task(task: &Task<'_>) = task_kernel);

#[inline(always)]
unsafe fn task_kernel<V: Vector>(task: &Task<'_>) {
    let (strips, share) = (task.strips, task.share);
    let pixels = task.lines.len() * task.columns;
    for (nth, index) in share.strips.clone().enumerate() {
        let first = index / strips.block_strips() * strips.block_sums();
        let lanes = strips.channels(index).len();
        for (run, start) in task.rows.iter().enumerate() {
            let mut tiles = tiles::<V>(0..task.row);
            while let Some(tile) = tiles.next() {
                let row = share.channels.start + run * task.row + tile.start;
                for lane in (0..lanes).step_by(2 * V::LEN) {
                    // SAFETY: as the caller's: the rows are those under the windows, and the sums the task's.
                    unsafe {
                        let sink = index * strips.strip_len() + row * strips.strip + lane;
                        let sink = Sink {
                            to: share.to.at(sink),
                            pitch: strips.strip,
                            columns: lanes - lane,
                            bias: None,
                            add: task.add,
                        };
                        let product = Tile {
                            x: task.x.add(start + first + tile.start),
                            runs: task.lines,
                            steps: task.columns,
                            step: task.step,
                            row: 1,
                            weight: task.dy.add(nth * pixels * strips.strip + lane),
                            pitch: strips.strip,
                        };
                        product.sum::<V>(tile.len(), sink);
                    }
                }
            }
        }
    }
}

/// Pixels of a part of the bias' sums.
const BIAS_PIXELS: usize = 256;

/// The gradient of a bias: the sums over all pixels.
pub(super) fn bias(level: Level, dy: &[f32], dbias: &mut [f32]) {
    let channels = dbias.len();
    let parts = dy.par_chunks((BIAS_PIXELS * channels).max(1)).map(|dy| {
        let mut sums = vec![0.0; channels];
        // SAFETY: the level is the processor's.
        unsafe { add_pixels(level, dy, &mut sums) };
        sums
    });
    let parts: Vec<Vec<f32>> = parts.collect();
    for (channel, dbias) in dbias.iter_mut().enumerate() {
        let sum: f64 = parts.iter().map(|part| f64::from(part[channel])).sum();
        *dbias = sum as f32;
    }
}

dispatch!(fn add_pixels(x: &[f32], sums: &mut [f32]) = add_pixels_kernel);

#[inline(always)]
unsafe fn add_pixels_kernel<V: Vector>(x: &[f32], sums: &mut [f32]) {
    let channels = sums.len();
    for channel in (0..channels).step_by(V::LEN) {
        let count = V::LEN.min(channels - channel);
        // SAFETY: each pixel has `count` channels from there on.
        unsafe {
            let mut sum = V::splat(0.0);
            for pixel in x.chunks_exact(channels) {
                sum = sum.add(load_up_to(pixel.as_ptr().add(channel), count));
            }
            store_up_to(sum, sums.as_mut_ptr().add(channel), count);
        }
    }
}
