//! The network: a [`Spec`] filled with weights.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use galley_nn::image::{
    Activation, BatchNorm, Depthwise, Extras, Pointwise, SqueezeExcite, Stem, Window,
    global_average_pool,
};

use crate::{
    names::{Naming, Place},
    spec::{Spec, Stage},
};

/// An EfficientNet, ready to run.
pub(crate) struct Network {
    stem: Stem,
    blocks: Vec<Block>,
    head: Pointwise,
    classifier: Pointwise,
}

impl Network {
    /// Reads the weights by the names of `naming`, and folds every BatchNorm.
    pub(crate) fn load(
        spec: &Spec,
        naming: &Naming,
        classes: usize,
        weights: &VarBuilder<'_>,
    ) -> Result<Self> {
        let reader = Reader {
            weights,
            eps: spec.eps,
        };
        let (weight, bias) = reader.folded("", naming.stem, &[spec.stem, 3, 3, 3])?;
        let stem = Stem::new(&weight, &bias, spec.edition.padding(3), spec.activation)?;
        let mut blocks = Vec::new();
        let mut channels = spec.stem;
        for (stage, shape) in spec.stages.iter().enumerate() {
            for repeat in 0..shape.repeats {
                let place = Place {
                    stage,
                    repeat,
                    index: blocks.len(),
                };
                let block = BlockSpec {
                    spec,
                    stage: *shape,
                    cin: channels,
                    stride: if repeat == 0 { shape.stride } else { 1 },
                };
                blocks.push(block.load(&reader, naming, place)?);
                channels = shape.out;
            }
        }
        let head = reader.pointwise("", naming.head, (channels, spec.head), spec.activation)?;
        let (weight, bias) = reader.linear("", naming.classifier, &[classes, spec.head])?;
        let classifier = Pointwise::new(&weight, &bias, Activation::None)?;
        Ok(Self {
            stem,
            blocks,
            head,
            classifier,
        })
    }

    /// Normalised pixels `[n, h, w, 3]` -> logits `[n, classes]`.
    pub(crate) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.stem.forward(pixels)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let features = global_average_pool(&self.head.forward(&x)?)?;
        self.classifier.forward(&features)
    }
}

/// An inverted bottleneck: expand, depthwise, squeeze-excite, project.
struct Block {
    expand: Option<Pointwise>,
    depthwise: Depthwise,
    squeeze_excite: Option<SqueezeExcite>,
    project: Pointwise,
    /// Whether its input is added to its output.
    residual: bool,
}

impl Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let expanded = match &self.expand {
            Some(expand) => expand.forward(x)?,
            None => x.clone(),
        };
        let (y, row_sums) = self.depthwise.forward_with_row_sums(&expanded)?;
        let gates = match &self.squeeze_excite {
            Some(layer) => Some(layer.gates(&row_sums, y.dim(1)? * y.dim(2)?)?),
            None => None,
        };
        let extras = Extras {
            gates: gates.as_ref(),
            residual: self.residual.then_some(x),
        };
        self.project.forward_with(&y, extras)
    }
}

struct BlockSpec<'a> {
    spec: &'a Spec,
    stage: Stage,
    cin: usize,
    stride: usize,
}

impl BlockSpec<'_> {
    fn load(&self, reader: &Reader<'_>, naming: &Naming, place: Place) -> Result<Block> {
        let Stage { kernel, out, .. } = self.stage;
        let wide = self.cin * self.stage.expand;
        let expands = self.stage.expand != 1;
        let (prefix, names) = (naming.prefix(place), naming.block(expands));
        let activation = self.spec.activation;
        let expand = if expands {
            Some(reader.pointwise(&prefix, names.expand, (self.cin, wide), activation)?)
        } else {
            None
        };
        let window = Window {
            stride: self.stride,
            padding: self.spec.edition.padding(kernel),
        };
        let (weight, bias) = reader.folded(&prefix, names.depthwise, &[wide, 1, kernel, kernel])?;
        let depthwise = Depthwise::new(&weight, &bias, window, activation)?;
        let squeeze_excite = if self.spec.squeeze_excite {
            let squeezed = (self.cin / 4).max(1);
            let [reduce, expand] = names.squeeze;
            let reduce = reader.linear(&prefix, reduce, &[squeezed, wide, 1, 1])?;
            let expand = reader.linear(&prefix, expand, &[wide, squeezed, 1, 1])?;
            Some(SqueezeExcite::new(
                (&reduce.0, &reduce.1),
                (&expand.0, &expand.1),
            )?)
        } else {
            None
        };
        let project = reader.pointwise(&prefix, names.project, (wide, out), Activation::None)?;
        Ok(Block {
            expand,
            depthwise,
            squeeze_excite,
            project,
            residual: self.stride == 1 && self.cin == out,
        })
    }
}

/// Reads layers out of a weight file.
struct Reader<'a> {
    weights: &'a VarBuilder<'a>,
    eps: f64,
}

impl Reader<'_> {
    /// A convolution with the BatchNorm after it, as one weight and bias.
    fn folded(&self, prefix: &str, names: [&str; 2], shape: &[usize]) -> Result<(Tensor, Tensor)> {
        let [convolution, norm] = names;
        let weight = self
            .weights
            .get(shape, &format!("{prefix}{convolution}.weight"))?;
        let vector = |part| {
            self.weights
                .get(shape[0], &format!("{prefix}{norm}.{part}"))
        };
        BatchNorm {
            scale: vector("weight")?,
            shift: vector("bias")?,
            mean: vector("running_mean")?,
            variance: vector("running_var")?,
            eps: self.eps,
        }
        .fold(&weight)
    }

    /// A 1x1 convolution from `cin` to `cout` channels with its BatchNorm.
    fn pointwise(
        &self,
        prefix: &str,
        names: [&str; 2],
        (cin, cout): (usize, usize),
        activation: Activation,
    ) -> Result<Pointwise> {
        let (weight, bias) = self.folded(prefix, names, &[cout, cin, 1, 1])?;
        Pointwise::new(&weight, &bias, activation)
    }

    /// A weight with a bias of its own.
    fn linear(&self, prefix: &str, name: &str, shape: &[usize]) -> Result<(Tensor, Tensor)> {
        Ok((
            self.weights.get(shape, &format!("{prefix}{name}.weight"))?,
            self.weights
                .get(shape[0], &format!("{prefix}{name}.bias"))?,
        ))
    }
}
