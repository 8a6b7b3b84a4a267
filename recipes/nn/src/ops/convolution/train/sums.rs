//! The sums of weights' gradients at the 36 places of squares: see [`super::squares`].
//!
//! A task takes some channels of the input by some strips of the output's gradient, so few that their sums at all places stay in
//! its second-level cache, and transforms some squares of both at a time.

use std::ops::Range;

use rayon::prelude::*;

use super::super::{
    product::TASKS_PER_THREAD,
    strips::Strips,
    tile::{Sink, Tile},
    winograd::PLACES,
};
use crate::{
    graph::Shape,
    host::{self, Shared},
    matmul::tiles,
    ops::convolution::winograd,
    simd::{Level, Vector, dispatch, load_up_to},
    workspace::with_thread_memory,
};

/// Pixels of the output's gradient that are a square, down and across.
const OUT: usize = 4;
/// Pixels of the input that they see.
const IN: usize = 6;
/// Channels of the input of a task.
const CHANNELS: usize = 64;
/// Strips of a task.
const STRIPS: usize = 4;
/// Squares that are transformed at a time.
const SQUARES: usize = 32;
/// Squares of a part, at least.
const PART_SQUARES: usize = 96;
/// Values of the sums of all parts together, at most, if there is more than one.
const VALUES: usize = 2 << 20;
/// Values of a cache line.
const LINE: usize = 16;

/// Sums over all squares.
pub(super) struct Sums<'a> {
    pub(super) images: usize,
    /// The input.
    pub(super) x: (&'a [f32], Shape),
    /// The gradient of the output.
    pub(super) dy: (&'a [f32], Shape),
    pub(super) padding: [usize; 2],
    /// Of the weight.
    pub(super) strips: Strips,
}

/// Some squares by some channels by some strips.
struct Task<'a> {
    sums: &'a Sums<'a>,
    squares: Range<usize>,
    channels: Range<usize>,
    strips: Range<usize>,
    /// The part's sums, `[strips, places, inputs, strip]`.
    to: Shared,
}

impl Sums<'_> {
    /// Squares of an image, down and across.
    fn grid(&self) -> [usize; 2] {
        let Shape { height, width, .. } = self.dy.1;
        [height.div_ceil(OUT), width.div_ceil(OUT)]
    }

    fn squares(&self) -> usize {
        self.images * self.grid()[0] * self.grid()[1]
    }

    /// Values of a part.
    fn len(&self) -> usize {
        PLACES / self.strips.taps * self.strips.len()
    }

    /// Into how many parts the squares are shared out: as many whatever the threads are.
    pub(super) fn parts(&self) -> usize {
        (self.squares() / PART_SQUARES)
            .min(VALUES / self.len())
            .max(1)
    }

    /// Computes `[parts, strips, places, inputs, strip]` on rayon's pool.
    pub(super) fn run(&self, level: Level, to: &mut [f32]) {
        let (parts, strips) = (self.parts(), self.strips.count());
        let inputs = self.x.1.channels;
        let to = Shared::new(to);
        let channels = host::split(inputs, LINE, inputs.div_ceil(CHANNELS));
        let wanted = TASKS_PER_THREAD * rayon::current_num_threads();
        let groups = wanted
            .div_ceil(parts * channels.len())
            .min(strips.div_ceil(2));
        let strips = host::split(strips, 1, groups.max(strips.div_ceil(STRIPS)));
        let mut tasks = Vec::new();
        for (part, squares) in host::split(self.squares(), 1, parts)
            .into_iter()
            .enumerate()
        {
            for channels in &channels {
                tasks.extend(strips.iter().map(|strips| Task {
                    sums: self,
                    squares: squares.clone(),
                    channels: channels.clone(),
                    strips: strips.clone(),
                    to: to.from(part * self.len()),
                }));
            }
        }
        tasks.into_par_iter().with_max_len(1).for_each(|task| {
            let pitch = task.pitch();
            with_thread_memory(PLACES * SQUARES * (pitch + self.strips.strip), |memory| {
                let (x, dy) = memory.split_at_mut(PLACES * SQUARES * pitch);
                // SAFETY: the level is the processor's; there is room for both; no two tasks share a part, channels and
                // strips.
                unsafe { run_task(level, &task, x, dy) };
            });
        });
    }
}

dispatch!(fn run_task(task: &Task<'_>, x: &mut [f32], dy: &mut [f32]) = task_kernel);

#[inline(always)]
unsafe fn task_kernel<V: Vector>(task: &Task<'_>, x: &mut [f32], dy: &mut [f32]) {
    let strips = &task.sums.strips;
    let (x, dy, strip) = (x.as_mut_ptr(), dy.as_mut_ptr(), strips.strip);
    let pitch = task.pitch();
    for start in task.squares.clone().step_by(SQUARES) {
        let count = SQUARES.min(task.squares.end - start);
        // SAFETY: as the caller's: there is room for the places of so many squares.
        unsafe {
            for square in 0..count {
                let to = x.add(square * pitch);
                let apart = SQUARES * pitch;
                task.spread::<V, false>(start + square, task.channels.clone(), to, apart);
            }
            for index in task.strips.clone() {
                let outputs = strips.channels(index);
                for square in 0..count {
                    let to = dy.add(square * strip);
                    let apart = SQUARES * strip;
                    task.spread::<V, true>(start + square, outputs.clone(), to, apart);
                }
                for place in 0..PLACES {
                    let mut rows = tiles::<V>(0..task.channels.len());
                    while let Some(rows) = rows.next() {
                        let row = place * strips.sums + task.channels.start + rows.start;
                        for lane in (0..outputs.len()).step_by(2 * V::LEN) {
                            let tile = Tile {
                                x: x.add(place * SQUARES * pitch + rows.start),
                                runs: &[0],
                                steps: count,
                                step: pitch,
                                row: 1,
                                weight: dy.add(place * SQUARES * strip + lane),
                                pitch: strip,
                                ahead: None,
                            };
                            let at = index * PLACES * strips.sums + row;
                            let to = task.to.at(at * strip + lane);
                            let add = start > task.squares.start;
                            let sink = Sink::plain(to, strip, outputs.len() - lane, add);
                            tile.sum::<V>(rows.len(), sink);
                        }
                    }
                }
            }
        }
    }
}

impl Task<'_> {
    /// Values from one square to the next: an odd number of cache lines.
    fn pitch(&self) -> usize {
        (self.channels.len().div_ceil(LINE) | 1) * LINE
    }

    /// Some channels of a square's pixels to its places, which are `apart`: of the gradient, or of the input. Whole vectors are
    /// written.
    #[inline(always)]
    unsafe fn spread<V: Vector, const GRADIENT: bool>(
        &self,
        square: usize,
        channels: Range<usize>,
        to: *mut f32,
        apart: usize,
    ) {
        let (images, shape) = if GRADIENT { self.sums.dy } else { self.sums.x };
        let padding = if GRADIENT { [0; 2] } else { self.sums.padding };
        let size = if GRADIENT { OUT } else { IN };
        let [down, across] = self.sums.grid();
        let image = square / (down * across);
        // Wraps around to what is outside, before the first one.
        let top = (square / across % down * OUT).wrapping_sub(padding[0]);
        let left = (square % across * OUT).wrapping_sub(padding[1]);
        for channel in (0..channels.len()).step_by(V::LEN) {
            let count = V::LEN.min(channels.len() - channel);
            // SAFETY: as the caller's: pixels within the image are read, `count` channels of each.
            unsafe {
                let zero = V::splat(0.0);
                let mut rows = [[zero; IN]; IN];
                for column in 0..size {
                    let x = left.wrapping_add(column);
                    let mut pixels = [zero; IN];
                    for (y, pixel) in pixels.iter_mut().enumerate().take(size) {
                        let y = top.wrapping_add(y);
                        if x < shape.width && y < shape.height {
                            let at = (image * shape.height + y) * shape.width + x;
                            let at = at * shape.channels + channels.start + channel;
                            *pixel = load_up_to(images.as_ptr().add(at), count);
                        }
                    }
                    for (row, place) in rows.iter_mut().zip(places::<V, GRADIENT>(pixels)) {
                        row[column] = place;
                    }
                }
                for (y, row) in rows.into_iter().enumerate() {
                    for (x, value) in places::<V, GRADIENT>(row).into_iter().enumerate() {
                        value.store(to.add((y * IN + x) * apart + channel));
                    }
                }
            }
        }
    }
}

/// Six pixels of the input, or the first four, of the gradient, to six places.
#[inline(always)]
unsafe fn places<V: Vector, const GRADIENT: bool>(d: [V; IN]) -> [V; IN] {
    // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
    unsafe {
        if !GRADIENT {
            return winograd::to_places(d);
        }
        let (minus, two, four) = (V::splat(-1.0), V::splat(2.0), V::splat(4.0));
        let (even, odd) = (d[0].add(d[2]), d[1].add(d[3]));
        let far = d[2].mul_add(four, d[0]);
        let further = d[3].mul_add(four, d[1]).mul(two);
        [
            d[0],
            even.add(odd),
            odd.mul_add(minus, even),
            far.add(further),
            further.mul_add(minus, far),
            d[3],
        ]
    }
}
