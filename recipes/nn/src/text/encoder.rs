//! The post-LN transformer encoder of BERT (Devlin et al., <https://arxiv.org/abs/1810.04805>) and DistilBERT, which
//! share everything but the names of their tensors.
//!
//! Token types are all 0 here: both are used on single texts, so that the vector of type 0 is added to every
//! position's once, when the weights are loaded.

use candle_core::{Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{
    embeddings::Embeddings,
    layer::{Layer, Tokens, Workspace},
    packed::Packed,
};
use crate::{
    simd::{Level, Precision},
    workspace::Workspaces,
};

/// The sizes of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// The most tokens of a sequence.
    pub max_positions: usize,
    /// Token types, of which type 0 is used; 0 where the model has none.
    pub token_types: usize,
    /// Features of a token.
    pub hidden: usize,
    /// Features between the two halves of a feed-forward block.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads of a layer.
    pub heads: usize,
    /// LayerNorm's epsilon.
    pub layer_norm_eps: f32,
}

/// The names of a layer's tensors, relative to the encoder's own prefix.
#[derive(Clone, Copy, Debug)]
pub struct TensorNames {
    /// What comes before a layer's number: `encoder.layer`.
    pub(super) layers: &'static str,
    pub(super) qkv: [&'static str; 3],
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) intermediate: &'static str,
    pub(super) output: &'static str,
    pub(super) output_norm: &'static str,
}

impl TensorNames {
    /// As transformers' `BertModel` calls them.
    pub const BERT: Self = Self {
        layers: "encoder.layer",
        qkv: [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
        ],
        attention_output: "attention.output.dense",
        attention_norm: "attention.output.LayerNorm",
        intermediate: "intermediate.dense",
        output: "output.dense",
        output_norm: "output.LayerNorm",
    };

    /// As transformers' `DistilBertModel` calls them.
    pub const DISTILBERT: Self = Self {
        layers: "transformer.layer",
        qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
        attention_output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        intermediate: "ffn.lin1",
        output: "ffn.lin2",
        output_norm: "output_layer_norm",
    };
}

/// An encoder with its weights.
#[derive(Debug)]
pub struct Encoder {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    heads: usize,
    hidden: usize,
    workspaces: Workspaces<Workspace>,
}

impl Encoder {
    /// Reads the weights under `vb`, whose prefix is the model's own (`bert`, `distilbert`), and packs them for products
    /// of this precision.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or `hidden` is not a multiple of `heads`.
    pub fn load(
        config: &EncoderConfig,
        names: &TensorNames,
        precision: Precision,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let hidden = config.hidden;
        if config.heads == 0 || !hidden.is_multiple_of(config.heads) {
            bail!(
                "expected a hidden size that is a multiple of {} heads, got {hidden}",
                config.heads
            )
        }
        let layers = vb.pp(names.layers);
        Ok(Self {
            embeddings: Embeddings::load(config, &vb.pp("embeddings"))?,
            layers: (0..config.layers)
                .map(|i| Layer::load(config, names, precision, &layers.pp(i)))
                .collect::<Result<_>>()?,
            heads: config.heads,
            hidden,
            workspaces: Workspaces::default(),
        })
    }

    /// The last layer's output for each token, `[tokens, hidden]`.
    ///
    /// # Errors
    /// An id is outside the vocabulary or a sequence too long.
    pub fn forward(&self, batch: &Packed) -> Result<Tensor> {
        self.run(batch, batch.ids().len(), Layer::forward)
    }

    /// The last layer's output for the first token of each sequence, `[sequences, hidden]`; each has one.
    ///
    /// # Errors
    /// As [`Self::forward`], or a sequence is empty.
    pub fn forward_first(&self, batch: &Packed) -> Result<Tensor> {
        batch.check_first()?;
        self.run(batch, batch.lengths().count(), Layer::forward_first)
    }

    /// Runs all layers, the last one by `last`, which leaves so many rows.
    fn run(
        &self,
        batch: &Packed,
        rows: usize,
        last: fn(&Layer, Level, Tokens<'_>, &mut Workspace),
    ) -> Result<Tensor> {
        let level = Level::detect();
        let tokens = Tokens {
            offsets: batch.offsets(),
            heads: self.heads,
        };
        self.workspaces.with(|workspace| {
            let x = workspace.x.at_least(batch.ids().len() * self.hidden);
            self.embeddings.run(level, batch, x)?;
            if let Some((end, layers)) = self.layers.split_last() {
                for layer in layers {
                    layer.forward(level, tokens, workspace);
                }
                last(end, level, tokens, workspace);
            }
            let x = workspace.x.as_slice()[..rows * self.hidden].to_vec();
            Tensor::from_vec(x, (rows, self.hidden), &Device::Cpu)
        })
    }
}

/// LayerNorm's weight and bias, which files converted from TensorFlow call gamma and beta.
pub(super) fn layer_norm(vb: &VarBuilder, size: usize) -> Result<(Tensor, Tensor)> {
    let old = !vb.contains_tensor("weight") && vb.contains_tensor("gamma");
    let (weight, bias) = if old {
        ("gamma", "beta")
    } else {
        ("weight", "bias")
    };
    Ok((vb.get(size, weight)?, vb.get(size, bias)?))
}
