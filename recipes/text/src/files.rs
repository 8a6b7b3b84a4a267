//! A model's files: configuration, tokenizer and weights, and the parts of a `config.json` that every head has.

use std::{collections::BTreeMap, path::Path};

use candle_nn::VarBuilder;
use galley_core::{LoadError, synthetic, weights};
use serde::{Deserialize, de::DeserializeOwned};

use crate::Tokenizer;

/// The files of a BERT-like model's repository on the hub; some have a `tokenizer.json` as well.
pub const BERT_FILES: &[&str] = &[
    "config.json",
    "model.safetensors",
    "tokenizer_config.json",
    "vocab.txt",
];

/// What a text model is loaded from.
pub struct ModelFiles {
    config: Vec<u8>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The weights, by their names in the state dict.
    pub weights: VarBuilder<'static>,
}

impl ModelFiles {
    /// From a folder with the files of a Hugging Face repository.
    ///
    /// # Errors
    /// A file is missing or unreadable.
    pub fn from_dir(dir: &Path) -> Result<Self, LoadError> {
        Ok(Self {
            config: weights::read_file(&dir.join("config.json"))?,
            tokenizer: Tokenizer::from_dir(dir)?,
            weights: weights::safetensors_dir(dir)?,
        })
    }

    /// From files in memory, the tokenizer packed by gzip, the weights as GGUF.
    ///
    /// # Errors
    /// A file is not what it should be.
    pub fn from_gguf(config: &[u8], tokenizer: &[u8], gguf: &[u8]) -> Result<Self, LoadError> {
        Ok(Self {
            config: config.to_vec(),
            tokenizer: Tokenizer::from_gzip(tokenizer)?,
            weights: weights::gguf_bytes(gguf)?,
        })
    }

    /// With random weights, the tokenizer packed by gzip.
    ///
    /// # Errors
    /// The tokenizer is none.
    pub fn synthetic(config: &[u8], tokenizer: &[u8], seed: u64) -> Result<Self, LoadError> {
        Ok(Self {
            config: config.to_vec(),
            tokenizer: Tokenizer::from_gzip(tokenizer)?,
            weights: synthetic::var_builder(seed),
        })
    }

    /// The `config.json`, read as `T`.
    ///
    /// # Errors
    /// It is no such configuration.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        serde_json::from_slice(&self.config).map_err(config_error)
    }
}

/// Refuses a setting of `config.json` that would make the model compute something else than it does here.
///
/// # Errors
/// `got` is not `expected`.
pub fn expect_setting(key: &str, expected: &str, got: &str) -> Result<(), LoadError> {
    if got == expected {
        return Ok(());
    }
    Err(config_error(format!(
        "{key}: expected {expected}, got {got}"
    )))
}

/// A `config.json` that does not say what it should.
pub fn config_error(reason: impl std::fmt::Display) -> LoadError {
    LoadError::invalid("config.json", reason)
}

/// What a `config.json` says of the model's class and its labels.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct HeadConfig {
    architectures: Option<Vec<String>>,
    id2label: Option<BTreeMap<String, String>>,
    num_labels: Option<usize>,
}

impl HeadConfig {
    /// Refuses a model of another class than `expected`.
    ///
    /// # Errors
    /// It is of another class, or does not say of which.
    pub fn expect_architecture(&self, expected: &str) -> Result<(), LoadError> {
        let got = self.architectures.as_deref().unwrap_or_default();
        if got.iter().any(|name| name == expected) {
            return Ok(());
        }
        let got = if got.is_empty() {
            "none".into()
        } else {
            got.join(", ")
        };
        Err(config_error(format!(
            "expected the architecture {expected}, got {got}"
        )))
    }

    /// The labels by index; `LABEL_0`, `LABEL_1`, ... where they have no names.
    ///
    /// # Errors
    /// The names are not numbered 0, 1, 2, ...
    pub fn labels(&self) -> Result<Vec<String>, LoadError> {
        let Some(names) = &self.id2label else {
            // transformers' default is two.
            let count = self.num_labels.unwrap_or(2);
            return Ok((0..count).map(|i| format!("LABEL_{i}")).collect());
        };
        (0..names.len())
            .map(|i| names.get(&i.to_string()).cloned())
            .collect::<Option<Vec<_>>>()
            .filter(|labels| !labels.is_empty())
            .ok_or_else(|| {
                let got: Vec<_> = names.keys().map(String::as_str).collect();
                config_error(format!(
                    "id2label: expected the numbers from 0 on, got {}",
                    got.join(", ")
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(json: &str) -> HeadConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn labels_are_in_the_order_of_their_numbers() {
        let names: Vec<_> = (0..12).map(|i| format!("\"{i}\": \"L{i}\"")).collect();
        let labels = head(&format!("{{\"id2label\": {{{}}}}}", names.join(",")))
            .labels()
            .unwrap();
        assert_eq!((labels[2].as_str(), labels[10].as_str()), ("L2", "L10"));
        assert_eq!(head("{}").labels().unwrap(), ["LABEL_0", "LABEL_1"]);
        assert!(head(r#"{"id2label": {"1": "A"}}"#).labels().is_err());
    }

    #[test]
    fn another_architecture_is_named() {
        let head = head(r#"{"architectures": ["RobertaModel"]}"#);
        let error = head
            .expect_architecture("BertModel")
            .unwrap_err()
            .to_string();
        assert!(error.contains("expected the architecture BertModel, got RobertaModel"));
    }
}
