//! BERT's encoder as its paper has it, in candle's tensors: every sequence padded to the longest, and the padding masked.
//! Slow and plain, for the operators to be held against.

use candle_core::{D, Result, Tensor};
use candle_nn::{
    Embedding, LayerNorm, Linear, Module, VarBuilder, embedding, layer_norm, linear, ops::softmax,
};

use super::EncoderConfig;

pub(super) struct Reference {
    tables: [Embedding; 3],
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    heads: usize,
}

impl Reference {
    /// Reads the tensors that `BertModel` of transformers has.
    pub(super) fn load(config: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        let tables = [
            (config.vocabulary, "word_embeddings"),
            (config.max_positions, "position_embeddings"),
            (config.token_types, "token_type_embeddings"),
        ];
        let [words, positions, types] =
            tables.map(|(rows, name)| embedding(rows, config.hidden, vb.pp("embeddings").pp(name)));
        Ok(Self {
            tables: [words?, positions?, types?],
            norm: norm(config, vb.pp("embeddings.LayerNorm"))?,
            layers: (0..config.layers)
                .map(|layer| Layer::load(config, &vb.pp("encoder.layer").pp(layer)))
                .collect::<Result<_>>()?,
        })
    }

    /// `ids` and `mask` (1 for a token, 0 for padding) are `[batch, longest]`; gives `[batch, longest, hidden]`.
    pub(super) fn forward(&self, ids: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let [words, positions, types] = &self.tables;
        let places = Tensor::arange(0, ids.dim(1)? as u32, ids.device())?;
        let sum = words
            .forward(ids)?
            .broadcast_add(&positions.forward(&places)?)?;
        let sum = (sum + types.forward(&ids.zeros_like()?)?)?;
        let mut hidden = self.norm.forward(&sum)?;
        // A score this low has no weight beside any other.
        let penalty = mask.to_dtype(hidden.dtype())?.affine(1e9, -1e9)?;
        let penalty = penalty.unsqueeze(1)?.unsqueeze(1)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &penalty)?;
        }
        Ok(hidden)
    }
}

impl Layer {
    fn load(config: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        let (hidden, wide) = (config.hidden, config.intermediate);
        let square = |name: &str| linear(hidden, hidden, vb.pp(name));
        Ok(Self {
            query: square("attention.self.query")?,
            key: square("attention.self.key")?,
            value: square("attention.self.value")?,
            attended: square("attention.output.dense")?,
            attention_norm: norm(config, vb.pp("attention.output.LayerNorm"))?,
            intermediate: linear(hidden, wide, vb.pp("intermediate.dense"))?,
            output: linear(wide, hidden, vb.pp("output.dense"))?,
            output_norm: norm(config, vb.pp("output.LayerNorm"))?,
            heads: config.heads,
        })
    }

    fn forward(&self, input: &Tensor, penalty: &Tensor) -> Result<Tensor> {
        let (batch, tokens, hidden) = input.dims3()?;
        let per_head = hidden / self.heads;
        let split = |of: &Linear| {
            let split = of
                .forward(input)?
                .reshape((batch, tokens, self.heads, per_head))?;
            split.transpose(1, 2)?.contiguous()
        };
        let [query, key, value] = [&self.query, &self.key, &self.value].map(split);
        let scores = (query?.matmul(&key?.t()?)? / (per_head as f64).sqrt())?;
        let shares = softmax(&scores.broadcast_add(penalty)?, D::Minus1)?;
        let context = shares.matmul(&value?)?.transpose(1, 2)?.flatten_from(2)?;
        let attended = self
            .attention_norm
            .forward(&(self.attended.forward(&context)? + input)?)?;
        let wide = self.intermediate.forward(&attended)?.gelu_erf()?;
        self.output_norm
            .forward(&(self.output.forward(&wide)? + attended)?)
    }
}

fn norm(config: &EncoderConfig, vb: VarBuilder) -> Result<LayerNorm> {
    layer_norm(config.hidden, f64::from(config.layer_norm_eps), vb)
}
