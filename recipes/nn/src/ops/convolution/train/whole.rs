//! A dense layer, whose window is the whole image, for few images: bound by what its weights take to be read.
//!
//! Weights are read where they are, as the state dict has them, and their gradient is written there: laying them out anew would
//! cost more than the product. The images are turned instead, which are small beside them, to `[images, channels, pixels]`.

use std::ops::Range;

use rayon::prelude::*;

use super::super::{
    sweep::Sweep,
    tile::{Sink, Tile},
};
use crate::{
    aligned::Aligned,
    host::{self, Shared},
    matmul::tiles,
    ops::Onto,
    simd::{Level, Vector, dispatch, load_up_to},
};

/// Images from which on laying out weights costs less than it saves.
const MOST_IMAGES: usize = 24;
/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 4;
/// Rows of weights that are read side by side: as many streams as a processor fetches ahead.
const STREAMS: usize = 24;
/// Outputs of a tile of the forward pass.
const OUTPUTS: usize = 3;

/// A product with a matrix `[outputs, inputs]`.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    sweep: &'a Sweep,
}

impl<'a> Layer<'a> {
    /// If a sweep's window is the whole image, and there are few.
    pub(super) fn of(sweep: &'a Sweep, groups: usize) -> Option<Self> {
        let whole = sweep.kernel == [sweep.from.height, sweep.from.width]
            && (sweep.start, sweep.windows) == ([0; 2], [1; 2])
            && groups == 1;
        (whole && sweep.images <= MOST_IMAGES).then_some(Self { sweep })
    }

    fn inputs(&self) -> usize {
        self.sweep.from.values()
    }

    fn outputs(&self) -> usize {
        self.sweep.to.channels
    }

    /// `weight * x + bias`.
    pub(super) fn forward(
        &self,
        level: Level,
        [weight, x]: [&[f32]; 2],
        bias: Option<&[f32]>,
        y: Shared,
        memory: &mut Aligned,
    ) {
        let x = self.turned(x, memory);
        let parts = self.parts(self.outputs(), OUTPUTS);
        parts.into_par_iter().with_max_len(1).for_each(|outputs| {
            let task = Forward {
                layer: *self,
                weight,
                bias,
                x,
                y,
                outputs,
            };
            // SAFETY: the level is the processor's; the caller has checked the lengths, and the outputs are this task's alone.
            unsafe { forward(level, &task) };
        });
    }

    /// The gradient of `x`.
    pub(super) fn backward_input(
        &self,
        level: Level,
        [weight, dy]: [&[f32]; 2],
        (dx, onto): (Shared, Onto),
        memory: &mut Aligned,
    ) {
        let len = self.sweep.images * self.inputs();
        let turns = self.sweep.from.pixels() > 1;
        let (to, add) = if turns {
            (Shared::new(memory.at_least(len)), false)
        } else {
            (dx, onto == Onto::Add)
        };
        let parts = self.parts(self.inputs(), 2 * level.lanes());
        parts.into_par_iter().with_max_len(1).for_each(|inputs| {
            let task = Backward {
                layer: *self,
                weight,
                dy,
                to,
                add,
                inputs,
            };
            // SAFETY: as above, of the inputs.
            unsafe { backward(level, &task) };
        });
        if turns {
            let from = &memory.as_slice()[..len];
            self.each_value(|image, turned, at| {
                // SAFETY: the caller has `dx` for itself, and each image is a task's alone.
                let to = unsafe { &mut *dx.at(image * self.inputs() + at) };
                onto.put(to, from[image * self.inputs() + turned]);
            });
        }
    }

    /// The gradient of weights.
    pub(super) fn backward_weight(
        &self,
        level: Level,
        [x, dy]: [&[f32]; 2],
        dweight: &mut [f32],
        memory: &mut Aligned,
    ) {
        let x = self.turned(x, memory);
        let to = Shared::new(dweight);
        let parts = self.parts(self.outputs(), STREAMS);
        parts.into_par_iter().with_max_len(1).for_each(|outputs| {
            let task = Gradient {
                layer: *self,
                x,
                dy,
                to,
                outputs,
            };
            // SAFETY: as above.
            unsafe { gradient(level, &task) };
        });
    }

    fn parts(&self, total: usize, unit: usize) -> Vec<Range<usize>> {
        host::split(total, unit, TASKS_PER_THREAD * rayon::current_num_threads())
    }

    /// Images `[images, channels, pixels]`.
    fn turned<'m>(&self, x: &'m [f32], memory: &'m mut Aligned) -> &'m [f32] {
        if self.sweep.from.pixels() == 1 {
            return x;
        }
        let to = Shared::new(memory.at_least(x.len()));
        self.each_value(|image, turned, at| {
            // SAFETY: there is room for all images, and each is a task's alone.
            unsafe { *to.at(image * self.inputs() + turned) = x[image * self.inputs() + at] };
        });
        &memory.as_slice()[..x.len()]
    }

    /// An image's values: where they are turned, and where they are.
    fn each_value(&self, each: impl Fn(usize, usize, usize) + Sync) {
        let (pixels, channels) = (self.sweep.from.pixels(), self.sweep.from.channels);
        (0..self.sweep.images).into_par_iter().for_each(|image| {
            for channel in 0..channels {
                for pixel in 0..pixels {
                    each(image, channel * pixels + pixel, pixel * channels + channel);
                }
            }
        });
    }
}

struct Forward<'a> {
    layer: Layer<'a>,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    x: &'a [f32],
    y: Shared,
    outputs: Range<usize>,
}

dispatch!(fn forward(task: &Forward<'_>) = forward_kernel);

#[inline(always)]
unsafe fn forward_kernel<V: Vector>(task: &Forward<'_>) {
    let images = task.layer.sweep.images;
    let mut output = task.outputs.start;
    while output < task.outputs.end {
        let three = output + OUTPUTS <= task.outputs.end;
        let mut image = 0;
        while image < images {
            // SAFETY: as the caller's: there are as many images and outputs.
            image += unsafe {
                match (images - image, three) {
                    (8.., true) => task.dot::<V, 8, OUTPUTS>(image, output),
                    (4.., true) => task.dot::<V, 4, OUTPUTS>(image, output),
                    (_, true) => task.dot::<V, 1, OUTPUTS>(image, output),
                    (8.., false) => task.dot::<V, 8, 1>(image, output),
                    (4.., false) => task.dot::<V, 4, 1>(image, output),
                    (_, false) => task.dot::<V, 1, 1>(image, output),
                }
            };
        }
        output += if three { OUTPUTS } else { 1 };
    }
}

impl Forward<'_> {
    /// Computes some outputs of `R` images, and says how many these are.
    #[inline(always)]
    unsafe fn dot<V: Vector, const R: usize, const N: usize>(
        &self,
        image: usize,
        output: usize,
    ) -> usize {
        let (inputs, outputs) = (self.layer.inputs(), self.layer.outputs());
        // SAFETY: as the caller's.
        unsafe {
            let mut sums = [[V::splat(0.0); N]; R];
            let weight = self.weight.as_ptr().add(output * inputs);
            let x = self.x.as_ptr().add(image * inputs);
            for k in (0..inputs).step_by(V::LEN) {
                let count = V::LEN.min(inputs - k);
                let mut weights = [V::splat(0.0); N];
                for (n, vector) in weights.iter_mut().enumerate() {
                    *vector = load_up_to(weight.add(n * inputs + k), count);
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x: V = load_up_to(x.add(r * inputs + k), count);
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = x.mul_add(weight, *sum);
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (n, sum) in sums.into_iter().enumerate() {
                    let bias = self.bias.map_or(0.0, |bias| bias[output + n]);
                    *self.y.at((image + r) * outputs + output + n) = sum.sum() + bias;
                }
            }
        }
        R
    }
}

struct Backward<'a> {
    layer: Layer<'a>,
    weight: &'a [f32],
    dy: &'a [f32],
    to: Shared,
    /// Whether the gradient is added to what is there.
    add: bool,
    inputs: Range<usize>,
}

dispatch!(fn backward(task: &Backward<'_>) = backward_kernel);

#[inline(always)]
unsafe fn backward_kernel<V: Vector>(task: &Backward<'_>) {
    let (inputs, outputs) = (task.layer.inputs(), task.layer.outputs());
    for output in (0..outputs).step_by(STREAMS) {
        for column in task.inputs.clone().step_by(2 * V::LEN) {
            let mut images = tiles::<V>(0..task.layer.sweep.images);
            while let Some(images) = images.next() {
                // SAFETY: as the caller's; at the end of the weights a tile reads what is there.
                unsafe {
                    let tile = Tile {
                        x: task.dy.as_ptr().add(images.start * outputs + output),
                        runs: &[0],
                        steps: STREAMS.min(outputs - output),
                        step: 1,
                        row: outputs,
                        weight: task.weight.as_ptr().add(output * inputs + column),
                        pitch: inputs,
                        ahead: None,
                    };
                    let to = task.to.at(images.start * inputs + column);
                    let add = task.add || output > 0;
                    let sink = Sink::plain(to, inputs, task.inputs.end - column, add);
                    tile.sum_of::<V>(images.len(), sink);
                }
            }
        }
    }
}

struct Gradient<'a> {
    layer: Layer<'a>,
    x: &'a [f32],
    dy: &'a [f32],
    to: Shared,
    outputs: Range<usize>,
}

dispatch!(fn gradient(task: &Gradient<'_>) = gradient_kernel);

#[inline(always)]
unsafe fn gradient_kernel<V: Vector>(task: &Gradient<'_>) {
    let (inputs, outputs) = (task.layer.inputs(), task.layer.outputs());
    let mut rows = tiles::<V>(task.outputs.clone());
    while let Some(rows) = rows.next() {
        for column in (0..inputs).step_by(2 * V::LEN) {
            // SAFETY: as the caller's; at the end of the images a tile reads what is there.
            unsafe {
                let tile = Tile {
                    x: task.dy.as_ptr().add(rows.start),
                    runs: &[0],
                    steps: task.layer.sweep.images,
                    step: outputs,
                    row: 1,
                    weight: task.x.as_ptr().add(column),
                    pitch: inputs,
                    ahead: None,
                };
                let to = task.to.at(rows.start * inputs + column);
                let sink = Sink::plain(to, inputs, inputs - column, false);
                tile.sum_of::<V>(rows.len(), sink);
            }
        }
    }
}
