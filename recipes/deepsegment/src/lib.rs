//! DeepSegment: unpunctuated text in, sentences out.
//!
//! A word and character BiLSTM with a conditional random field, after DeepSegment (<https://github.com/notAI-tech/deepsegment>),
//! with weights of this project's own: `weights/README.md` describes them and is the specification of this recipe.

mod config;
mod crf;
mod model;
mod network;
mod raw;
mod recipe;
#[cfg(test)]
mod tests;
mod text;
mod vocabulary;
mod windows;

use std::{
    borrow::Cow,
    path::Path,
    sync::{Arc, Mutex},
};

use candle_nn::VarBuilder;
use galley_core::{
    AnyRecipe, BundledWeights, Embedded, Entry, InputKind, InputLimits, LoadError, LoadOptions,
    RecipeInfo, Source, counted, synthetic, weights,
};
use galley_nn::Backend;

use config::Config;
use network::Network;
use recipe::DeepSegment;
use vocabulary::{Files, Vocabulary};
use windows::{Segmenter, Windows};

/// The catalog's entries.
pub static ENTRIES: &[Entry] = &[Entry {
    name: "deepsegment_en",
    summary: "English text without punctuation in, its sentences out (word and character BiLSTM, CRF)",
    samples: &[
        "I was hungry i ordered a pizza and i went to the movies which movie did you go to",
        "thanks for calling how can i help you my order has not arrived yet let me look that up for you",
    ],
    input_kind: InputKind::Json,
    bundled: Some(BundledWeights {
        name: "deepsegment_en",
        licence: "Apache-2.0",
        files: Embedded(&[&MODEL, &CONFIG, &VOCAB, &CHARS]),
    }),
    hub: None,
    synthetic_seed: Some(3001),
    options: &[],
    benchmark: None,
    load,
}];

galley_core::embed!(MODEL, "../weights/model.safetensors");
galley_core::embed!(CONFIG, "../weights/config.json");
galley_core::embed!(VOCAB, "../weights/vocab.txt");
galley_core::embed!(CHARS, "../weights/chars.json");

fn load(entry: &Entry, options: &LoadOptions) -> Result<AnyRecipe, LoadError> {
    Ok(Arc::new(load_recipe(entry, options)?))
}

fn load_recipe(entry: &Entry, options: &LoadOptions) -> Result<DeepSegment, LoadError> {
    let backend = Backend::of(&options.device, options.dtype).map_err(LoadError::Unsupported)?;
    let source = entry.source(&options.weights)?;
    let dir = match &source {
        Source::Dir { path, .. } => Some(path.as_path()),
        Source::Bundled(_) | Source::Synthetic(_) => None,
    };
    let (config_name, json) = file(dir, "config.json", &CONFIG)?;
    let config = Config::read(&config_name, &json)?;
    let (vocab_name, vocab) = file(dir, "vocab.txt", &VOCAB)?;
    let (chars_name, chars) = file(dir, "chars.json", &CHARS)?;
    let files = Files {
        vocab: (&vocab_name, &vocab),
        chars: (&chars_name, &chars),
    };
    let vocabulary = Vocabulary::read(&config, &files)?;
    let (vb, parameters) = counted(var_builder(&source)?);
    let network = Network::load(&backend, &vb, &config)?;
    Ok(DeepSegment {
        parameters: parameters.get(),
        info: RecipeInfo {
            name: entry.name,
            input_kind: entry.input_kind,
            weights: source.to_string(),
            // On the CPU its products are small and its time goes elsewhere: bf16 is leave to round that is not used.
            dtype: if options.device.is_cpu() {
                "f32"
            } else {
                options.dtype.as_str()
            },
            device: options.device_name(),
            cost_unit: "words",
            inline_bytes: 4096,
            max_batch_size: None,
        },
        vocabulary,
        segmenter: Segmenter {
            network,
            boundary: config.boundary() as u8,
        },
        windows: Windows {
            words: config.n_window,
            max_prefix: config.max_prefix,
        },
        // Places in a text and in its keys, which are up to 2.5 times as long, are kept as u32.
        limits: InputLimits {
            max_text_bytes: options.limits.max_text_bytes.min(u32::MAX as usize / 4),
            ..options.limits
        },
        memos: Mutex::default(),
    })
}

/// A file's name and bytes: from the folder if there is one, otherwise the bundled ones.
fn file(
    dir: Option<&Path>,
    name: &str,
    bundled: &'static [u8],
) -> Result<(String, Cow<'static, [u8]>), LoadError> {
    match dir {
        None => Ok((name.into(), bundled.into())),
        Some(dir) => {
            let path = dir.join(name);
            let bytes = weights::read_file(&path)?;
            Ok((path.display().to_string(), bytes.into()))
        }
    }
}

fn var_builder(source: &Source) -> Result<VarBuilder<'static>, LoadError> {
    match source {
        Source::Bundled(_) => weights::safetensors_bytes(&MODEL),
        Source::Dir { path, .. } => weights::safetensors_dir(path),
        Source::Synthetic(seed) => Ok(synthetic::var_builder(*seed)),
    }
}
