//! SuperBench's models of sequences: token ids or rows of numbers in, the logits of 100 classes out.
//!
//! Each is a network of transformers or torch with a linear layer on it, as SuperBench's `model_benchmarks` have them: BERT's
//! is on the pooled first token, GPT-2's on every token, the LSTM's on the last step. A folder with a `model.safetensors` that
//! has the names of the benchmark's state dict (`_gpt2.wte.weight`, `_linear.bias`) is all that they need.
//!
//! `zoo` lists them, `network` runs one on either device, `recipe` has the three stages, `steps` is a benchmark's.

mod network;
mod recipe;
mod steps;
mod zoo;

use std::sync::Arc;

use candle_nn::VarBuilder;
use galley_core::{
    AnyRecipe, Entry, InputKind, LoadError, LoadOptions, ModelBenchmark, Source, synthetic,
    weights::safetensors_dir,
};

use crate::{
    recipe::SequenceModel,
    zoo::{MODELS, Model, find},
};

/// The catalog's entries.
pub static ENTRIES: &[Entry] = &entries();

const fn entries() -> [Entry; MODELS.len()] {
    let mut entries = [Entry {
        name: "",
        summary: "",
        samples: &[],
        input_kind: InputKind::Json,
        bundled: None,
        hub: None,
        synthetic_seed: Some(1000),
        options: &[],
        benchmark: None,
        load,
    }; MODELS.len()];
    let mut i = 0;
    while i < MODELS.len() {
        entries[i].name = MODELS[i].name;
        entries[i].summary = MODELS[i].summary;
        entries[i].benchmark = Some(ModelBenchmark {
            group: MODELS[i].family.group(),
            inference: steps::inference,
        });
        i += 1;
    }
    entries
}

fn load(entry: &Entry, options: &LoadOptions) -> Result<AnyRecipe, LoadError> {
    let (source, weights) = weights(entry, options)?;
    let recipe = SequenceModel::new(entry, options, source, model(entry)?, weights)?;
    Ok(Arc::new(recipe))
}

/// A model's weights, and where they come from.
fn weights(
    entry: &Entry,
    options: &LoadOptions,
) -> Result<(String, VarBuilder<'static>), LoadError> {
    let source = entry.source(&options.weights)?;
    let weights = match &source {
        Source::Dir { path, .. } => safetensors_dir(path)?,
        Source::Synthetic(seed) => synthetic::var_builder(*seed),
        Source::Bundled(_) => return Err(unknown(entry)),
    };
    Ok((source.to_string(), weights))
}

fn model(entry: &Entry) -> Result<&'static Model, LoadError> {
    find(entry.name).ok_or_else(|| unknown(entry))
}

fn unknown(entry: &Entry) -> LoadError {
    LoadError::invalid("recipe", format!("no model is called {}", entry.name))
}
