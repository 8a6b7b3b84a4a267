//! Convolution with any kernel, stride, padding and groups, as a product of windows and weights in which no window is
//! ever written down.
//!
//! The values under a line of a window lie side by side, channels being last, so that a window is a few runs of values, and
//! the windows of neighbouring pixels are the same runs a little further on. What has padding, or something to be done to
//! it first, is copied line by line into the nearest cache, with zeros around it; a copy costs little beside the products
//! of every value with all outputs. A 1x1 convolution reads its input where it is, as one long line.
//!
//! Weights are packed into strips of two vectors of outputs. Groups that are narrower than that go together, with zeros
//! between them.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;
mod kernel;
mod pack;
mod tasks;
#[cfg(test)]
mod tests;
pub(crate) mod train;
mod winograd;

use super::Images;
use crate::{activation::Activation, aligned::Aligned, graph, simd::Level};

/// A convolution's numbers, laid out for the kernel.
#[derive(Debug)]
pub(crate) struct Convolution {
    /// `[blocks, strips, taps, block inputs, strip]`, zeros where a strip is not full or inputs are another group's.
    weight: Aligned,
    /// In its place, the weights of [`winograd`], where that is faster.
    transformed: Option<Aligned>,
    /// `[blocks, strips, strip]`.
    bias: Aligned,
    before: Option<Before>,
    activation: Activation,
    window: graph::Window,
    /// Channels of all blocks.
    inputs: usize,
    outputs: usize,
    block: Block,
    /// Outputs of a strip.
    strip: usize,
}

/// Groups that are computed together.
#[derive(Clone, Copy, Debug)]
struct Block {
    inputs: usize,
    outputs: usize,
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
        let strip = 2 * Level::detect().lanes();
        // As many groups as fill a strip.
        let together = (1..=groups)
            .filter(|count| groups.is_multiple_of(*count))
            .take_while(|count| *count == 1 || count * outputs / groups <= strip)
            .last()
            .unwrap_or(1);
        let block = Block {
            inputs: inputs / groups * together,
            outputs: outputs / groups * together,
        };
        let transforms = winograd::takes(layer, inputs, pixels);
        let mut layer = Self {
            weight: Aligned::default(),
            transformed: None,
            bias: Aligned::default(),
            before: None,
            activation,
            window: layer.window,
            inputs,
            outputs,
            block,
            strip,
        };
        layer.pack_bias(weights.bias);
        if transforms {
            layer.transformed = Some(winograd::pack(&layer, weights));
        } else {
            layer.pack(groups, weights);
        }
        layer
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

    fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// Strips of a block.
    fn strips(&self) -> usize {
        self.block.outputs.div_ceil(self.strip)
    }

    fn blocks(&self) -> usize {
        self.outputs / self.block.outputs
    }

    /// Values of a strip's weights.
    fn strip_len(&self) -> usize {
        self.taps() * self.block.inputs * self.strip
    }

    /// Where an output is: its strip, counted through all blocks, and its lane there.
    fn place(&self, output: usize) -> [usize; 2] {
        let (block, within) = (output / self.block.outputs, output % self.block.outputs);
        [
            block * self.strips() + within / self.strip,
            within % self.strip,
        ]
    }

    fn pack_bias(&mut self, bias: &[f32]) {
        self.bias = Aligned::zeros(self.blocks() * self.strips() * self.strip);
        for (output, bias) in bias.iter().enumerate() {
            let [index, lane] = self.place(output);
            self.bias.as_mut_slice()[index * self.strip + lane] = *bias;
        }
    }

    fn pack(&mut self, groups: usize, weights: Weights<'_>) {
        let (taps, strip) = (self.taps(), self.strip);
        let [inputs, outputs] = [self.inputs / groups, self.outputs / groups];
        let len = self.strip_len();
        self.weight = Aligned::zeros(self.blocks() * self.strips() * len);
        for output in 0..self.outputs {
            let ([index, lane], block) = (self.place(output), output / self.block.outputs);
            let to = &mut self.weight.as_mut_slice()[index * len..][..len];
            let from = &weights.weight[output * inputs * taps..][..inputs * taps];
            // Its group's first channel among those of the block.
            let first = output / outputs * inputs - block * self.block.inputs;
            for input in 0..inputs {
                let source = weights.order.map_or(input, |order| order[input]);
                for (tap, weight) in from[source * taps..][..taps].iter().enumerate() {
                    to[(tap * self.block.inputs + first + input) * strip + lane] = *weight;
                }
            }
        }
    }
}
