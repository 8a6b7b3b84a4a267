//! How a convolution is shared out over the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Pass,
    kernel::{self, Line, Product, Task},
    pack::Packed,
    winograd,
};
use crate::{host, simd::Level, workspace::with_thread_memory};

/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 3;
/// Multiply-adds below which a task is not worth a thread of its own.
const TASK_WORK: usize = 1 << 17;
/// Values of the input that a task reads, at most: they stay in the second-level cache while all weights go past.
const NEAR: usize = 48 << 10;
/// Pixels of a task of one long line, at least, if there are as many: each task goes through all of its weights.
const TASK_PIXELS: usize = 96;
/// Pixels of a line where an image is one long line: tiles of six and of twelve fill it.
const LONG_LINE: usize = 48;

impl Pass<'_> {
    /// Computes it on rayon's pool.
    ///
    /// # Safety
    /// Nobody else uses the images meanwhile, and the output is none of what is read.
    pub(crate) unsafe fn run(&self, level: Level) {
        let layer = self.layer;
        assert_eq!(self.input.channels, layer.inputs, "input's channels");
        assert_eq!(self.output.channels, layer.outputs, "output's channels");
        let direct = layer.window.kernel == [1, 1]
            && layer.window.padding == [0, 0]
            && layer.before.is_none();
        // SAFETY: as the caller's.
        unsafe {
            if let Some(weight) = &layer.transformed {
                winograd::run(self, level, weight);
            } else if direct && layer.window.is_pointwise() {
                self.run_flat(level);
            } else {
                self.run_lines(level, direct);
            }
        }
    }

    /// Multiply-adds of a pixel.
    fn work(&self) -> usize {
        let block = self.layer.block;
        self.layer.taps() * block.inputs * self.layer.outputs
    }

    /// How many tasks there should be for so many pixels.
    fn wanted(&self, pixels: usize) -> usize {
        let threads = rayon::current_num_threads();
        let most = if threads > 1 {
            threads * TASKS_PER_THREAD
        } else {
            1
        };
        most.min(self.work() * pixels / TASK_WORK + 1)
    }

    /// Strips for each of `tasks` that are not enough, if weights are what there is much of.
    fn strip_parts(&self, tasks: usize, wanted: usize) -> Vec<Range<usize>> {
        let strips = self.layer.blocks() * self.layer.strips();
        host::split(strips, 1, wanted.div_ceil(tasks.max(1)))
    }

    /// All images as one long line: every window is a pixel.
    unsafe fn run_flat(&self, level: Level) {
        let layer = self.layer;
        let pixels = self.images * self.output.pixels();
        let wanted = self.wanted(pixels);
        let weights = layer.inputs * layer.outputs;
        let near = (NEAR / self.input.pitch.max(1)).max(TASK_PIXELS);
        let mut parts = pixels.div_ceil(near);
        if weights <= pixels * layer.inputs {
            parts = parts.max(wanted);
        }
        let unit = if pixels / parts.max(1) >= LONG_LINE {
            12
        } else {
            6
        };
        let parts = host::split(pixels, unit, parts);
        let strips = self.strip_parts(parts.len(), wanted);
        let tasks = strips.len() * parts.len();
        (0..tasks).into_par_iter().with_max_len(1).for_each(|task| {
            let part = parts[task % parts.len()].clone();
            let lines: Vec<Line> = (part.clone().step_by(LONG_LINE))
                .map(|pixel| Line {
                    // SAFETY: as the caller's: the input has the pixel.
                    x: unsafe { self.input.pixel(pixel) },
                    pixel,
                    columns: LONG_LINE.min(part.end - pixel),
                })
                .collect();
            let strips = strips[task / parts.len()].clone();
            // SAFETY: as the caller's, and no two tasks share both pixels and strips.
            unsafe { self.task(level, &lines, (&[0], self.input.pitch), strips) };
        });
    }

    /// Line by line, from where the input is or from copies with padding.
    unsafe fn run_lines(&self, level: Level, direct: bool) {
        let layer = self.layer;
        let [height, width] = self.output.size;
        let wanted = self.wanted(self.images * height * width);
        let weights = layer.taps() * layer.block.inputs * layer.outputs;
        let line = self.input.size[1] * layer.inputs * layer.window.stride[0];
        let mut parts = height.div_ceil((NEAR / line.max(1)).max(1));
        if weights <= self.input.pixels() * layer.inputs {
            parts = parts.max(wanted.div_ceil(self.images.max(1))).min(height);
        }
        let parts = host::split(height, 1, parts);
        let pieces = self.images * parts.len();
        let strips = self.strip_parts(pieces, wanted);
        (0..pieces * strips.len())
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| {
                let (piece, strips) = (task % pieces, strips[task / pieces].clone());
                let (image, lines) = (piece / parts.len(), parts[piece % parts.len()].clone());
                // SAFETY: as the caller's, and no two tasks share both lines and strips.
                unsafe {
                    if direct {
                        self.direct(level, image, lines, strips);
                    } else {
                        self.packed(level, image, lines, strips);
                    }
                }
            });
    }

    unsafe fn direct(&self, level: Level, image: usize, lines: Range<usize>, strips: Range<usize>) {
        let [down, across] = self.layer.window.stride;
        let line = |row: usize| Line {
            x: {
                let [height, width] = self.input.size;
                // SAFETY: as the caller's: the input has the line.
                unsafe { self.input.pixel((image * height + row * down) * width) }
            },
            pixel: (image * self.output.size[0] + row) * self.output.size[1],
            columns: self.output.size[1],
        };
        let lines: Vec<Line> = lines.map(line).collect();
        // SAFETY: as the caller's.
        unsafe { self.task(level, &lines, (&[0], across * self.input.pitch), strips) };
    }

    unsafe fn packed(&self, level: Level, image: usize, rows: Range<usize>, strips: Range<usize>) {
        let layer = self.layer;
        let packed = Packed::under(self, &rows);
        let [down, across] = layer.window.kernel;
        // Channels of neighbouring pixels lie side by side, if they are all of one block.
        let runs: Vec<usize> = if layer.blocks() == 1 {
            (0..down).map(|ky| ky * packed.line()).collect()
        } else {
            let taps = (0..down).flat_map(|ky| (0..across).map(move |kx| (ky, kx)));
            taps.map(|(ky, kx)| ky * packed.line() + kx * layer.inputs)
                .collect()
        };
        with_thread_memory(packed.len(), |memory| {
            // SAFETY: as the caller's.
            unsafe { packed.fill(level, self, image, memory) };
            let line = |(index, row): (usize, usize)| Line {
                x: memory[index * layer.window.stride[0] * packed.line()..].as_ptr(),
                pixel: (image * self.output.size[0] + row) * self.output.size[1],
                columns: self.output.size[1],
            };
            let lines: Vec<Line> = rows.enumerate().map(line).collect();
            let stride = layer.window.stride[1] * layer.inputs;
            // SAFETY: as the caller's; the copies reach as far as the windows do.
            unsafe { self.task(level, &lines, (&runs, stride), strips) };
        });
    }

    /// # Safety
    /// As [`kernel::run`]'s.
    unsafe fn task(
        &self,
        level: Level,
        lines: &[Line],
        (runs, stride): (&[usize], usize),
        strips: Range<usize>,
    ) {
        let layer = self.layer;
        let task = Task {
            pass: self,
            lines,
            product: Product {
                runs,
                words: layer.taps() * layer.block.inputs / runs.len(),
                stride,
                pitch: layer.strip,
            },
            strips,
        };
        // SAFETY: as the caller's.
        unsafe { kernel::run(level, &task) };
    }
}
