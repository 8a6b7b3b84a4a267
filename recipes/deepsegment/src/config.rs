//! `config.json`: the sizes of the network and the rules that go with its weights.

use std::collections::HashMap;

use galley_core::LoadError;
use serde::Deserialize;

use crate::crf::LABELS;

/// What the recipe reads of `config.json`; the rest is for readers.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) char_vocab_size: usize,
    pub(crate) word_embedding_dim: usize,
    pub(crate) char_embedding_dim: usize,
    pub(crate) char_lstm_hidden: usize,
    pub(crate) word_lstm_hidden: usize,
    pub(crate) dense_dim: usize,
    /// Words of a window of a long text.
    pub(crate) n_window: usize,
    /// Words that a sentence without an end may carry over into the next window.
    pub(crate) max_prefix: usize,
    labels: HashMap<String, usize>,
    boundary_label: String,
    normalisation: Normalisation,
}

#[derive(Clone, Debug, Deserialize)]
struct Normalisation {
    lookup_char_map: HashMap<char, char>,
    max_word_chars: usize,
}

impl Config {
    /// Reads and checks it; `name` is the file's, for the message.
    pub(crate) fn read(name: &str, json: &[u8]) -> Result<Self, LoadError> {
        let config: Self =
            serde_json::from_slice(json).map_err(|error| LoadError::invalid(name, error))?;
        let positive = [
            ("vocab_size", config.vocab_size),
            ("char_vocab_size", config.char_vocab_size),
            ("word_embedding_dim", config.word_embedding_dim),
            ("char_embedding_dim", config.char_embedding_dim),
            ("char_lstm_hidden", config.char_lstm_hidden),
            ("word_lstm_hidden", config.word_lstm_hidden),
            ("dense_dim", config.dense_dim),
            ("n_window", config.n_window),
            ("max_prefix", config.max_prefix),
            ("max_word_chars", config.max_word_chars()),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(LoadError::invalid(
                name,
                format!("expected {key} of 1 or more, got 0"),
            ));
        }
        let labels = &config.labels;
        if labels.len() != LABELS || labels.values().any(|label| *label >= LABELS) {
            return Err(LoadError::invalid(
                name,
                format!("expected labels 0 to {}, got {labels:?}", LABELS - 1),
            ));
        }
        if !labels.contains_key(&config.boundary_label) {
            return Err(LoadError::invalid(
                name,
                format!(
                    "expected a label {:?}, got {labels:?}",
                    config.boundary_label
                ),
            ));
        }
        Ok(config)
    }

    /// The label of a word that begins a sentence.
    pub(crate) fn boundary(&self) -> usize {
        self.labels[&self.boundary_label]
    }

    /// Only this many of a word's characters are looked at.
    pub(crate) fn max_word_chars(&self) -> usize {
        self.normalisation.max_word_chars
    }

    /// Characters that are looked up as another one.
    pub(crate) fn char_map(&self) -> &HashMap<char, char> {
        &self.normalisation.lookup_char_map
    }
}
