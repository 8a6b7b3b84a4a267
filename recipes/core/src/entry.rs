//! What the catalog knows of a recipe before it is loaded, and what loading it needs.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use candle_core::{DType, Device};

use crate::{
    AnyRecipe, InputKind, InputLimits, LoadError, MemoryBudget, ModelBenchmark, device_name,
};

/// A recipe in the catalog.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name, in URLs and on the command line.
    pub name: &'static str,
    /// What goes in and what comes out, in one line.
    pub summary: &'static str,
    /// Texts worth trying beside its example, as the web page offers them; none where files are taken.
    pub samples: &'static [&'static str],
    /// The kind of input it takes.
    pub input_kind: InputKind,
    /// Weights inside the binary, if any.
    pub bundled: Option<BundledWeights>,
    /// Where its weights are on the Hugging Face hub, if there.
    pub hub: Option<HubWeights>,
    /// The seed of the goldens for `--weights synthetic` without a seed; `None` where random weights make no sense.
    pub synthetic_seed: Option<u64>,
    /// Options of its own, `(key, what it does)`, set by `--option RECIPE.KEY=VALUE`.
    pub options: &'static [(&'static str, &'static str)],
    /// How SuperBench's model benchmarks run its model, if it is one of theirs.
    pub benchmark: Option<ModelBenchmark>,
    /// Loads it. Called with a source that the entry has, see [`Entry::source`].
    pub load: fn(&Entry, &LoadOptions) -> Result<AnyRecipe, LoadError>,
}

/// Weights that are part of the binary.
#[derive(Clone, Copy, Debug)]
pub struct BundledWeights {
    /// What they are.
    pub name: &'static str,
    /// Their licence, as an SPDX expression.
    pub licence: &'static str,
    /// Their files, as they stand in the binary.
    pub files: Embedded,
}

/// A file inside the binary, once: `embed!(NAME, "../path")` is a static array of its bytes.
///
/// What a constant or a static reference points to is copied into each part of the program that mentions it.
#[macro_export]
macro_rules! embed {
    ($(#[$doc:meta])* $visible:vis $name:ident, $path:literal) => {
        $(#[$doc])*
        $visible static $name: [u8; include_bytes!($path).len()] = *include_bytes!($path);
    };
}

/// Files inside the binary.
#[derive(Clone, Copy)]
pub struct Embedded(pub &'static [&'static [u8]]);

impl fmt::Debug for Embedded {
    /// Their sizes: what is in them would fill screens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self.0.iter().map(|file| file.len());
        f.debug_list().entries(sizes).finish()
    }
}

/// Weights on the Hugging Face hub.
#[derive(Clone, Copy, Debug)]
pub struct HubWeights {
    /// The repository, `owner/name`.
    pub repo: &'static str,
    /// The files that the recipe reads.
    pub files: &'static [&'static str],
    /// Files that it reads if they exist.
    pub optional_files: &'static [&'static str],
    /// Their licence, as an SPDX expression.
    pub licence: &'static str,
}

/// Where weights are to come from, as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum WeightSource {
    /// Bundled weights if there are any, otherwise the hub's.
    #[default]
    Auto,
    /// The bundled ones.
    Bundled,
    /// The hub's, from the local cache.
    Hub,
    /// Random ones of the exact architecture; without a seed, the entry's own.
    Synthetic(Option<u64>),
    /// A folder with the hub repository's files.
    Dir(PathBuf),
}

impl FromStr for WeightSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "" => return Err("expected bundled, hub, synthetic[:SEED] or a folder".into()),
            "auto" => Self::Auto,
            "bundled" => Self::Bundled,
            "hub" => Self::Hub,
            "synthetic" => Self::Synthetic(None),
            _ => {
                match text.strip_prefix("synthetic:") {
                    Some(seed) => Self::Synthetic(Some(seed.parse().map_err(|_| {
                        format!("expected a number after synthetic:, got {seed:?}")
                    })?)),
                    None => Self::Dir(text.into()),
                }
            }
        })
    }
}

impl fmt::Display for WeightSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Bundled => f.write_str("bundled"),
            Self::Hub => f.write_str("hub"),
            Self::Synthetic(None) => f.write_str("synthetic"),
            Self::Synthetic(Some(seed)) => write!(f, "synthetic:{seed}"),
            Self::Dir(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where weights do come from, once the entry has been asked what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Inside the binary.
    Bundled(&'static str),
    /// A folder: a snapshot in the hub's cache, or one that the user named.
    Dir {
        /// The folder.
        path: PathBuf,
        /// How to name it in `/meta` and reports: `hub: owner/name@commit`, `dir: NAME`.
        label: String,
    },
    /// Random, from this seed.
    Synthetic(u64),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundled(name) => write!(f, "bundled: {name}"),
            Self::Dir { label, .. } => f.write_str(label),
            Self::Synthetic(seed) => write!(f, "synthetic:{seed}"),
        }
    }
}

/// What loading a recipe needs to know.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The device that runs it.
    pub device: Device,
    /// The dtype of the computation.
    pub dtype: DType,
    /// Where the weights come from.
    pub weights: WeightSource,
    /// The recipe's own options.
    pub options: BTreeMap<String, String>,
    /// Bounds on one input.
    pub limits: InputLimits,
    /// What images are decoded in, all recipes' together.
    pub decode_memory: MemoryBudget,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            weights: WeightSource::Auto,
            options: BTreeMap::new(),
            limits: InputLimits::default(),
            decode_memory: MemoryBudget::unlimited(),
        }
    }
}

impl LoadOptions {
    /// The device's name: `cpu`, `cuda:0`.
    pub fn device_name(&self) -> String {
        device_name(&self.device)
    }
}

impl Entry {
    /// Decides where the weights come from, and looks for those of the hub in its cache.
    ///
    /// # Errors
    /// The recipe has no such weights, or they have not been pulled.
    pub fn source(&self, wanted: &WeightSource) -> Result<Source, LoadError> {
        let missing = |wanted| LoadError::NoSuchWeights {
            recipe: self.name,
            wanted,
            available: self.available(),
        };
        match wanted {
            WeightSource::Auto if self.bundled.is_some() || self.hub.is_none() => {
                self.source(&WeightSource::Bundled)
            }
            WeightSource::Auto => self.source(&WeightSource::Hub),
            WeightSource::Bundled => self
                .bundled
                .map(|bundled| Source::Bundled(bundled.name))
                .ok_or_else(|| missing("bundled")),
            WeightSource::Hub => {
                let hub = self.hub.ok_or_else(|| missing("hub"))?;
                crate::hub::Cache::from_env().source(self.name, &hub)
            }
            WeightSource::Synthetic(seed) => {
                let own = self.synthetic_seed.ok_or_else(|| missing("synthetic"))?;
                Ok(Source::Synthetic(seed.unwrap_or(own)))
            }
            WeightSource::Dir(path) if path.is_dir() => {
                let name = path.file_name().map_or_else(
                    || path.display().to_string(),
                    |name| name.to_string_lossy().into_owned(),
                );
                Ok(Source::Dir {
                    path: path.clone(),
                    label: format!("dir: {name}"),
                })
            }
            WeightSource::Dir(path) => Err(LoadError::invalid(
                "--weights",
                format!(
                    "expected bundled, hub, synthetic[:SEED] or a folder, got {:?}",
                    path.display().to_string()
                ),
            )),
        }
    }

    fn available(&self) -> String {
        let kinds = [
            ("bundled", self.bundled.is_some()),
            ("hub", self.hub.is_some()),
            ("synthetic", self.synthetic_seed.is_some()),
        ];
        let kinds: Vec<_> = kinds
            .iter()
            .filter(|(_, there)| *there)
            .map(|(kind, _)| *kind)
            .collect();
        if kinds.is_empty() {
            "none".into()
        } else {
            kinds.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_sources_read_back_what_they_print() {
        for text in [
            "auto",
            "bundled",
            "hub",
            "synthetic",
            "synthetic:7",
            "some/folder",
        ] {
            assert_eq!(text.parse::<WeightSource>().unwrap().to_string(), text);
        }
        assert!("synthetic:x".parse::<WeightSource>().is_err());
        assert!("".parse::<WeightSource>().is_err());
    }
}
