//! The `config.json` of transformers' BERT and DistilBERT, whatever their head.

use galley_core::LoadError;
use galley_nn::text::{Activation, Norm, TensorNames, TransformerConfig};
use galley_text::{HeadConfig, config_error, expect_setting};
use serde::Deserialize;

/// DistilBERT's LayerNorm epsilon, which its configuration does not carry.
const DISTILBERT_EPS: f32 = 1e-12;

/// What it says; fields with a default may be absent, as transformers allows.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    family: Family,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    vocab_size: usize,
    #[serde(flatten)]
    head: HeadConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "model_type", rename_all = "lowercase")]
enum Family {
    Bert {
        hidden_size: usize,
        num_hidden_layers: usize,
        num_attention_heads: usize,
        intermediate_size: usize,
        #[serde(default = "gelu")]
        hidden_act: String,
        #[serde(default = "types")]
        type_vocab_size: usize,
        #[serde(default = "eps")]
        layer_norm_eps: f32,
        #[serde(default = "absolute")]
        position_embedding_type: String,
    },
    DistilBert {
        dim: usize,
        hidden_dim: usize,
        n_layers: usize,
        n_heads: usize,
        #[serde(default = "gelu")]
        activation: String,
    },
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

impl Config {
    /// The network's sizes and variant.
    ///
    /// # Errors
    /// It is of a variant that computes something else.
    pub(crate) fn transformer(&self) -> Result<TransformerConfig, LoadError> {
        let (vocabulary, max_positions) = (self.vocab_size, self.max_position_embeddings);
        let (norm, causal) = (Norm::Post, false);
        Ok(match &self.family {
            Family::Bert {
                hidden_size,
                num_hidden_layers,
                num_attention_heads,
                intermediate_size,
                hidden_act,
                type_vocab_size,
                layer_norm_eps,
                position_embedding_type,
            } => {
                let key = "position_embedding_type";
                expect_setting(key, "absolute", position_embedding_type)?;
                TransformerConfig {
                    vocabulary,
                    max_positions,
                    token_types: *type_vocab_size,
                    hidden: *hidden_size,
                    intermediate: *intermediate_size,
                    layers: *num_hidden_layers,
                    heads: *num_attention_heads,
                    layer_norm_eps: *layer_norm_eps,
                    norm,
                    causal,
                    activation: activation("hidden_act", hidden_act)?,
                }
            }
            Family::DistilBert {
                dim,
                hidden_dim,
                n_layers,
                n_heads,
                activation: name,
            } => TransformerConfig {
                vocabulary,
                max_positions,
                token_types: 0,
                hidden: *dim,
                intermediate: *hidden_dim,
                layers: *n_layers,
                heads: *n_heads,
                layer_norm_eps: DISTILBERT_EPS,
                norm,
                causal,
                activation: activation("activation", name)?,
            },
        })
    }

    /// How transformers calls what such models have.
    pub(crate) fn names(&self) -> &'static Names {
        match self.family {
            Family::Bert { .. } => &BERT,
            Family::DistilBert { .. } => &DISTILBERT,
        }
    }

    /// The labels by index, of a model of the family's class for a task: `ForTokenClassification`.
    ///
    /// # Errors
    /// It is of another class or does not say of which, or the labels are not numbered from 0 on.
    pub(crate) fn labels(&self, task: &str) -> Result<Vec<String>, LoadError> {
        let class = format!("{}{task}", self.names().class);
        self.head.expect_architecture(&class)?;
        self.head.labels()
    }
}

/// Names in transformers.
pub(crate) struct Names {
    /// What the names of its classes begin with.
    class: &'static str,
    /// What the names of the encoder's tensors begin with where there is a head.
    pub(crate) prefix: &'static str,
    /// The encoder's tensors.
    pub(crate) tensors: TensorNames,
    /// The layer between the encoder and the layer that gives a text's logits.
    pub(crate) before_label: (&'static str, Activation),
}

const BERT: Names = Names {
    class: "Bert",
    prefix: "bert",
    tensors: TensorNames::BERT,
    before_label: ("bert.pooler.dense", Activation::Tanh),
};

const DISTILBERT: Names = Names {
    class: "DistilBert",
    prefix: "distilbert",
    tensors: TensorNames::DISTILBERT,
    before_label: ("pre_classifier", Activation::Relu),
};

fn activation(key: &str, name: &str) -> Result<Activation, LoadError> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        _ => Err(config_error(format!(
            "{key}: expected gelu, gelu_new or relu, got {name}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(key: &str, value: Value) -> Result<Config, serde_json::Error> {
        let mut config: Value =
            serde_json::from_slice(include_bytes!("../weights/bert_base_cased/config.json"))?;
        config[key] = value;
        serde_json::from_value(config)
    }

    #[test]
    fn what_computes_something_else_is_refused_by_name() {
        for (key, value, expected) in [
            (
                "hidden_act",
                json!("silu"),
                "hidden_act: expected gelu, gelu_new or relu, got silu",
            ),
            (
                "position_embedding_type",
                json!("relative_key"),
                "position_embedding_type: expected absolute, got relative_key",
            ),
        ] {
            let error = config(key, value).unwrap().transformer().unwrap_err();
            assert!(error.to_string().ends_with(expected), "{error}");
        }
        let other = config("model_type", json!("roberta")).unwrap_err();
        assert!(other.to_string().contains("roberta"), "{other}");
        let class = json!(["RobertaForTokenClassification"]);
        let config = config("architectures", class).unwrap();
        let error = config.labels("ForTokenClassification").unwrap_err();
        assert!(error.to_string().ends_with(
            "expected the architecture BertForTokenClassification, got RobertaForTokenClassification"
        ));
    }
}
