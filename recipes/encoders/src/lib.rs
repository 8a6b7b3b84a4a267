//! Encoders by tasks: BERT and DistilBERT, and on either a label for each token, a label for each text, or the features
//! themselves.
//!
//! `config` reads what a Hugging Face folder says of the encoder, `model` builds it with the head of a task; `tokens`,
//! `label` and `embedding` are the recipes, each the three stages of its task.

mod config;
mod embedding;
mod label;
mod model;
mod modules;
mod tokens;

use std::sync::Arc;

use galley_core::{
    AnyRecipe, BundledWeights, Embedded, Entry, HubWeights, InputKind, LoadError, LoadOptions,
    Source,
};
use galley_nn::text::Pooling;
use galley_text::{BERT_FILES, MAX_TOKENS_HELP, ModelFiles};

use crate::{
    embedding::{TRUNCATE_HELP, TextEmbeddings},
    label::SequenceClassification,
    model::Parts,
    modules::Modules,
    tokens::{Aggregation, TokenClassification},
};

/// The catalog's entries.
pub static ENTRIES: &[Entry] = &[
    Entry {
        name: "transformers_ner",
        summary: "text in, entities out: BERT token classification",
        samples: &[
            "My name is Sarah Johnson and I live at 42 Maple Street, Portland, Oregon 97205.",
            "Please call Dr. Amara Okafor on 555-0142, or write to amara@example.org before 3 May 2025.",
        ],
        input_kind: InputKind::Json,
        bundled: Some(BundledWeights {
            name: "rampart",
            licence: "CC-BY-4.0",
            files: Embedded(&[&CONFIG, &TOKENIZER, &MODEL]),
        }),
        hub: Some(HubWeights {
            repo: "dslim/bert-base-NER",
            files: BERT_FILES,
            optional_files: &["tokenizer.json"],
            licence: "MIT",
        }),
        synthetic_seed: Some(2001),
        options: &[
            (
                "aggregation",
                "how tokens become entities: none, simple, first, average or max, as in transformers (default: first for \
                 the bundled weights, otherwise simple)",
            ),
            MAX_TOKENS_HELP,
        ],
        benchmark: None,
        load: load_ner,
    },
    Entry {
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
        benchmark: None,
        load: load_label,
    },
    Entry {
        name: "text_embeddings",
        summary: "text in, a vector out: sentence embeddings",
        samples: &[
            "How do I change my address?",
            "The delivery went to where I used to live.",
        ],
        input_kind: InputKind::Json,
        bundled: None,
        hub: Some(HubWeights {
            repo: "sentence-transformers/all-MiniLM-L6-v2",
            files: &[
                "1_Pooling/config.json",
                "config.json",
                "model.safetensors",
                "modules.json",
                "sentence_bert_config.json",
                "tokenizer.json",
            ],
            optional_files: &[],
            licence: "Apache-2.0",
        }),
        synthetic_seed: Some(2003),
        options: &[TRUNCATE_HELP],
        benchmark: None,
        load: load_embeddings,
    },
];

galley_core::embed!(CONFIG, "../weights/rampart/config.json");
galley_core::embed!(TOKENIZER, "../weights/rampart/tokenizer.json.gz");
galley_core::embed!(MODEL, "../weights/rampart/model.gguf");

/// The bundled model tags most pieces of a word B-, so that `simple` would break words into fragments (`900` and `##26`).
/// The three strategies that keep words whole differ on 2 of the 1,668 words of this crate's golden texts, neither of
/// which one of them gets clearly right; `first` is the plainest.
const BUNDLED_AGGREGATION: Aggregation = Aggregation::First;

fn load_ner(entry: &Entry, options: &LoadOptions) -> Result<AnyRecipe, LoadError> {
    let source = entry.source(&options.weights)?;
    let (files, default) = match &source {
        Source::Bundled(_) => {
            let files = ModelFiles::from_gguf(&CONFIG, &TOKENIZER, &MODEL)?;
            (files, BUNDLED_AGGREGATION)
        }
        other => (unbundled(other, &BERT_CONFIG, &CASED)?, Aggregation::Simple),
    };
    let aggregation = match options.options.get("aggregation") {
        Some(name) => name.parse().map_err(|reason: String| {
            LoadError::invalid(format!("option {}.aggregation", entry.name), reason)
        })?,
        None => default,
    };
    let parts = Parts {
        entry,
        options,
        source: source.to_string(),
        files,
        max_positions: usize::MAX,
        bound: "--option transformers_ner.max_tokens",
    };
    Ok(Arc::new(TokenClassification::new(parts, aggregation)?))
}

fn load_label(entry: &Entry, options: &LoadOptions) -> Result<AnyRecipe, LoadError> {
    let source = entry.source(&options.weights)?;
    let parts = Parts {
        entry,
        options,
        source: source.to_string(),
        files: unbundled(&source, &DISTILBERT_CONFIG, &UNCASED)?,
        max_positions: usize::MAX,
        bound: "--option distilbert_sst2.max_tokens",
    };
    Ok(Arc::new(SequenceClassification::new(parts)?))
}

fn load_embeddings(entry: &Entry, options: &LoadOptions) -> Result<AnyRecipe, LoadError> {
    let source = entry.source(&options.weights)?;
    let (files, modules) = match &source {
        Source::Dir { path, .. } => {
            let modules = Modules::read(path)?;
            (ModelFiles::from_dir(&modules.encoder)?, modules)
        }
        other => {
            let modules = Modules {
                encoder: "".into(),
                pooling: Pooling::Mean,
                normalised: true,
                max_tokens: Some(256),
            };
            (unbundled(other, MINILM_CONFIG, &UNCASED)?, modules)
        }
    };
    let parts = Parts {
        entry,
        options,
        source: source.to_string(),
        files,
        max_positions: modules.max_tokens.unwrap_or(usize::MAX),
        bound: "--option text_embeddings.truncate=true cuts it",
    };
    Ok(Arc::new(TextEmbeddings::new(parts, modules)?))
}

galley_core::embed!(BERT_CONFIG, "../weights/bert_base_cased/config.json");
galley_core::embed!(CASED, "../weights/bert_base_cased/tokenizer.json.gz");
galley_core::embed!(
    DISTILBERT_CONFIG,
    "../weights/bert_base_uncased/config.json"
);
galley_core::embed!(UNCASED, "../weights/bert_base_uncased/tokenizer.json.gz");
/// As `all-MiniLM-L6-v2`.
const MINILM_CONFIG: &[u8] =
    br#"{"model_type": "bert", "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 12, "intermediate_size": 1536}"#;

/// Files of a folder, or random weights.
fn unbundled(source: &Source, config: &[u8], tokenizer: &[u8]) -> Result<ModelFiles, LoadError> {
    match source {
        Source::Dir { path, .. } => ModelFiles::from_dir(path),
        Source::Synthetic(seed) => ModelFiles::synthetic(config, tokenizer, *seed),
        Source::Bundled(name) => Err(LoadError::invalid(
            "bundled weights",
            format!("there are no {name}"),
        )),
    }
}
