//! The convolution itself, and each phase of the gradient of its input: windows by strips of weights.
//!
//! As in inference, no window is written down. What has zeros around it is copied line by line into the nearest cache.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    pack::Strips,
    sweep::Sweep,
    tile::{Sink, Tile},
};
use crate::{
    host::{self, Shared},
    matmul::tiles,
    ops::Onto,
    simd::{Level, Vector, dispatch},
    workspace::with_thread_memory,
};

/// Tasks for each thread, so that one that is held up does not hold up all.
pub(super) const TASKS_PER_THREAD: usize = 3;
/// Multiply-adds below which a task is not worth a thread of its own.
const TASK_WORK: usize = 1 << 17;
/// Values that a task reads, at most: they stay in the second-level cache while all weights go past.
const NEAR: usize = 96 << 10;
/// Pixels of a task of one long line, at least, if there are as many: each task goes through all of its weights.
const TASK_PIXELS: usize = 96;
/// Pixels of a line where an image is one long line: tiles of six and of twelve fill it.
const LONG_LINE: usize = 48;

/// A product of windows and weights.
pub(super) struct Product<'a> {
    pub(super) sweep: &'a Sweep,
    pub(super) strips: Strips,
    /// Weights in strips.
    pub(super) weight: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    /// Images that are read.
    pub(super) x: &'a [f32],
    /// Images that are written.
    pub(super) y: Shared,
    pub(super) onto: Onto,
}

/// Windows side by side.
struct Line {
    /// Where the first value under the first of them is.
    x: usize,
    /// Where its first sum goes.
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
    /// Counted through all blocks.
    strips: Range<usize>,
}

impl Product<'_> {
    /// Computes it on rayon's pool.
    ///
    /// # Safety
    /// The processor has the level; the slices have the lengths that the sweep states; nobody else uses `y` meanwhile.
    pub(super) unsafe fn run(&self, level: Level) {
        // SAFETY: as the caller's.
        unsafe {
            if self.sweep.is_pointwise() {
                self.run_flat(level);
            } else {
                self.run_lines(level);
            }
        }
    }

    /// How many tasks there should be for so many pixels.
    fn wanted(&self, pixels: usize) -> usize {
        let threads = rayon::current_num_threads();
        let most = if threads > 1 {
            threads * TASKS_PER_THREAD
        } else {
            1
        };
        most.min(self.strips.len() * pixels / TASK_WORK + 1)
    }

    /// Parts of what is read, and parts of the weights.
    fn parts(&self, [lines, unit, near]: [usize; 3], pixels: usize) -> [Vec<Range<usize>>; 2] {
        let wanted = self.wanted(pixels);
        let mut parts = lines.div_ceil(near);
        if self.strips.len() <= self.x.len() {
            parts = parts.max(wanted);
        }
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
    unsafe fn run_flat(&self, level: Level) {
        let [from, to] = [self.sweep.from, self.sweep.to];
        let pixels = self.sweep.images * from.pixels();
        let near = (NEAR / from.channels.max(1)).max(TASK_PIXELS);
        let [parts, strips] = self.parts([pixels, 12, near], pixels);
        each_task(&parts, &strips, |part, strips| {
            let lines: Vec<Line> = (part.clone().step_by(LONG_LINE))
                .map(|pixel| Line {
                    x: pixel * from.channels,
                    y: pixel * to.channels,
                    columns: LONG_LINE.min(part.end - pixel),
                })
                .collect();
            let task = Task {
                product: self,
                x: self.x.as_ptr(),
                lines: &lines,
                runs: &[0],
                strips,
            };
            // SAFETY: as the caller's, and no two tasks share both pixels and strips.
            unsafe { run_task(level, &task) };
        });
    }

    /// Line by line, from where the images are or from copies with zeros.
    unsafe fn run_lines(&self, level: Level) {
        let sweep = self.sweep;
        let near = (NEAR / (sweep.line() * sweep.stride[0]).max(1)).max(1);
        let pixels = sweep.lines() * sweep.windows[1];
        let [parts, strips] = self.parts([sweep.lines(), 1, near], pixels);
        let runs = sweep.runs(self.strips.blocks() == 1);
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
                    strips: strips.clone(),
                };
                // SAFETY: as the caller's; the copies reach as far as windows do, and no two tasks share both lines and
                // strips.
                unsafe { run_task(level, &task) };
            };
            if sweep.is_direct() {
                return run(self.x.as_ptr(), &mut sweep.direct(part.clone()));
            }
            with_thread_memory(sweep.len(part.clone()), |memory| {
                sweep.fill(self.x, part.clone(), memory);
                run(memory.as_ptr(), &mut sweep.filled(part.clone()));
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
        bias,
        y,
        onto,
        ..
    } = task.product;
    let stride = sweep.stride[1] * sweep.from.channels;
    let step = sweep.step[1] * sweep.to.channels;
    let steps = strips.taps * strips.block_sums() / task.runs.len().max(1);
    let flat = sweep.is_pointwise() && strips.blocks() == 1;
    for index in task.strips.clone() {
        let channels = strips.channels(index);
        let first = index / strips.block_strips() * strips.block_sums();
        for column in (0..channels.len()).step_by(2 * V::LEN) {
            let weight = weight[index * strips.strip_len() + column..].as_ptr();
            let channel = channels.start + column;
            for line in task.lines {
                let mut tiles = tiles::<V>(0..line.columns);
                while let Some(pixels) = tiles.next() {
                    // SAFETY: as the caller's: the tiles are the line's windows, and the columns the strip's.
                    unsafe {
                        let tile = Tile {
                            x: task.x.add(line.x + pixels.start * stride + first),
                            runs: task.runs,
                            steps,
                            step: 1,
                            row: stride,
                            weight,
                            pitch: strips.strip,
                            // The first strip meets pixels that nobody has read yet.
                            ahead: (flat && index == task.strips.start).then(|| {
                                let next = line.x + pixels.end * stride;
                                [(task.x.wrapping_add(next), pixels.len()), (task.x, 0)]
                            }),
                        };
                        let sink = Sink {
                            to: y.at(line.y + pixels.start * step + channel),
                            pitch: step,
                            columns: channels.len() - column,
                            bias: bias.map(|bias| bias.as_ptr().wrapping_add(channel)),
                            add: *onto == Onto::Add,
                        };
                        tile.sum::<V>(pixels.len(), sink);
                    }
                }
            }
        }
    }
}
