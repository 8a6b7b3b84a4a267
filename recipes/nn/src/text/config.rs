//! What a transformer is: its sizes, its variant, and how files call its tensors.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use crate::activation::Activation;

/// A transformer without its head.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerConfig {
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
    /// Where LayerNorms stand.
    pub norm: Norm,
    /// Whether a token attends to none after it.
    pub causal: bool,
    /// What follows the first half of a feed-forward block.
    pub activation: Activation,
}

/// Where the LayerNorms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Before each block, whose input is added to its output as it came, and once after all layers, as in GPT-2.
    Pre,
    /// After the embeddings and each block, whose input is added before, as in BERT.
    Post,
}

impl TransformerConfig {
    /// Multiplications, each with an addition, that the layers' matrices and attention take for a sequence of so many tokens; the
    /// head is not counted. Where attention is causal, pairs of a token and a later one are none.
    pub fn multiply_adds(&self, tokens: usize) -> u64 {
        let pairs = match self.causal {
            true => tokens * (tokens + 1) / 2,
            false => tokens * tokens,
        };
        let matrices = 4 * self.hidden * self.hidden + 2 * self.hidden * self.intermediate;
        (self.layers * (tokens * matrices + 2 * pairs * self.hidden)) as u64
    }

    /// Features of an attention head.
    ///
    /// # Errors
    /// `hidden` is not a multiple of `heads`.
    pub(super) fn head_features(&self) -> Result<usize> {
        let Self { hidden, heads, .. } = *self;
        if heads == 0 || !hidden.is_multiple_of(heads) {
            bail!("expected a hidden size that is a multiple of {heads} heads, got {hidden}")
        }
        Ok(hidden / heads)
    }
}

/// The names of a transformer's tensors, relative to its own prefix; those below `layers` are a layer's.
#[derive(Clone, Copy, Debug)]
pub struct TensorNames {
    pub(super) words: &'static str,
    pub(super) positions: &'static str,
    pub(super) types: &'static str,
    /// The LayerNorm that belongs to no layer.
    norm: &'static str,
    /// What comes before a layer's number: `encoder.layer`.
    pub(super) layers: &'static str,
    /// Queries, keys and values, in one tensor or in three.
    pub(super) qkv: &'static [&'static str],
    pub(super) attention_output: &'static str,
    attention_norm: &'static str,
    pub(super) intermediate: &'static str,
    pub(super) output: &'static str,
    output_norm: &'static str,
    /// Whether weights are `[inputs, outputs]`, as those of transformers' `Conv1D`.
    pub(super) inputs_first: bool,
    /// The id of padding, whose vector transformers does not train.
    pub(super) padding: Option<usize>,
}

impl TensorNames {
    /// As transformers' `BertModel` calls them.
    pub const BERT: Self = Self {
        words: "embeddings.word_embeddings",
        positions: "embeddings.position_embeddings",
        types: "embeddings.token_type_embeddings",
        norm: "embeddings.LayerNorm",
        layers: "encoder.layer",
        qkv: &[
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
        ],
        attention_output: "attention.output.dense",
        attention_norm: "attention.output.LayerNorm",
        intermediate: "intermediate.dense",
        output: "output.dense",
        output_norm: "output.LayerNorm",
        inputs_first: false,
        padding: Some(0),
    };

    /// As transformers' `DistilBertModel` calls them.
    pub const DISTILBERT: Self = Self {
        layers: "transformer.layer",
        qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
        attention_output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        intermediate: "ffn.lin1",
        output: "ffn.lin2",
        output_norm: "output_layer_norm",
        ..Self::BERT
    };

    /// As transformers' `GPT2Model` calls them.
    pub const GPT2: Self = Self {
        words: "wte",
        positions: "wpe",
        types: "",
        norm: "ln_f",
        layers: "h",
        qkv: &["attn.c_attn"],
        attention_output: "attn.c_proj",
        attention_norm: "ln_1",
        intermediate: "mlp.c_fc",
        output: "mlp.c_proj",
        output_norm: "ln_2",
        inputs_first: true,
        padding: None,
    };

    /// One of the LayerNorms in the order in which a pass meets them: the first after the embeddings, then two a layer, each
    /// after a block. That is also how they stand in a model where each belongs to the block after it.
    pub(super) fn norm(&self, config: &TransformerConfig, index: usize) -> String {
        let index = match config.norm {
            Norm::Post => index.checked_sub(1),
            Norm::Pre => Some(index).filter(|&index| index < 2 * config.layers),
        };
        match index {
            None => self.norm.into(),
            Some(index) => {
                let own = [self.attention_norm, self.output_norm][index % 2];
                format!("{}.{}.{own}", self.layers, index / 2)
            }
        }
    }
}

/// The tensors of a transformer, read one by one as a device lays them out.
pub(super) struct Tensors<'a> {
    pub(super) config: &'a TransformerConfig,
    pub(super) names: &'a TensorNames,
    pub(super) vb: &'a VarBuilder<'a>,
}

/// A weight `[outputs, inputs]` and its bias `[outputs]`.
pub(super) type WeightAndBias = (Tensor, Tensor);

/// The tensors of a layer.
pub(super) struct LayerTensors {
    /// Queries of all heads, then keys, then values.
    pub(super) qkv: WeightAndBias,
    pub(super) attention_output: WeightAndBias,
    /// The LayerNorm between the two blocks.
    pub(super) attention_norm: WeightAndBias,
    pub(super) intermediate: WeightAndBias,
    pub(super) output: WeightAndBias,
    /// The LayerNorm between the second block and what follows.
    pub(super) output_norm: WeightAndBias,
}

impl Tensors<'_> {
    /// The vectors of words, `[vocabulary, hidden]`.
    pub(super) fn words(&self) -> Result<Tensor> {
        self.table(self.names.words, self.config.vocabulary)
    }

    /// The vectors of positions, `[max_positions, hidden]`, with that of token type 0 added to each: single texts have no
    /// other type.
    pub(super) fn positions(&self) -> Result<Tensor> {
        let positions = self.table(self.names.positions, self.config.max_positions)?;
        match self.config.token_types {
            0 => Ok(positions),
            types => positions.broadcast_add(&self.table(self.names.types, types)?.get(0)?),
        }
    }

    fn table(&self, name: &str, rows: usize) -> Result<Tensor> {
        let shape = (rows, self.config.hidden);
        self.vb.pp(name).get(shape, "weight")
    }

    /// The LayerNorm between embeddings and layers.
    pub(super) fn first_norm(&self) -> Result<WeightAndBias> {
        self.norm(0)
    }

    pub(super) fn layer(&self, index: usize) -> Result<LayerTensors> {
        let (hidden, wide) = (self.config.hidden, self.config.intermediate);
        let layer = self.vb.pp(self.names.layers).pp(index);
        let linear = |name: &str, inputs, outputs| self.linear(&layer.pp(name), inputs, outputs);
        let parts = self.names.qkv;
        let (weights, biases): (Vec<_>, Vec<_>) = parts
            .iter()
            .map(|name| linear(name, hidden, 3 * hidden / parts.len()))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        Ok(LayerTensors {
            qkv: (Tensor::cat(&weights, 0)?, Tensor::cat(&biases, 0)?),
            attention_output: linear(self.names.attention_output, hidden, hidden)?,
            attention_norm: self.norm(2 * index + 1)?,
            intermediate: linear(self.names.intermediate, hidden, wide)?,
            output: linear(self.names.output, wide, hidden)?,
            output_norm: self.norm(2 * index + 2)?,
        })
    }

    fn linear(&self, vb: &VarBuilder, inputs: usize, outputs: usize) -> Result<WeightAndBias> {
        let weight = match self.names.inputs_first {
            true => vb.get((inputs, outputs), "weight")?.t()?.contiguous()?,
            false => vb.get((outputs, inputs), "weight")?,
        };
        Ok((weight, vb.get(outputs, "bias")?))
    }

    /// One of [`TensorNames::norm`].
    fn norm(&self, index: usize) -> Result<WeightAndBias> {
        let vb = self.vb.pp(self.names.norm(self.config, index));
        // Files converted from TensorFlow call them gamma and beta.
        let old = !vb.contains_tensor("weight") && vb.contains_tensor("gamma");
        let (weight, bias) = if old {
            ("gamma", "beta")
        } else {
            ("weight", "bias")
        };
        let hidden = self.config.hidden;
        Ok((vb.get(hidden, weight)?, vb.get(hidden, bias)?))
    }
}
