//! The gradient of weights: for each tap, sums over all pixels of the input's channels times those of the output's gradient.
//!
//! Some hundred pixels at a time, so that both stay near: the gradient is laid in strips of two vectors for that, while the
//! input is read where windows see it, as in the forward pass. The sums of a task stay in its second-level cache. Where there
//! are few weights for many pixels, pixels are shared out as well, always alike, so that sums do not depend on the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    dense::{TASKS_PER_THREAD, each_task},
    pack::Strips,
    sweep::Sweep,
    tile::{Sink, Tile},
};
use crate::{
    host::{self, Shared},
    matmul::tiles,
    simd::{Level, Vector, dispatch, load_up_to},
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

/// The sums over windows and the gradient of what came of them.
pub(super) struct Sums<'a> {
    pub(super) sweep: &'a Sweep,
    pub(super) strips: Strips,
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
}

/// Some pixels by some strips.
struct Task<'a> {
    sums: &'a Sums<'a>,
    /// What lines are places in.
    x: *const f32,
    /// Where the first value under the first window of each line is.
    lines: &'a [usize],
    /// Windows of a line.
    columns: usize,
    /// Where the rows of a window begin, from its first value on.
    rows: &'a [usize],
    /// Counted through all blocks.
    strips: Range<usize>,
    /// The gradient under these, `[strips, pixels, strip]`.
    dy: *const f32,
    /// The part's sums of all strips.
    to: Shared,
    /// Whether they are added to what is there.
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
        let pixels = sweep.lines() * sweep.windows[1];
        let lines = if flat { pixels } else { sweep.lines() };
        let parts = host::split(lines, 1, count);
        let wanted = TASKS_PER_THREAD * rayon::current_num_threads();
        let groups = wanted.div_ceil(count);
        let strips = self.strips.count();
        let strips = host::split(strips, 1, groups.max(strips.div_ceil(STRIPS)));
        let at_once = if flat {
            PIXELS
        } else {
            (PIXELS / sweep.windows[1].max(1)).max(1)
        };
        let indices: Vec<Range<usize>> = (0..parts.len()).map(|part| part..part + 1).collect();
        each_task(&indices, &strips, |index, strips| {
            let part = parts[index.start].clone();
            let blocks = host::split(part.len(), 1, part.len().div_ceil(at_once));
            for block in blocks {
                let task = Block {
                    lines: part.start + block.start..part.start + block.end,
                    strips: strips.clone(),
                    to: sums.from(index.start * self.strips.len()),
                    add: block.start > 0,
                };
                // SAFETY: as the caller's, and no two tasks share both a part and strips.
                unsafe {
                    if flat {
                        self.flat(level, task);
                    } else {
                        self.block(level, task);
                    }
                }
            }
        });
    }

    /// Pixels where they are.
    unsafe fn flat(&self, level: Level, block: Block) {
        let Block { lines, strips, .. } = block;
        let first = lines.start * self.sweep.from.channels;
        with_thread_memory(strips.len() * lines.len() * self.strips.strip, |dy| {
            let places = [lines.start * self.sweep.to.channels];
            let task = Task {
                sums: self,
                x: self.x.as_ptr(),
                lines: &[first],
                columns: lines.len(),
                rows: &[0],
                strips,
                dy: dy.as_ptr(),
                to: block.to,
                add: block.add,
            };
            // SAFETY: as the caller's.
            unsafe {
                lay_gradient(level, &task, &places, dy);
                run_task(level, &task);
            }
        });
    }

    /// Lines of windows, from where the images are or from copies with zeros.
    unsafe fn block(&self, level: Level, block: Block) {
        let Block { lines, strips, .. } = block;
        let sweep = self.sweep;
        let direct = sweep.is_direct();
        let filled = if direct { 0 } else { sweep.len(lines.clone()) };
        let room = filled.next_multiple_of(16);
        let pixels = lines.len() * sweep.windows[1];
        with_thread_memory(room + strips.len() * pixels * self.strips.strip, |memory| {
            let (x, dy) = memory.split_at_mut(room);
            let places: Vec<usize> = if direct {
                sweep.direct(lines.clone()).collect()
            } else {
                sweep.fill(self.x, lines.clone(), &mut x[..filled]);
                sweep.filled(lines.clone()).collect()
            };
            let [down, across] = sweep.kernel;
            let rows: Vec<usize> = if self.strips.blocks() == 1 {
                (0..down).map(|y| y * sweep.line()).collect()
            } else {
                let taps = (0..down).flat_map(|y| (0..across).map(move |x| [y, x]));
                taps.map(|[y, x]| y * sweep.line() + x * sweep.from.channels)
                    .collect()
            };
            let task = Task {
                sums: self,
                x: if direct { self.x.as_ptr() } else { x.as_ptr() },
                lines: &places,
                columns: sweep.windows[1],
                rows: &rows,
                strips,
                dy: dy.as_ptr(),
                to: block.to,
                add: block.add,
            };
            let given: Vec<usize> = sweep.given(lines).collect();
            // SAFETY: as the caller's; the copies reach as far as windows do.
            unsafe {
                lay_gradient(level, &task, &given, dy);
                run_task(level, &task);
            }
        });
    }
}

/// Some of a part's lines, or pixels, by some strips.
struct Block {
    lines: Range<usize>,
    strips: Range<usize>,
    to: Shared,
    add: bool,
}

dispatch! {
    /// Lays the gradient of a task's pixels in strips; `places` are those of its lines.
    fn lay_gradient(task: &Task<'_>, places: &[usize], to: &mut [f32]) = lay_gradient_kernel
}

#[inline(always)]
unsafe fn lay_gradient_kernel<V: Vector>(task: &Task<'_>, places: &[usize], to: &mut [f32]) {
    let (strips, dy) = (&task.sums.strips, task.sums.dy);
    let pitch = task.sums.sweep.to.channels;
    let mut to = to.as_mut_ptr();
    for index in task.strips.clone() {
        let channels = strips.channels(index);
        for place in places {
            for column in 0..task.columns {
                // SAFETY: as the caller's: the gradient has the pixel, and there is room for it in each strip.
                unsafe {
                    let from = dy.as_ptr().add(place + column * pitch + channels.start);
                    for lane in (0..strips.strip).step_by(V::LEN) {
                        let count = V::LEN.min(channels.len().saturating_sub(lane));
                        let vector: V = load_up_to(from.wrapping_add(lane), count);
                        vector.store(to.add(lane));
                    }
                    to = to.add(strips.strip);
                }
            }
        }
    }
}

dispatch!(fn run_task(task: &Task<'_>) = task_kernel);

#[inline(always)]
unsafe fn task_kernel<V: Vector>(task: &Task<'_>) {
    let (strips, sweep) = (&task.sums.strips, task.sums.sweep);
    let pixels = task.lines.len() * task.columns;
    let rows = strips.taps * strips.block_sums() / task.rows.len();
    for (nth, index) in task.strips.clone().enumerate() {
        let first = index / strips.block_strips() * strips.block_sums();
        let lanes = strips.channels(index).len();
        for (run, start) in task.rows.iter().enumerate() {
            let mut tiles = tiles::<V>(0..rows);
            while let Some(tile) = tiles.next() {
                for lane in (0..lanes).step_by(2 * V::LEN) {
                    // SAFETY: as the caller's: the rows are those under the windows, and the sums the task's.
                    unsafe {
                        let sink = index * strips.strip_len()
                            + (run * rows + tile.start) * strips.strip
                            + lane;
                        let sink = Sink {
                            to: task.to.at(sink),
                            pitch: strips.strip,
                            columns: lanes - lane,
                            bias: None,
                            add: task.add,
                        };
                        let product = Tile {
                            x: task.x.add(start + first + tile.start),
                            runs: task.lines,
                            steps: task.columns,
                            step: sweep.stride[1] * sweep.from.channels,
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
            crate::simd::store_up_to(sum, sums.as_mut_ptr().add(channel), count);
        }
    }
}
