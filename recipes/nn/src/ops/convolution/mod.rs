//! Convolution with any kernel, stride, padding and groups, as a product of windows and weights.
//!
//! Inference and training share the loops: [`product`] goes over windows, [`winograd`] over squares of pixels, both by strips of
//! weights ([`strips`]) and with the same innermost loop ([`tile`]). Here weights are laid out once, when they are loaded; in
//! [`train`] in each step.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;
mod finish;
mod product;
mod strips;
mod sweep;
#[cfg(test)]
mod tests;
mod tile;
pub(crate) mod train;
mod winograd;

use self::{finish::Finish, product::Product, strips::Strips, sweep::Sweep};
use super::Images;
use crate::{
    activation::Activation,
    aligned::Aligned,
    graph::{self, Shape},
    simd::Level,
};

/// Pixels of an image from which on a 3x3 convolution goes by squares: the transformed weights are four times as many to read.
const LEAST_PIXELS: usize = 144;

/// A convolution's numbers, laid out for the kernels.
#[derive(Debug)]
pub(crate) struct Convolution {
    strips: Strips,
    /// In strips, or transformed.
    weight: Aligned,
    by_squares: bool,
    bias: Vec<f32>,
    before: Option<Before>,
    activation: Activation,
    window: graph::Window,
    inputs: usize,
}

/// What is done to each value before it is convolved.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    /// A factor for each channel.
    pub(crate) scale: Vec<f32>,
    /// A term for each channel.
    pub(crate) shift: Vec<f32>,
    pub(crate) activation: Activation,
}

/// A convolution's weights as state dicts have them.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    /// `[outputs, inputs / groups, kernel]`.
    pub(crate) weight: &'a [f32],
    /// `[outputs]`.
    pub(crate) bias: &'a [f32],
    /// Which of the weight's inputs each channel is, if they are in another order and there are no groups.
    pub(crate) order: Option<&'a [usize]>,
}

/// What a convolution is to go over.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) layer: &'a Convolution,
    pub(crate) images: usize,
    pub(crate) input: Images,
    pub(crate) output: Images,
    /// What is added to the result.
    pub(crate) residual: Option<Images>,
    /// What follows that.
    pub(crate) after: Activation,
}

impl Convolution {
    /// For `inputs` channels in all groups together, and mostly for outputs of so many pixels.
    ///
    /// # Panics
    /// The weights are of other shapes.
    pub(crate) fn new(
        layer: &graph::Convolution,
        [inputs, pixels]: [usize; 2],
        weights: Weights<'_>,
        activation: Activation,
    ) -> Self {
        let [down, across] = layer.window.kernel;
        let taps = down * across;
        let (outputs, groups) = (layer.outputs, layer.groups);
        assert_eq!(
            weights.weight.len(),
            outputs * inputs / groups * taps,
            "weight's length"
        );
        assert_eq!(weights.bias.len(), outputs, "bias' length");
        let ordered;
        let weight = match weights.order {
            Some(order) => {
                let filters = weights.weight.chunks_exact(inputs * taps);
                let filter = |filter: &[f32]| -> Vec<f32> {
                    let channels = order
                        .iter()
                        .map(|channel| &filter[channel * taps..][..taps]);
                    channels.flatten().copied().collect()
                };
                ordered = filters.flat_map(filter).collect::<Vec<f32>>();
                &ordered[..]
            }
            None => weights.weight,
        };
        let strips = Strips::new(taps, groups, [inputs, outputs], true);
        let by_squares = pixels >= LEAST_PIXELS && winograd::takes(layer, inputs);
        let (level, taps) = (Level::detect(), (0..taps).collect::<Vec<_>>());
        let mut laid = Aligned::default();
        if by_squares {
            winograd::pack(
                level,
                &strips,
                weight,
                &taps,
                laid.at_least(winograd::len(&strips)),
            );
        } else {
            strips.pack(level, weight, &taps, laid.at_least(strips.len()));
        }
        Self {
            strips,
            weight: laid,
            by_squares,
            bias: weights.bias.to_vec(),
            before: None,
            activation,
            window: layer.window,
            inputs,
        }
    }

    /// The same with something before it, in the order of its channels.
    ///
    /// # Panics
    /// There are other than its channels.
    pub(crate) fn after(mut self, before: Before) -> Self {
        assert_eq!(before.scale.len(), self.inputs, "factors");
        assert_eq!(before.shift.len(), self.inputs, "terms");
        self.before = Some(before);
        self
    }
}

impl Pass<'_> {
    /// Computes it on rayon's pool.
    ///
    /// # Safety
    /// The processor has the level; nobody else uses the images meanwhile, and the output is none of what is read.
    ///
    /// # Panics
    /// The images have other channels than the layer.
    pub(crate) unsafe fn run(&self, level: Level) {
        let Convolution {
            strips,
            weight,
            window,
            before,
            ..
        } = self.layer;
        assert_eq!(self.input.channels, self.layer.inputs, "input's channels");
        assert_eq!(
            self.output.channels,
            self.layer.bias.len(),
            "output's channels"
        );
        let (weight, before) = (weight.as_slice(), before.as_ref());
        let finish = Finish {
            to: self.output,
            bias: Some(&self.layer.bias),
            activation: self.layer.activation,
            residual: self.residual,
            after: self.after,
        };
        // SAFETY: as the caller's.
        unsafe {
            if self.layer.by_squares {
                let pass = winograd::Pass {
                    strips,
                    weight,
                    padding: window.padding,
                    before,
                    images: self.images,
                    x: self.input,
                    finish,
                };
                return pass.run(level);
            }
            let [from, to] = [self.input, self.output].map(|images| Shape {
                channels: images.channels,
                height: images.size[0],
                width: images.size[1],
            });
            let product = Product {
                sweep: &Sweep::forward(window, from, to, self.images),
                strips: *strips,
                weight,
                before,
                finish,
                x: self.input,
            };
            product.run(level);
        }
    }
}
