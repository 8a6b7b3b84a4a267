//! An encoder's weights as the kernels read them.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use crate::{
    activation::Activation,
    cuda::{Element, Span, Weights},
    matmul::cuda::Dense,
    text::{
        EncoderConfig, TensorNames,
        classifier::{Head, HeadLayer, Pooling},
        embeddings,
        encoder::layer_norm,
        layer::weight_and_bias,
    },
};

/// The widest rows that the kernels of rows hold in registers.
const MOST_FEATURES: usize = 1024;
/// The most features of a head that attention has room for.
const MOST_HEAD_FEATURES: usize = 128;
/// The most labels that the kernel of the last layer writes.
const MOST_LABELS: usize = 64;
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
    /// `[vocabulary, hidden]`.
    pub(super) words: Span,
    /// `[max_positions, hidden]`, with the vector of token type 0 added to each.
    pub(super) positions: Span,
    pub(super) norm: Norm,
    pub(super) layers: Vec<Layer>,
    pub(super) pooling: Pooling,
    /// The head's layers but the last.
    pub(super) head: Vec<(Dense, Activation)>,
    pub(super) last: Last,
    pub(super) labels: usize,
}

/// LayerNorm's parameters, f32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub(super) weight: Span,
    pub(super) bias: Span,
}

#[derive(Debug)]
pub(super) struct Layer {
    /// Queries of all heads, then keys, then values.
    pub(super) qkv: Dense,
    pub(super) attention_output: Dense,
    pub(super) attention_norm: Norm,
    pub(super) intermediate: Dense,
    pub(super) output: Dense,
    pub(super) output_norm: Norm,
}

/// The layer that gives the logits.
#[derive(Debug)]
pub(super) enum Last {
    /// For few labels: logits in f32.
    Narrow { weight: Span, bias: Span },
    /// For many: a product like others, whose logits are rounded to the element, with outputs of zeros up to a multiple
    /// of [`LABELS`].
    Wide(Dense),
}

impl Model {
    /// Lays the weights out; those of the encoder are under `vb`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or a size is one that the kernels do not have.
    pub(super) fn load(
        config: &EncoderConfig,
        names: &TensorNames,
        head: &Head,
        vb: &VarBuilder,
        weights: &mut Weights,
    ) -> Result<Self> {
        let hidden = config.hidden;
        if config.heads == 0 || !hidden.is_multiple_of(config.heads) {
            bail!(
                "expected a hidden size that is a multiple of {} heads, got {hidden}",
                config.heads
            )
        }
        if hidden > MOST_FEATURES || !hidden.is_multiple_of(8) {
            bail!(
                "on CUDA: expected a hidden size that is a multiple of 8 and at most {MOST_FEATURES}, got {hidden}"
            )
        }
        if hidden / config.heads > MOST_HEAD_FEATURES {
            bail!(
                "on CUDA: expected heads of at most {MOST_HEAD_FEATURES} features, got {}",
                hidden / config.heads
            )
        }
        let Some((last, before)) = head.layers.split_last() else {
            bail!("head: expected at least one layer")
        };
        if last.activation != Activation::None {
            bail!(
                "head: expected logits as they are, got {:?}",
                last.activation
            )
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
        let embeddings = vb.pp("embeddings");
        let (words, positions) = embeddings::tables(config, &embeddings)?;
        let layers = vb.pp(names.layers);
        Ok(Self {
            vocabulary: config.vocabulary,
            max_positions: config.max_positions,
            hidden,
            intermediate: config.intermediate,
            heads: config.heads,
            eps: config.layer_norm_eps,
            words: weights.tensor(&words)?,
            positions: weights.tensor(&positions)?,
            norm: Norm::load(&embeddings.pp("LayerNorm"), hidden, weights)?,
            layers: (0..config.layers)
                .map(|i| Layer::load(config, names, &layers.pp(i), weights))
                .collect::<Result<_>>()?,
            pooling: head.pooling,
            head: head_layers,
            last: Last::load(last, weights)?,
            labels: last.weight.dim(0)?,
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

impl Norm {
    fn load(vb: &VarBuilder, hidden: usize, weights: &mut Weights) -> Result<Self> {
        let (weight, bias) = layer_norm(vb, hidden)?;
        Ok(Self {
            weight: weights.float_tensor(&weight)?,
            bias: weights.float_tensor(&bias)?,
        })
    }
}

impl Layer {
    fn load(
        config: &EncoderConfig,
        names: &TensorNames,
        vb: &VarBuilder,
        weights: &mut Weights,
    ) -> Result<Self> {
        let (hidden, wide) = (config.hidden, config.intermediate);
        let [q, k, v] = names
            .qkv
            .map(|name| weight_and_bias(&vb.pp(name), hidden, hidden));
        let ((q, q_bias), (k, k_bias), (v, v_bias)) = (q?, k?, v?);
        let qkv = Tensor::cat(&[q, k, v], 0)?;
        let qkv_bias = Tensor::cat(&[q_bias, k_bias, v_bias], 0)?;
        let dense = |weights: &mut Weights, name: &str, inputs, outputs| {
            let (weight, bias) = weight_and_bias(&vb.pp(name), inputs, outputs)?;
            Dense::new(weights, &weight, &bias)
        };
        Ok(Self {
            qkv: Dense::new(weights, &qkv, &qkv_bias)?,
            attention_output: dense(weights, names.attention_output, hidden, hidden)?,
            attention_norm: Norm::load(&vb.pp(names.attention_norm), hidden, weights)?,
            intermediate: dense(weights, names.intermediate, hidden, wide)?,
            output: dense(weights, names.output, wide, hidden)?,
            output_norm: Norm::load(&vb.pp(names.output_norm), hidden, weights)?,
        })
    }
}

impl Last {
    fn load(layer: &HeadLayer, weights: &mut Weights) -> Result<Self> {
        let (labels, inputs) = layer.weight.dims2()?;
        if labels <= MOST_LABELS {
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
