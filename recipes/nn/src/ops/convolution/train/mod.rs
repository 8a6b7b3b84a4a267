//! A convolution whose weights change with each step, and its gradients.
//!
//! Values are `[images, height, width, channels]`, contiguous; weights are as state dicts have them, and are laid out for the
//! kernels in each step, in memory that all layers share.

mod bias;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;
mod depthwise;
mod filters;
mod gradient;
mod lay;
#[cfg(any(test, feature = "cuda"))]
mod library;
mod squares;
mod sums;
#[cfg(test)]
mod tests;
mod whole;

use rayon::prelude::*;

use self::{depthwise::Filters, gradient::Sums, squares::Squares, whole::Layer};
use super::{
    finish::Finish,
    product::Product,
    strips::Strips,
    sweep::{Phase, Sweep},
};
use crate::{
    aligned::Aligned,
    graph::{Convolution, Shape},
    host::Shared,
    ops::{Images, Onto},
    simd::Level,
    workspace::Workspaces,
};

/// Values that a task of filling with zeros takes.
const ZEROS: usize = 16 << 10;

/// A convolution that is trained, for so many images at a time.
#[derive(Debug)]
pub(crate) struct Trained {
    forward: Sweep,
    backward: Vec<Phase>,
    /// Of outputs and of inputs, if channels are summed over.
    strips: Option<[Strips; 2]>,
    /// In place of what is above, where that is faster.
    squares: Option<Squares>,
    /// Taps of the filter.
    taps: usize,
    groups: usize,
}

/// Weights as the kernels read them, or the sums of their gradient: what one layer leaves is of no use to the next, but is near.
static MEMORY: Workspaces<Aligned> = Workspaces::new();

impl Trained {
    /// Of images `from`, which become `to`.
    pub(crate) fn new(layer: &Convolution, from: Shape, to: Shape, images: usize) -> Self {
        let window = &layer.window;
        let taps = window.kernel[0] * window.kernel[1];
        let depthwise =
            layer.groups > 1 && layer.groups == from.channels && layer.groups == to.channels;
        let strips =
            |outputs| Strips::new(taps, layer.groups, [from.channels, to.channels], outputs);
        let backward = Sweep::backward(window, from, to, images);
        Self {
            forward: Sweep::forward(window, from, to, images),
            squares: Squares::of(layer, [from, to], images, &backward),
            backward,
            strips: (!depthwise).then(|| [strips(true), strips(false)]),
            taps,
            groups: layer.groups,
        }
    }

    /// `y = weight * x + bias`.
    ///
    /// # Panics
    /// A slice has another length than the layer says.
    pub(crate) fn forward(
        &mut self,
        level: Level,
        weight: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
    ) {
        self.check(x, y);
        assert_eq!(weight.len(), self.weights(), "weights");
        let channels = self.forward.to.channels;
        assert!(bias.is_none_or(|bias| bias.len() == channels), "bias");
        let (sweep, y) = (&self.forward, Shared::new(y));
        MEMORY.with(|memory| {
            if let Some(layer) = Layer::of(sweep, self.groups) {
                return layer.forward(level, [weight, x], bias, y, memory);
            }
            if let (Some(squares), Some([strips, _])) = (&self.squares, &self.strips) {
                let numbers = (weight, bias);
                return squares.forward(level, strips, numbers, (x, y), memory);
            }
            let phase = Phase {
                sweep: sweep.clone(),
                taps: (0..self.taps).collect(),
            };
            let strips = self.strips.map(|[strips, _]| strips);
            let images = (x, y, Onto::Write);
            convolve(level, strips, &[phase], (weight, bias), images, memory);
        });
    }

    /// What a loss changes with `x`.
    ///
    /// # Panics
    /// A slice has another length than the layer says.
    pub(crate) fn backward_input(
        &mut self,
        level: Level,
        weight: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        onto: Onto,
    ) {
        self.check(dx, dy);
        assert_eq!(weight.len(), self.weights(), "weights");
        MEMORY.with(|memory| {
            if let Some(layer) = Layer::of(&self.forward, self.groups) {
                let dx = (Shared::new(dx), onto);
                return layer.backward_input(level, [weight, dy], dx, memory);
            }
            if let (Some(squares), Some([_, strips])) = (&self.squares, &self.strips) {
                let (values, dx) = ([weight, dy], (Shared::new(dx), onto));
                return squares.backward_input(level, strips, values, dx, memory);
            }
            if onto == Onto::Write && self.backward.iter().any(|phase| phase.taps.is_empty()) {
                dx.par_chunks_mut(ZEROS).for_each(|dx| dx.fill(0.0));
            }
            let strips = self.strips.map(|[_, strips]| strips);
            let images = (dy, Shared::new(dx), onto);
            convolve(
                level,
                strips,
                &self.backward,
                (weight, None),
                images,
                memory,
            );
        });
    }

    /// What a loss changes with weights and bias.
    ///
    /// # Panics
    /// A slice has another length than the layer says.
    pub(crate) fn backward_weight(
        &mut self,
        level: Level,
        x: &[f32],
        dy: &[f32],
        dweight: &mut [f32],
        dbias: Option<&mut [f32]>,
    ) {
        self.check(x, dy);
        let sweep = &self.forward;
        if let Some(dbias) = dbias {
            assert_eq!(dbias.len(), sweep.to.channels, "bias");
            bias::gradient(level, dy, dbias);
        }
        assert_eq!(dweight.len(), self.weights(), "weights");
        MEMORY.with(|memory| {
            if let Some(layer) = Layer::of(sweep, self.groups) {
                return layer.backward_weight(level, [x, dy], dweight, memory);
            }
            let Some([strips, _]) = self.strips else {
                return filters::gradient(level, sweep, [x, dy], dweight);
            };
            if let Some(squares) = &self.squares {
                return squares.backward_weight(level, &strips, [x, dy], dweight, memory);
            }
            let len = Sums::parts(sweep, &strips) * strips.len();
            let sums = memory.at_least(len);
            let gradient = Sums {
                sweep,
                strips,
                x,
                dy,
            };
            // SAFETY: the level is the processor's, and the lengths were checked.
            unsafe { gradient.run(level, sums) };
            strips.unpack(level, sums, dweight);
        });
    }

    /// Numbers of the weight.
    fn weights(&self) -> usize {
        let Sweep { from, to, .. } = self.forward;
        to.channels * from.channels / self.groups * self.taps
    }

    fn check(&self, x: &[f32], y: &[f32]) {
        let Sweep {
            images, from, to, ..
        } = self.forward;
        assert_eq!(x.len(), images * from.values(), "input's length");
        assert_eq!(y.len(), images * to.values(), "output's length");
    }
}

/// All channels of images that lie one after the other.
fn images(values: Shared, shape: Shape) -> Images {
    Images {
        values,
        size: [shape.height, shape.width],
        channels: shape.channels,
        pitch: shape.channels,
    }
}

/// Lays weights out and convolves with them, phase by phase.
fn convolve(
    level: Level,
    strips: Option<Strips>,
    phases: &[Phase],
    (weight, bias): (&[f32], Option<&[f32]>),
    (x, y, onto): (&[f32], Shared, Onto),
    memory: &mut Aligned,
) {
    let phases = phases.iter().filter(|phase| !phase.taps.is_empty());
    if let Some(strips) = strips {
        for Phase { sweep, taps } in phases {
            let strips = strips.of_taps(taps.len());
            let laid = memory.at_least(strips.len());
            strips.pack(level, weight, taps, laid);
            let product = Product {
                sweep,
                strips,
                weight: laid,
                before: None,
                finish: Finish::plain(images(y, sweep.to), bias, onto == Onto::Add),
                x: images(Shared::reading(x), sweep.from),
            };
            // SAFETY: the level is the processor's, the caller has checked the lengths and has `y` for itself.
            unsafe { product.run(level) };
        }
        return;
    }
    let phases: Vec<&Phase> = phases.collect();
    let channels = phases.first().map_or(1, |phase| phase.sweep.from.channels);
    let (filter, pitch) = (weight.len() / channels, depthwise::pitch(channels));
    let mut rest = memory.at_least(filter * pitch);
    let mut filters = Vec::new();
    for Phase { sweep, taps } in phases {
        let (laid, others) = rest.split_at_mut(taps.len() * pitch);
        rest = others;
        depthwise::pack(weight, filter, taps, laid);
        filters.push(Filters {
            sweep,
            weight: laid,
            bias,
            x,
            y,
            onto,
        });
    }
    // SAFETY: as above; phases write pixels of their own.
    unsafe { depthwise::run(level, &filters) };
}
