//! The post-LN transformer encoder of BERT (Devlin et al., <https://arxiv.org/abs/1810.04805>) and DistilBERT, which
//! share everything but the names of their tensors.
//!
//! Token types are all 0 here: both are used on single texts, so that the vector of type 0 is added to every
//! position's once, when the weights are loaded.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{
    attention::attention,
    embeddings::embed,
    linear::{Activation, Linear, Weight},
    norm::residual_layer_norm,
    packed::Packed,
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
    layers: &'static str,
    qkv: [&'static str; 3],
    attention_output: &'static str,
    attention_norm: &'static str,
    intermediate: &'static str,
    output: &'static str,
    output_norm: &'static str,
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
#[derive(Clone, Debug)]
pub struct Encoder {
    words: Tensor,
    positions: Tensor,
    embedding_norm: Tensor,
    layers: Vec<Layer>,
    heads: usize,
    eps: f32,
}

#[derive(Clone, Debug)]
struct Layer {
    qkv: Linear,
    attention_output: Weight,
    /// The bias of `attention_output`, then the weight and bias of the LayerNorm that follows.
    attention_end: Tensor,
    intermediate: Linear,
    output: Weight,
    /// The same for `output`.
    end: Tensor,
}

impl Encoder {
    /// Reads the weights under `vb`, whose prefix is the model's own (`bert`, `distilbert`).
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or `hidden` is not a multiple of `heads`.
    pub fn load(config: &EncoderConfig, names: &TensorNames, vb: &VarBuilder) -> Result<Self> {
        let hidden = config.hidden;
        if config.heads == 0 || !hidden.is_multiple_of(config.heads) {
            bail!(
                "expected a hidden size that is a multiple of {} heads, got {hidden}",
                config.heads
            )
        }
        let embeddings = vb.pp("embeddings");
        let table = |name: &str, rows| embeddings.pp(name).get((rows, hidden), "weight");
        let mut positions = table("position_embeddings", config.max_positions)?;
        if config.token_types > 0 {
            let types = table("token_type_embeddings", config.token_types)?;
            positions = positions.broadcast_add(&types.get(0)?)?;
        }
        let (weight, bias) = layer_norm(&embeddings.pp("LayerNorm"), hidden)?;
        let layers = vb.pp(names.layers);
        Ok(Self {
            words: table("word_embeddings", config.vocabulary)?,
            positions,
            embedding_norm: Tensor::stack(&[weight, bias], 0)?,
            layers: (0..config.layers)
                .map(|i| Layer::load(config, names, &layers.pp(i)))
                .collect::<Result<_>>()?,
            heads: config.heads,
            eps: config.layer_norm_eps,
        })
    }

    /// The last layer's output for each token, `[tokens, hidden]`.
    ///
    /// # Errors
    /// An id is outside the vocabulary or a sequence too long, or the device failed.
    pub fn forward(&self, batch: &Packed) -> Result<Tensor> {
        let mut x = embed(
            &self.words,
            &self.positions,
            &self.embedding_norm,
            batch,
            self.eps,
        )?;
        if batch.ids().is_empty() {
            return Ok(x);
        }
        for layer in &self.layers {
            x = layer.forward(&x, batch, self.heads, self.eps)?;
        }
        Ok(x)
    }
}

impl Layer {
    fn load(config: &EncoderConfig, names: &TensorNames, vb: &VarBuilder) -> Result<Self> {
        let (hidden, wide) = (config.hidden, config.intermediate);
        let parts = names
            .qkv
            .map(|name| weight_and_bias(&vb.pp(name), hidden, hidden));
        let [q, k, v] = parts;
        let ((q, q_bias), (k, k_bias), (v, v_bias)) = (q?, k?, v?);
        let qkv = Linear::new(
            &Tensor::cat(&[q, k, v], 0)?,
            Tensor::cat(&[q_bias, k_bias, v_bias], 0)?,
        )?;
        let end = |bias: Tensor, norm: &str| {
            let (weight, norm_bias) = layer_norm(&vb.pp(norm), hidden)?;
            Tensor::stack(&[bias, weight, norm_bias], 0)
        };
        let (attention, attention_bias) =
            weight_and_bias(&vb.pp(names.attention_output), hidden, hidden)?;
        let (intermediate, intermediate_bias) =
            weight_and_bias(&vb.pp(names.intermediate), hidden, wide)?;
        let (output, output_bias) = weight_and_bias(&vb.pp(names.output), wide, hidden)?;
        Ok(Self {
            qkv,
            attention_output: Weight::new(&attention)?,
            attention_end: end(attention_bias, names.attention_norm)?,
            intermediate: Linear::new(&intermediate, intermediate_bias)?,
            output: Weight::new(&output)?,
            end: end(output_bias, names.output_norm)?,
        })
    }

    fn forward(&self, x: &Tensor, batch: &Packed, heads: usize, eps: f32) -> Result<Tensor> {
        let qkv = self.qkv.forward(x, Activation::Identity)?;
        let context = attention(&qkv, batch.offsets(), heads)?;
        let attended = self.attention_output.forward(&context)?;
        residual_layer_norm(&attended, x, &self.attention_end, eps)?;
        let wide = self.intermediate.forward(&attended, Activation::Gelu)?;
        let output = self.output.forward(&wide)?;
        residual_layer_norm(&output, &attended, &self.end, eps)?;
        Ok(output)
    }
}

fn weight_and_bias(vb: &VarBuilder, input: usize, output: usize) -> Result<(Tensor, Tensor)> {
    Ok((vb.get((output, input), "weight")?, vb.get(output, "bias")?))
}

/// LayerNorm's weight and bias, which files converted from TensorFlow call gamma and beta.
fn layer_norm(vb: &VarBuilder, size: usize) -> Result<(Tensor, Tensor)> {
    let old = !vb.contains_tensor("weight") && vb.contains_tensor("gamma");
    let (weight, bias) = if old {
        ("gamma", "beta")
    } else {
        ("weight", "bias")
    };
    Ok((vb.get(size, weight)?, vb.get(size, bias)?))
}
