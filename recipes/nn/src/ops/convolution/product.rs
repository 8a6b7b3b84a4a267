//! The convolution itself, and each phase of the gradient of its input: windows by strips of weights.
//!
//! The values under a line of a window lie side by side, channels being last, so that a window is a few runs of values, and the
//! windows of neighbouring pixels are the same runs a little further on: none is ever written down. What has zeros around it, or
//! something to be done to it first, is copied line by line into the nearest cache; a copy costs little beside the products of
//! every value with all outputs. A window of one pixel is read where it is.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Before,
    finish::Finish,
    strips::Strips,
    sweep::{Sweep, copy},
    tile::Tile,
};
use crate::{
    host,
    matmul::tiles,
    ops::Images,
    simd::{Level, Vector, dispatch},
    workspace::with_thread_memory,
};

/// Tasks for each thread, so that one that is held up does not hold up all.
pub(super) const TASKS_PER_THREAD: usize = 3;
/// Multiply-adds below which a task is not worth a thread of its own.
const TASK_WORK: usize = 1 << 17;
/// Values that a task reads, at most: they stay in the second-level cache while all weights go past.
const NEAR: usize = 96 << 10;
/// The same where weights are what there is more of, and are to go past once.
const FURTHER: usize = 512 << 10;
/// Pixels of a line where an image is one long line: tiles of six and of twelve fill it.
const LONG_LINE: usize = 48;
/// Values of a way of the nearest cache: rows as far apart push each other out.
const WAY: usize = 1 << 10;
/// Values of a cache line.
const LINE: usize = 16;

/// A product of windows and weights.
pub(super) struct Product<'a> {
    pub(super) sweep: &'a Sweep,
    pub(super) strips: Strips,
    /// Weights in strips.
    pub(super) weight: &'a [f32],
    /// What is done to values before they are convolved.
    pub(super) before: Option<&'a Before>,
    pub(super) finish: Finish<'a>,
    /// Images that are read.
    pub(super) x: Images,
}

/// Windows side by side.
struct Line {
    /// Where the first value under the first of them is.
    x: usize,
    /// The pixel that its first sum goes to.
    y: usize,
    columns: usize,
}

/// Some lines by some strips.
struct Task<'a> {
    product: &'a Product<'a>,
    /// What lines are places in.
    x: *const f32,
    lines: &'a [Line],
    /// Where the runs of a window begin, from its first value on.
    runs: &'a [usize],
    /// Values from one window to the next.
    stride: usize,
    /// Counted through all blocks.
    strips: Range<usize>,
}

impl Product<'_> {
    /// Computes it on rayon's pool.
    ///
    /// # Safety
    /// The processor has the level; images and weights are as large as the sweep states; nobody else uses the output meanwhile,
    /// and it is none of what is read but for the residual.
    pub(super) unsafe fn run(&self, level: Level) {
        let apart = self.sweep.stride[1] * self.x.pitch;
        let near = self.before.is_some() || apart.is_multiple_of(WAY);
        // SAFETY: as the caller's.
        unsafe {
            if self.sweep.is_pointwise() {
                self.run_flat(level, near);
            } else {
                self.run_lines(level, near || !self.sweep.is_direct());
            }
        }
    }

    /// Values from one pixel to the next where they are copied: as they lie side by side, if windows do not push each other out
    /// of the nearest cache then.
    fn pitch(&self) -> usize {
        let channels = self.sweep.from.channels;
        if (self.sweep.stride[1] * channels).is_multiple_of(WAY) {
            channels + LINE
        } else {
            channels
        }
    }

    /// Parts of what is read, of so many lines of so many values, and parts of the weights.
    fn parts(
        &self,
        lines: usize,
        [unit, line]: [usize; 2],
        pixels: usize,
    ) -> [Vec<Range<usize>>; 2] {
        let (values, weights) = (lines * line, self.strips.len());
        let threads = rayon::current_num_threads();
        let most = if threads > 1 {
            threads * TASKS_PER_THREAD
        } else {
            1
        };
        let wanted = most.min(weights * pixels / TASK_WORK + 1);
        let parts = if weights <= values {
            let parts = values.div_ceil(NEAR).max(wanted);
            if parts > 1 {
                parts.next_multiple_of(threads)
            } else {
                parts
            }
        } else {
            values.div_ceil(FURTHER)
        };
        let unit = if lines / parts.max(1) >= 4 * unit {
            unit
        } else {
            1
        };
        let lines = host::split(lines, unit, parts);
        let strips = host::split(self.strips.count(), 1, wanted.div_ceil(lines.len().max(1)));
        [lines, strips]
    }

    /// All images as one long line: every window is a pixel.
    unsafe fn run_flat(&self, level: Level, copies: bool) {
        let pixels = self.sweep.images * self.sweep.from.pixels();
        let pitch = if copies { self.pitch() } else { self.x.pitch };
        let [parts, strips] = self.parts(pixels, [12, pitch], pixels);
        each_task(&parts, &strips, |part, strips| {
            let lines: Vec<Line> = (part.clone().step_by(LONG_LINE))
                .map(|pixel| Line {
                    x: (pixel - part.start) * pitch,
                    y: pixel,
                    columns: LONG_LINE.min(part.end - pixel),
                })
                .collect();
            let run = |x: *const f32| {
                let task = Task {
                    product: self,
                    x,
                    lines: &lines,
                    runs: &[0],
                    stride: pitch,
                    strips: strips.clone(),
                };
                // SAFETY: as the caller's, and no two tasks share both pixels and strips.
                unsafe { run_task(level, &task) };
            };
            if !copies {
                // SAFETY: as the caller's.
                return run(unsafe { self.x.pixel(part.start) });
            }
            with_thread_memory(part.len() * pitch, |memory| {
                // SAFETY: as the caller's.
                unsafe { copy(level, (&self.x, self.before), part.start, pitch, memory) };
                run(memory.as_ptr());
            });
        });
    }

    /// Line by line, from where the images are or from copies with zeros.
    unsafe fn run_lines(&self, level: Level, copies: bool) {
        let sweep = self.sweep;
        let pitch = if copies { self.pitch() } else { self.x.pitch };
        let together = self.strips.blocks() == 1 && pitch == sweep.from.channels;
        let runs = sweep.runs(together, pitch);
        let line = sweep.line(pitch) * sweep.stride[0];
        let pixels = sweep.lines() * sweep.windows[1];
        let [parts, strips] = self.parts(sweep.lines(), [1, line], pixels);
        each_task(&parts, &strips, |part, strips| {
            let run = |x: *const f32, places: &mut dyn Iterator<Item = usize>| {
                let lines: Vec<Line> = (places.zip(sweep.given(part.clone())))
                    .map(|(x, y)| Line {
                        x,
                        y,
                        columns: sweep.windows[1],
                    })
                    .collect();
                let task = Task {
                    product: self,
                    x,
                    lines: &lines,
                    runs: &runs,
                    stride: sweep.stride[1] * pitch,
                    strips: strips.clone(),
                };
                // SAFETY: as the caller's; the copies reach as far as windows do, and no two tasks share both lines and
                // strips.
                unsafe { run_task(level, &task) };
            };
            if !copies {
                // SAFETY: as the caller's.
                let x = unsafe { self.x.pixel(0) };
                return run(
                    x,
                    &mut sweep.direct(part.clone()).map(|pixel| pixel * pitch),
                );
            }
            with_thread_memory(sweep.len(part.clone(), pitch), |memory| {
                let from = (&self.x, self.before);
                // SAFETY: as the caller's.
                unsafe { sweep.fill(level, from, part.clone(), pitch, memory) };
                run(memory.as_ptr(), &mut sweep.filled(part.clone(), pitch));
            });
        });
    }
}

/// Runs each part with each strips on rayon's pool.
fn each_task(
    parts: &[Range<usize>],
    strips: &[Range<usize>],
    run: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    (0..parts.len() * strips.len())
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| {
            let (part, strips) = (&parts[task % parts.len()], &strips[task / parts.len()]);
            run(part.clone(), strips.clone());
        });
}

dispatch!(fn run_task(task: &Task<'_>) = task_kernel);

#[inline(always)]
unsafe fn task_kernel<V: Vector>(task: &Task<'_>) {
    let Product {
        sweep,
        strips,
        weight,
        finish,
        ..
    } = task.product;
    let steps = strips.taps * strips.block_sums() / task.runs.len().max(1);
    for index in task.strips.clone() {
        let channels = strips.channels(index);
        let first = index / strips.block_strips() * strips.block_sums();
        for column in (0..channels.len()).step_by(2 * V::LEN) {
            let weight = weight[index * strips.strip_len() + column..].as_ptr();
            for line in task.lines {
                let mut tiles = tiles::<V>(0..line.columns);
                while let Some(pixels) = tiles.next() {
                    let tile = Tile {
                        x: task
                            .x
                            .wrapping_add(line.x + pixels.start * task.stride + first),
                        runs: task.runs,
                        steps,
                        step: 1,
                        row: task.stride,
                        weight,
                        pitch: strips.strip,
                        ahead: None,
                    };
                    let to = [line.y + pixels.start * sweep.step[1], sweep.step[1]];
                    let channels = channels.start + column..channels.end;
                    // SAFETY: as the caller's: the tiles are the line's windows, and the columns the strip's.
                    unsafe { finish.sum::<V>(tile, pixels.len(), to, channels) };
                }
            }
        }
    }
}
