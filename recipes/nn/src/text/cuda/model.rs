//! A transformer's weights as the kernels read them.

use candle_core::{Result, bail};
use candle_nn::VarBuilder;

use crate::{
    activation::Activation,
    cuda::{Element, Span, Weights},
    matmul::cuda::Dense,
    text::{
        Head, HeadLayer, Norm, Pooling, TensorNames, TransformerConfig,
        config::{LayerTensors, Tensors, WeightAndBias},
    },
};

/// The widest rows that the kernels of rows hold in registers.
const MOST_FEATURES: usize = 1792;
/// The most features of a head that attention has room for.
const MOST_HEAD_FEATURES: usize = 128;
/// The most labels that the kernel of the last layer writes, and the most features that it reads.
const MOST_LABELS: usize = 64;
const MOST_LABELLED_FEATURES: usize = 1024;
/// Labels of a wider last layer come in multiples of this, as products' outputs do.
const LABELS: usize = 8;

/// Where everything is among the weights, and the sizes.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) vocabulary: usize,
    pub(super) max_positions: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) heads: usize,
    pub(super) eps: f32,
    pub(super) norm: Norm,
    pub(super) causal: bool,
    pub(super) activation: Activation,
    /// `[vocabulary, hidden]`.
    pub(super) words: Span,
    /// `[max_positions, hidden]`, with the vector of token type 0 added to each.
    pub(super) positions: Span,
    pub(super) first_norm: LayerNorm,
    pub(super) layers: Vec<Layer>,
    pub(super) pooling: Pooling,
    /// The head's layers but the last.
    pub(super) head: Vec<(Dense, Activation)>,
    pub(super) last: Last,
    /// Values of a row that come out.
    pub(super) outputs: usize,
}

/// LayerNorm's parameters, f32.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerNorm {
    pub(super) weight: Span,
    pub(super) bias: Span,
}

#[derive(Debug)]
pub(super) struct Layer {
    /// Queries of all heads, then keys, then values.
    pub(super) qkv: Dense,
    pub(super) attention_output: Dense,
    pub(super) attention_norm: LayerNorm,
    pub(super) intermediate: Dense,
    pub(super) output: Dense,
    pub(super) output_norm: LayerNorm,
}

/// What gives a row of the output.
#[derive(Debug)]
pub(super) enum Last {
    /// The last transformer layer itself: features in the element.
    Features,
    /// For few labels: logits in f32.
    Narrow { weight: Span, bias: Span },
    /// For many: a product like others, whose logits are rounded to the element, with outputs of zeros up to a multiple
    /// of [`LABELS`].
    Wide(Dense),
}

impl Model {
    /// Lays the weights out; those of all but the head are under `vb`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or a size is one that the kernels do not have.
    pub(super) fn load(
        config: &TransformerConfig,
        names: &TensorNames,
        head: &Head,
        vb: &VarBuilder,
        weights: &mut Weights,
    ) -> Result<Self> {
        let hidden = config.hidden;
        let head_features = config.head_features()?;
        if hidden > MOST_FEATURES || !hidden.is_multiple_of(8) {
            bail!(
                "on CUDA: expected a hidden size that is a multiple of 8 and at most {MOST_FEATURES}, got {hidden}"
            )
        }
        if head_features > MOST_HEAD_FEATURES {
            bail!(
                "on CUDA: expected heads of at most {MOST_HEAD_FEATURES} features, got {head_features}"
            )
        }
        // Logits come out as they are; what has an activation is a layer before them.
        let (before, last) = match head.layers.split_last() {
            Some((last, before)) if last.activation == Activation::None => (before, Some(last)),
            _ => (&head.layers[..], None),
        };
        if last.is_none() && !before.is_empty() {
            bail!("on CUDA: expected a head whose last layer has no activation")
        }
        let mut head_layers = Vec::new();
        for layer in before {
            let dense = Dense::new(weights, &layer.weight, &layer.bias)?;
            if dense.outputs() > hidden {
                bail!(
                    "on CUDA: expected a head of at most {hidden} features, got {}",
                    dense.outputs()
                )
            }
            head_layers.push((dense, layer.activation));
        }
        let tensors = Tensors { config, names, vb };
        Ok(Self {
            vocabulary: config.vocabulary,
            max_positions: config.max_positions,
            hidden,
            intermediate: config.intermediate,
            heads: config.heads,
            eps: config.layer_norm_eps,
            norm: config.norm,
            causal: config.causal,
            activation: config.activation,
            words: weights.tensor(&tensors.words()?)?,
            positions: weights.tensor(&tensors.positions()?)?,
            first_norm: LayerNorm::new(&tensors.first_norm()?, weights)?,
            layers: (0..config.layers)
                .map(|i| Layer::new(&tensors.layer(i)?, weights))
                .collect::<Result<_>>()?,
            pooling: head.pooling,
            head: head_layers,
            last: last.map_or(Ok(Last::Features), |last| Last::new(last, weights))?,
            outputs: last.map_or(Ok(hidden), |last| last.weight.dim(0))?,
        })
    }

    /// Features of an attention head.
    pub(super) fn head_features(&self) -> usize {
        self.hidden / self.heads
    }

    /// Whether attention computes on the matrix units, where short sequences share tiles.
    pub(super) fn shares_tiles(&self, element: Element) -> bool {
        element == Element::F16 && matches!(self.head_features(), 32 | 64)
    }
}

impl LayerNorm {
    fn new((weight, bias): &WeightAndBias, weights: &mut Weights) -> Result<Self> {
        Ok(Self {
            weight: weights.float_tensor(weight)?,
            bias: weights.float_tensor(bias)?,
        })
    }
}

impl Layer {
    fn new(tensors: &LayerTensors, weights: &mut Weights) -> Result<Self> {
        let mut dense = |(weight, bias): &WeightAndBias| Dense::new(weights, weight, bias);
        Ok(Self {
            qkv: dense(&tensors.qkv)?,
            attention_output: dense(&tensors.attention_output)?,
            intermediate: dense(&tensors.intermediate)?,
            output: dense(&tensors.output)?,
            attention_norm: LayerNorm::new(&tensors.attention_norm, weights)?,
            output_norm: LayerNorm::new(&tensors.output_norm, weights)?,
        })
    }
}

impl Last {
    fn new(layer: &HeadLayer, weights: &mut Weights) -> Result<Self> {
        let (labels, inputs) = layer.weight.dims2()?;
        if labels <= MOST_LABELS && inputs <= MOST_LABELLED_FEATURES {
            if !inputs.is_multiple_of(8) {
                bail!("on CUDA: expected a last layer of a multiple of 8 inputs, got {inputs}")
            }
            return Ok(Self::Narrow {
                weight: weights.tensor(&layer.weight)?,
                bias: weights.float_tensor(&layer.bias)?,
            });
        }
        let zeros = labels.next_multiple_of(LABELS) - labels;
        let weight = layer.weight.pad_with_zeros(0, 0, zeros)?;
        let bias = layer.bias.pad_with_zeros(0, 0, zeros)?;
        Dense::new(weights, &weight, &bias).map(Self::Wide)
    }
}
