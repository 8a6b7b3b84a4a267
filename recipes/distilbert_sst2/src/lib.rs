//! Sequence classification with DistilBERT: text in, label and scores out.
//!
//! `config` reads what a Hugging Face folder says of the model, `model` computes logits, `recipe` puts the three
//! stages together.

mod config;
mod model;
mod recipe;

use std::sync::Arc;

use galley_core::{AnyRecipe, Entry, HubWeights, InputKind, LoadError, LoadOptions, Source};
use galley_text::{BERT_FILES, MAX_TOKENS_HELP, ModelFiles};

use crate::recipe::SequenceClassification;

/// What sets the most tokens of a text.
const MAX_TOKENS: &str = "--option distilbert_sst2.max_tokens";

/// The catalog's entries.
pub static ENTRIES: &[Entry] = &[Entry {
    name: "distilbert_sst2",
    summary: "text in, label and scores out: DistilBERT sentiment",
    samples: &[
        "a gripping and often funny film",
        "Two hours that I will never get back.",
    ],
    input_kind: InputKind::Json,
    bundled: None,
    hub: Some(HubWeights {
        repo: "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
        files: BERT_FILES,
        optional_files: &["tokenizer.json"],
        licence: "Apache-2.0",
    }),
    synthetic_seed: Some(2002),
    options: &[MAX_TOKENS_HELP],
    load,
}];

fn load(entry: &Entry, options: &LoadOptions) -> Result<AnyRecipe, LoadError> {
    let source = entry.source(&options.weights)?;
    let files = match &source {
        Source::Dir { path, .. } => ModelFiles::from_dir(path)?,
        Source::Synthetic(seed) => ModelFiles::synthetic(
            include_bytes!("../weights/bert_base_uncased/config.json"),
            include_bytes!("../weights/bert_base_uncased/tokenizer.json"),
            *seed,
        )?,
        Source::Bundled(name) => {
            return Err(LoadError::invalid(
                "bundled weights",
                format!("there are no {name}"),
            ));
        }
    };
    let recipe = SequenceClassification::new(entry, options, source.to_string(), files)?;
    Ok(Arc::new(recipe))
}
