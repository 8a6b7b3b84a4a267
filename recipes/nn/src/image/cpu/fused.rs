//! Expansion and depthwise convolution in one pass, so that the expanded image, six times as large as the input, never
//! goes to memory.
//!
//! A task makes some lines of the output for a panel of channels. Of the expanded image it keeps the few lines that the
//! kernel reaches over, in a ring, with zeros left and right of the image so that the inner loop knows no edges. Where a
//! block does not expand, the input's lines are copied into the ring instead.
//!
//! The sums over each line of the output, which a squeeze-excite needs, fall out on the way. They do not depend on how
//! lines are shared out.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    dense::Dense,
    depthwise::{Depthwise, Line},
};
use crate::{
    host::{self, Shared},
    image::padding::Axis,
    matmul::{Ahead, MOST_ROWS, PANEL, Tile, tiles},
    simd::{Dot, Level, Vector, dispatch, dispatch_product, load_up_to},
    workspace::with_thread_memory,
};

/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 3;

/// The two layers and how they lie on the image.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) expand: Option<&'a Dense>,
    pub(crate) depthwise: &'a Depthwise,
    pub(crate) rows: Axis,
    pub(crate) columns: Axis,
}

/// Some lines of an image's output, for a panel of channels.
struct Task<'a> {
    pass: Pass<'a>,
    /// The image, `[height, width, words]`.
    x: &'a [f32],
    rows: Range<usize>,
    panel: usize,
    /// The image's, `[out height, out width, channels]`.
    out: Shared,
    /// The image's, `[out height, channels]`.
    sums: Shared,
}

impl Pass<'_> {
    /// Of `[images, height, width, words]`: the output `[images, out height, out width, channels]`, and the sums over its
    /// lines, `[images, out height, channels]`.
    pub(crate) fn run(&self, level: Level, x: &[f32], images: usize, [out, sums]: [&mut [f32]; 2]) {
        let Self { rows, columns, .. } = *self;
        let channels = self.depthwise.channels();
        let words = self.expand.map_or(channels, |expand| expand.matrix.words());
        let image = rows.size * columns.size * words;
        let [line, image_sums] = [columns.out * channels, rows.out * channels];
        assert_eq!(x.len(), images * image, "input length");
        assert_eq!(out.len(), images * rows.out * line, "output length");
        assert_eq!(sums.len(), images * image_sums, "sums' length");
        let [out, sums] = [Shared::new(out), Shared::new(sums)];
        let panels = channels.div_ceil(PANEL);
        let parts = self.parts(images * panels, rayon::current_num_threads());
        let tasks = images * parts.len() * panels;
        (0..tasks).into_par_iter().with_max_len(1).for_each(|task| {
            let (part, panel) = (task / panels, task % panels);
            let (index, part) = (part / parts.len(), part % parts.len());
            // SAFETY: the level is this processor's; the lengths were checked; no two tasks share an image, a panel and a
            // line; and the ring is as large as `ring_len` says.
            unsafe {
                let task = Task {
                    pass: *self,
                    x: &x[index * image..][..image],
                    rows: parts[part].clone(),
                    panel,
                    out: out.from(index * rows.out * line),
                    sums: sums.from(index * image_sums),
                };
                with_thread_memory(self.ring_len(), |ring| {
                    task.run(level, ring);
                });
            }
        });
    }

    /// The lines of the tasks, given how many tasks there are without a cut.
    fn parts(&self, tasks: usize, threads: usize) -> Vec<Range<usize>> {
        let wanted = if threads > 1 {
            (threads * TASKS_PER_THREAD).div_ceil(tasks.max(1))
        } else {
            1
        };
        // Where two parts meet, the lines that both reach over are expanded twice.
        let most = self.rows.out.div_ceil(self.depthwise.kernel);
        host::split(self.rows.out, 1, wanted.min(most))
    }

    /// Pixels of a line of the ring: as far as the windows of all columns reach.
    fn ring_width(&self) -> usize {
        let Axis {
            size,
            out,
            before,
            stride,
        } = self.columns;
        (before + size).max((out - 1) * stride + self.depthwise.kernel)
    }

    fn ring_len(&self) -> usize {
        self.depthwise.kernel * self.ring_width() * PANEL
    }
}

impl Task<'_> {
    /// Runs it in a ring of [`Pass::ring_len`] values.
    ///
    /// # Safety
    /// The processor has the level; the task's slices are as long as they say, and its part of the output and of the sums
    /// is nobody else's.
    unsafe fn run(&self, level: Level, ring: &mut [f32]) {
        let Pass {
            expand,
            depthwise: layer,
            rows,
            columns,
        } = self.pass;
        let (kernel, channels) = (layer.kernel, layer.channels());
        let slot_len = self.pass.ring_width() * PANEL;
        let [start, end] = [columns.before, columns.before + columns.size].map(|x| x * PANEL);
        for slot in ring.chunks_exact_mut(slot_len) {
            slot[..start].fill(0.0);
            slot[end..].fill(0.0);
        }
        let next = match expand {
            Some(expand) if (self.panel + 1) * PANEL < channels => {
                expand.matrix.panel(self.panel + 1)
            }
            _ => &[],
        };
        // With the first tiles: a task may have few.
        let mut ahead = Ahead::new(next, 0);
        let mut filled = 0;
        for row in self.rows.clone() {
            let (first_tap, end_tap, top) = rows.taps(row, kernel);
            let bottom = top + end_tap - first_tap;
            for line in filled.max(top)..bottom {
                let slot = &mut ring[line % kernel * slot_len..][start..end];
                // SAFETY: the level is the processor's, the task has the line, and the slot is as wide as it.
                unsafe {
                    match expand {
                        Some(expand) => {
                            let precision = expand.matrix.precision();
                            expand_line(level, precision, self, expand, line, &mut ahead, slot);
                        }
                        None => copy_line(level, self, line, slot),
                    }
                }
            }
            filled = filled.max(bottom);
            // SAFETY: as above; the ring has the lines under the taps, and the line of the output is the task's.
            unsafe {
                Line {
                    layer,
                    panel: self.panel,
                    ring: ring.as_ptr(),
                    width: self.pass.ring_width(),
                    taps: (first_tap, end_tap),
                    first: top,
                    out: self
                        .out
                        .at((row * columns.out) * channels + self.panel * PANEL),
                    columns: columns.out,
                    sums: self.sums.at(row * channels + self.panel * PANEL),
                }
                .compute(level);
            }
        }
    }
}

dispatch_product! {
    /// A line of the expanded image, for the task's panel, to `[width][PANEL]`.
    fn expand_line(task: &Task<'_>, expand: &Dense, line: usize, ahead: &mut Ahead, to: &mut [f32])
        = expand_line_kernel
}
dispatch! {
    /// A line of the input, for the task's panel, to `[width][PANEL]`.
    fn copy_line(task: &Task<'_>, line: usize, to: &mut [f32]) = copy_line_kernel
}

/// The sums of a tile, `[rows][2 * LEN]`.
#[repr(align(64))]
struct Sums([f32; MOST_ROWS * PANEL]);

#[inline(always)]
unsafe fn expand_line_kernel<V: Vector, D: Dot<V>>(
    task: &Task<'_>,
    expand: &Dense,
    line: usize,
    ahead: &mut Ahead,
    to: &mut [f32],
) {
    let to = to.as_mut_ptr();
    let (width, words) = (task.pass.columns.size, expand.matrix.words());
    let channels = PANEL.min(expand.outputs() - task.panel * PANEL);
    let mut sums = Sums([0.0; MOST_ROWS * PANEL]);
    let sums = sums.0.as_mut_ptr();
    for column in (0..channels).step_by(2 * V::LEN) {
        let mut tiles = tiles::<V>(0..width);
        // SAFETY: the tiles are the line's pixels, and the columns the panel's: where the matrix ends within a vector, its
        // weights go on with zeros, and of the bias only what is there is read.
        unsafe {
            while let Some(pixels) = tiles.next() {
                let tile = Tile {
                    x: task.x.as_ptr().add((line * width + pixels.start) * words),
                    stride: words,
                    weight: expand.matrix.column(task.panel * PANEL + column).as_ptr(),
                    pitch: expand.matrix.strip(),
                    words,
                    onto: false,
                    ahead: ahead.next_tile(words),
                };
                tile.sum::<V, D>(pixels.len(), channels - column, sums);
                for half in 0..2 {
                    let column = column + half * V::LEN;
                    if column >= channels {
                        break;
                    }
                    let bias = expand.bias.as_ptr().add(task.panel * PANEL + column);
                    let bias: V = load_up_to(bias, V::LEN.min(channels - column));
                    for (r, pixel) in pixels.clone().enumerate() {
                        let sum = V::load(sums.add((2 * r + half) * V::LEN)).add(bias);
                        let value: V = expand.activation.apply(sum);
                        value.store(to.add(pixel * PANEL + column));
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn copy_line_kernel<V: Vector>(task: &Task<'_>, line: usize, to: &mut [f32]) {
    let to = to.as_mut_ptr();
    let (width, channels) = (task.pass.columns.size, task.pass.depthwise.channels());
    let here = PANEL.min(channels - task.panel * PANEL);
    for pixel in 0..width {
        for column in (0..here).step_by(V::LEN) {
            let from = (line * width + pixel) * channels + task.panel * PANEL + column;
            // SAFETY: the input has the line, and the slot room for whole vectors.
            unsafe {
                let value: V = load_up_to(task.x.as_ptr().add(from), V::LEN.min(here - column));
                value.store(to.add(pixel * PANEL + column));
            }
        }
    }
}
