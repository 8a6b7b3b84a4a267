//! A network laid out for a CUDA device, and the launches of a pass through it.

use candle_core::{Result, bail};

use super::{
    depthwise::Depthwise,
    layout::dense,
    planner::{Images, Planner},
    squeeze::{SqueezeExcite, mean},
    stem::{COLOURS, Pixels, Stem},
};
use crate::{
    activation::Activation,
    cuda::{Layout, Program, Span, Target, Weights},
    image::{Bottleneck, Layers, padding::Size},
    matmul::cuda::Dense,
};

#[derive(Debug)]
pub(super) struct Model {
    stem: Stem,
    blocks: Vec<Block>,
    head: Dense,
    classifier: Dense,
    /// Before they were padded.
    classes: usize,
    activation: Activation,
}

#[derive(Debug)]
struct Block {
    expand: Option<Dense>,
    depthwise: Depthwise,
    squeeze_excite: Option<SqueezeExcite>,
    project: Dense,
    residual: bool,
}

/// What a pass depends on beside its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) images: usize,
    pub(super) size: Size,
    pub(super) pixels: Pixels,
}

impl Shape {
    /// Values of the pixels of an image.
    pub(super) fn image_len(&self) -> usize {
        self.size.pixels() * COLOURS
    }
}

/// A pass, before it has any memory.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) program: Program,
    pub(super) layout: Layout,
    /// `[images, height, width, 3]`, bytes or f32.
    pub(super) pixels: Span,
    /// `[images, padded classes]`.
    pub(super) logits: Span,
}

impl Model {
    /// # Errors
    /// The shapes do not fit together, or a layer is none that there are kernels for.
    pub(super) fn new(weights: &mut Weights, layers: &Layers) -> Result<Self> {
        let activation = layers.activation;
        if !matches!(
            activation,
            Activation::None | Activation::Relu6 | Activation::Silu
        ) {
            bail!("image networks have no CUDA kernels for {activation:?}, only for ReLU6 and SiLU")
        }
        let (stem, mut channels) = Stem::new(weights, layers)?;
        let mut blocks = Vec::new();
        for layer in &layers.blocks {
            let block;
            (block, channels) = Block::new(weights, layer, channels)?;
            blocks.push(block);
        }
        let (head, channels) = dense(weights, &layers.head, channels)?;
        let (classifier, classes) = dense(weights, &layers.classifier, channels)?;
        Ok(Self {
            stem,
            blocks,
            head,
            classifier,
            classes,
            activation,
        })
    }

    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// Logits of an image as they lie on the device.
    pub(super) fn padded_classes(&self) -> usize {
        self.classifier.outputs()
    }

    /// # Errors
    /// The images are too small for the network, or too many or too large for a launch.
    pub(super) fn plan(&self, target: &Target, shape: Shape) -> Result<Plan> {
        let mut planner = Planner::new(target, self.activation);
        let bytes = shape.images * shape.image_len() * shape.pixels.size();
        let pixels = planner.scratch.take(bytes);
        let images = (shape.images, shape.size);
        let mut x = (self.stem).push(&mut planner, (pixels, shape.pixels), images)?;
        planner.scratch.give_back(pixels);
        for block in &self.blocks {
            x = block.push(&mut planner, x)?;
        }
        let head = planner.dense(x, &self.head, self.activation, (None, None))?;
        planner.scratch.give_back(x.span);
        let means = mean(&mut planner, head)?;
        let logits = planner.dense(means, &self.classifier, Activation::None, (None, None))?;
        Ok(Plan {
            layout: planner.scratch.layout(),
            program: planner.program,
            pixels,
            logits: logits.span,
        })
    }
}

impl Block {
    /// For so many channels; also those that it gives.
    fn new(weights: &mut Weights, layer: &Bottleneck, inputs: usize) -> Result<(Self, usize)> {
        let (expand, given) = match &layer.expand {
            Some(expand) => {
                let (expand, outputs) = dense(weights, expand, inputs)?;
                (Some(expand), outputs)
            }
            None => (None, inputs),
        };
        let (depthwise, wide) = Depthwise::new(weights, &layer.depthwise, layer.window)?;
        if given != wide {
            bail!(
                "a depthwise convolution has {wide} channels, but the layer before it gives {given}"
            )
        }
        let squeeze_excite = match &layer.squeeze_excite {
            Some(layers) => Some(SqueezeExcite::new(weights, layers, wide)?),
            None => None,
        };
        let (project, outputs) = dense(weights, &layer.project, wide)?;
        if layer.residual && (inputs != outputs || layer.window.stride != 1) {
            bail!("a block whose input is added to its output must keep its shape")
        }
        let block = Self {
            expand,
            depthwise,
            squeeze_excite,
            project,
            residual: layer.residual,
        };
        Ok((block, outputs))
    }

    /// Gives the memory of `x` back.
    fn push(&self, planner: &mut Planner<'_>, x: Images) -> Result<Images> {
        let residual = self.residual.then_some(x);
        // What is read no more, unless it is the residual.
        let give_back = |planner: &mut Planner<'_>, images: Images| {
            if residual != Some(images) {
                planner.scratch.give_back(images.span);
            }
        };
        let wide = match &self.expand {
            Some(expand) => {
                let wide = planner.dense(x, expand, planner.activation, (None, None))?;
                give_back(planner, x);
                wide
            }
            None => x,
        };
        let summed = self.squeeze_excite.is_some();
        let (deep, partials) = self.depthwise.push(planner, wide, summed)?;
        give_back(planner, wide);
        let gates = match (&self.squeeze_excite, partials) {
            (Some(layer), Some(partials)) => {
                let gates = layer.push(planner, deep, partials)?;
                planner.scratch.give_back(partials.span);
                Some(gates)
            }
            _ => None,
        };
        if let Some(x) = residual
            && x.size != deep.size
        {
            bail!("a block whose input is added to its output must keep its shape")
        }
        let out = planner.dense(deep, &self.project, Activation::None, (gates, residual))?;
        let read = [Some(deep.span), gates, residual.map(|x| x.span)];
        for span in read.into_iter().flatten() {
            planner.scratch.give_back(span);
        }
        Ok(out)
    }
}
