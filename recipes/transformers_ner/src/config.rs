//! The `config.json` of transformers' `BertForTokenClassification`.

use galley_core::LoadError;
use galley_nn::text::EncoderConfig;
use galley_text::{HeadConfig, expect_setting};
use serde::Deserialize;

/// The fields that matter here; those with a default may be absent, as transformers allows.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct BertConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default = "types")]
    type_vocab_size: usize,
    #[serde(default = "eps")]
    layer_norm_eps: f32,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    #[serde(flatten)]
    head: HeadConfig,
}

fn gelu() -> String {
    "gelu".into()
}

fn absolute() -> String {
    "absolute".into()
}

fn positions() -> usize {
    512
}

fn types() -> usize {
    2
}

fn eps() -> f32 {
    1e-12
}

impl BertConfig {
    /// The encoder's sizes.
    ///
    /// # Errors
    /// The model is of another class, or of a variant of BERT that computes something else.
    pub(crate) fn encoder(&self) -> Result<EncoderConfig, LoadError> {
        self.head
            .expect_architecture("BertForTokenClassification")?;
        expect_setting("hidden_act", "gelu", &self.hidden_act)?;
        expect_setting(
            "position_embedding_type",
            "absolute",
            &self.position_embedding_type,
        )?;
        Ok(EncoderConfig {
            vocabulary: self.vocab_size,
            max_positions: self.max_position_embeddings,
            token_types: self.type_vocab_size,
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            layer_norm_eps: self.layer_norm_eps,
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn error(key: &str, value: Value) -> String {
        let mut config: Value =
            serde_json::from_slice(include_bytes!("../weights/bert_base_cased/config.json"))
                .unwrap();
        config[key] = value;
        let config: BertConfig = serde_json::from_value(config).unwrap();
        config.encoder().map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_this_model_is_refused_by_name() {
        for (key, value, expected) in [
            (
                "architectures",
                json!(["RobertaForTokenClassification"]),
                "expected the architecture BertForTokenClassification, got RobertaForTokenClassification",
            ),
            (
                "hidden_act",
                json!("gelu_new"),
                "hidden_act: expected gelu, got gelu_new",
            ),
            (
                "position_embedding_type",
                json!("relative_key"),
                "position_embedding_type: expected absolute, got relative_key",
            ),
        ] {
            assert!(error(key, value).ends_with(expected));
        }
    }
}
