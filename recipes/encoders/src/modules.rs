//! What a sentence-transformers folder says beside its model's files: `modules.json` lists the steps from text to vector.

use std::path::{Path, PathBuf};

use galley_core::{LoadError, weights::read_file};
use galley_nn::text::Pooling;
use serde::{Deserialize, de::DeserializeOwned};

/// The steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Modules {
    /// The folder of the encoder's files.
    pub(crate) encoder: PathBuf,
    pub(crate) pooling: Pooling,
    /// Whether vectors are scaled to a length of 1.
    pub(crate) normalised: bool,
    /// The most tokens of a text, special ones counted, if fewer than the encoder has positions.
    pub(crate) max_tokens: Option<usize>,
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    path: PathBuf,
    #[serde(rename = "type")]
    class: String,
}

/// `sentence_bert_config.json`.
#[derive(Default, Deserialize)]
struct Reading {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

impl Modules {
    /// From a folder. One without a `modules.json` has an encoder alone, to which the library adds the mean over tokens.
    ///
    /// # Errors
    /// A file is unreadable, or asks for a step that there is not.
    pub(crate) fn read(dir: &Path) -> Result<Self, LoadError> {
        const FILE: &str = "modules.json";
        let mut read = Self {
            encoder: dir.into(),
            pooling: Pooling::Mean,
            normalised: false,
            max_tokens: None,
        };
        if dir.join(FILE).is_file() {
            let modules: Vec<Module> = json(&dir.join(FILE))?;
            let classes: Vec<_> = (modules.iter())
                .map(|module| module.class.rsplit('.').next().unwrap_or_default())
                .collect();
            match (&modules[..], &classes[..]) {
                ([encoder, pooling, rest @ ..], ["Transformer", "Pooling", end @ ..])
                    if rest.is_empty() || *end == ["Normalize"] =>
                {
                    read.encoder = inside(dir, &encoder.path)?;
                    read.pooling = pooling_of(&inside(dir, &pooling.path)?.join("config.json"))?;
                    read.normalised = !rest.is_empty();
                }
                _ => {
                    return Err(LoadError::invalid(
                        FILE,
                        format!(
                            "expected Transformer, Pooling and at most Normalize, got {}",
                            classes.join(", ")
                        ),
                    ));
                }
            }
        }
        let reading = read.encoder.join("sentence_bert_config.json");
        if reading.is_file() {
            let Reading {
                max_seq_length,
                do_lower_case,
            } = json(&reading)?;
            if do_lower_case {
                return Err(LoadError::invalid(
                    reading.display().to_string(),
                    "expected do_lower_case to be false, as the tokenizer itself lowers cases",
                ));
            }
            read.max_tokens = max_seq_length;
        }
        Ok(read)
    }
}

/// A module's folder, which is the folder itself or one in it.
fn inside(dir: &Path, path: &Path) -> Result<PathBuf, LoadError> {
    use std::path::Component;
    match path
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        true => Ok(dir.join(path)),
        false => Err(LoadError::invalid(
            "modules.json",
            format!("expected paths within the folder, got {}", path.display()),
        )),
    }
}

/// What a pooling module's `config.json` asks for: one mode, by its name or by a flag for each.
fn pooling_of(path: &Path) -> Result<Pooling, LoadError> {
    const FLAG: &str = "pooling_mode_";
    let config: serde_json::Map<String, serde_json::Value> = json(path)?;
    let modes: Vec<&str> = match config.get("pooling_mode") {
        Some(mode) => mode.as_str().into_iter().collect(),
        None => (config.iter())
            .filter(|(_, value)| value.as_bool() == Some(true))
            .filter_map(|(key, _)| key.strip_prefix(FLAG))
            .collect(),
    };
    match modes[..] {
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::First),
        _ => Err(LoadError::invalid(
            path.display().to_string(),
            format!(
                "expected the pooling mode mean or cls, got {}",
                modes.join(", ")
            ),
        )),
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    serde_json::from_slice(&read_file(path)?)
        .map_err(|error| LoadError::invalid(path.display().to_string(), error))
}
