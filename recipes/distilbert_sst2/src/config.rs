//! The `config.json` of transformers' `DistilBertForSequenceClassification`.

use galley_core::LoadError;
use galley_nn::text::EncoderConfig;
use galley_text::{HeadConfig, expect_setting};
use serde::Deserialize;

/// DistilBERT's LayerNorm epsilon, which its configuration does not carry.
const LAYER_NORM_EPS: f32 = 1e-12;

/// The fields that matter here; those with a default may be absent, as transformers allows.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DistilBertConfig {
    vocab_size: usize,
    dim: usize,
    hidden_dim: usize,
    n_layers: usize,
    n_heads: usize,
    #[serde(default = "gelu")]
    activation: String,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(flatten)]
    head: HeadConfig,
}

fn gelu() -> String {
    "gelu".into()
}

fn positions() -> usize {
    512
}

impl DistilBertConfig {
    /// The encoder's sizes.
    ///
    /// # Errors
    /// The model is of another class, or has another activation.
    pub(crate) fn encoder(&self) -> Result<EncoderConfig, LoadError> {
        self.head
            .expect_architecture("DistilBertForSequenceClassification")?;
        expect_setting("activation", "gelu", &self.activation)?;
        Ok(EncoderConfig {
            vocabulary: self.vocab_size,
            max_positions: self.max_position_embeddings,
            token_types: 0,
            hidden: self.dim,
            intermediate: self.hidden_dim,
            layers: self.n_layers,
            heads: self.n_heads,
            layer_norm_eps: LAYER_NORM_EPS,
        })
    }

    /// The labels by index.
    ///
    /// # Errors
    /// They are not numbered from 0 on.
    pub(crate) fn labels(&self) -> Result<Vec<String>, LoadError> {
        self.head.labels()
    }
}
