//! A [`Spec`] filled with weights.

use candle_core::Result;
use candle_nn::VarBuilder;
use galley_nn::image::{BatchNorm, Bottleneck, Convolution, Layers, Window};

use crate::{
    names::{Naming, Place},
    spec::{Spec, Stage},
};

/// Reads the weights by the names of `naming`, and folds every BatchNorm.
pub(crate) fn layers(
    spec: &Spec,
    naming: &Naming,
    classes: usize,
    weights: &VarBuilder<'_>,
) -> Result<Layers> {
    let reader = Reader {
        spec,
        naming,
        weights,
    };
    let mut blocks = Vec::new();
    let mut channels = spec.stem;
    for (stage, shape) in spec.stages.iter().enumerate() {
        for repeat in 0..shape.repeats {
            let place = Place {
                stage,
                repeat,
                index: blocks.len(),
            };
            let stride = if repeat == 0 { shape.stride } else { 1 };
            blocks.push(reader.block(place, Stage { stride, ..*shape }, channels)?);
            channels = shape.out;
        }
    }
    Ok(Layers {
        colours: spec.colours,
        stem: reader.folded("", naming.stem, &[spec.stem, 3, 3, 3])?,
        stem_padding: spec.edition.padding(3),
        blocks,
        head: reader.folded("", naming.head, &[spec.head, channels, 1, 1])?,
        classifier: reader.plain("", naming.classifier, &[classes, spec.head])?,
        activation: spec.activation,
    })
}

/// Reads layers out of a weight file.
struct Reader<'a> {
    spec: &'a Spec,
    naming: &'a Naming,
    weights: &'a VarBuilder<'a>,
}

impl Reader<'_> {
    /// A block of a stage, with the stride of its own and `cin` channels in.
    fn block(&self, place: Place, stage: Stage, cin: usize) -> Result<Bottleneck> {
        let Stage {
            kernel,
            stride,
            out,
            ..
        } = stage;
        let wide = cin * stage.expand;
        let expands = stage.expand != 1;
        let (prefix, names) = (self.naming.prefix(place), self.naming.block(expands));
        let expand = if expands {
            Some(self.folded(&prefix, names.expand, &[wide, cin, 1, 1])?)
        } else {
            None
        };
        let squeeze_excite = if self.spec.squeeze_excite {
            let squeezed = (cin / 4).max(1);
            let [reduce, expand] = names.squeeze;
            Some([
                self.plain(&prefix, reduce, &[squeezed, wide, 1, 1])?,
                self.plain(&prefix, expand, &[wide, squeezed, 1, 1])?,
            ])
        } else {
            None
        };
        Ok(Bottleneck {
            expand,
            depthwise: self.folded(&prefix, names.depthwise, &[wide, 1, kernel, kernel])?,
            window: Window {
                stride,
                padding: self.spec.edition.padding(kernel),
            },
            squeeze_excite,
            project: self.folded(&prefix, names.project, &[out, wide, 1, 1])?,
            residual: stride == 1 && cin == out,
        })
    }

    /// A convolution with the BatchNorm after it.
    fn folded(&self, prefix: &str, names: [&str; 2], shape: &[usize]) -> Result<Convolution> {
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
            eps: self.spec.eps,
        }
        .fold(&weight)
    }

    /// A weight with a bias of its own.
    fn plain(&self, prefix: &str, name: &str, shape: &[usize]) -> Result<Convolution> {
        Ok(Convolution {
            weight: self.weights.get(shape, &format!("{prefix}{name}.weight"))?,
            bias: self
                .weights
                .get(shape[0], &format!("{prefix}{name}.bias"))?,
        })
    }
}
