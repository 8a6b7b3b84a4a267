//! The `config.json` beside weights that were pulled or trained: what of it matters here.

use std::path::Path;

use galley_core::{LoadError, weights};
use serde::Deserialize;

use crate::labels::{self, Label};

/// ImageNet-1k's.
const CLASSES: usize = 1000;

/// As timm writes it; every field may be missing, and torchvision has no such file at all.
#[derive(Debug, Default, Deserialize)]
pub struct Config {
    architecture: Option<String>,
    num_classes: Option<usize>,
    label_names: Option<Vec<String>>,
}

impl Config {
    /// Reads the file if there is one, and checks that it speaks of this architecture.
    ///
    /// # Errors
    /// It cannot be read, or speaks of another architecture.
    pub fn read(dir: &Path, architecture: &str) -> Result<Self, LoadError> {
        let path = dir.join("config.json");
        if !path.is_file() {
            return Ok(Self::default());
        }
        let invalid = |reason: String| LoadError::invalid(path.display().to_string(), reason);
        let config: Self = serde_json::from_slice(&weights::read_file(&path)?)
            .map_err(|error| invalid(error.to_string()))?;
        match &config.architecture {
            Some(other) if other != architecture => Err(invalid(format!(
                "expected the architecture {architecture}, got {other}"
            ))),
            _ => Ok(config),
        }
    }

    /// How many classes the classifier has.
    pub fn classes(&self) -> usize {
        self.num_classes.unwrap_or(CLASSES)
    }

    /// The classes' names: those of the file, else ImageNet's if there are as many, else none.
    ///
    /// # Errors
    /// None in practice: ImageNet's are part of this crate.
    pub fn labels(&self) -> Result<Vec<Label>, LoadError> {
        match &self.label_names {
            Some(names) => Ok(names
                .iter()
                .map(|name| Label {
                    name: name.clone(),
                    synset: None,
                })
                .collect()),
            None if self.classes() == CLASSES => labels::imagenet(),
            None => Ok(Vec::new()),
        }
    }
}
