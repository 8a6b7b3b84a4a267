//! Errors by cause: of an input, of a forward pass, of loading.

use std::path::PathBuf;

/// Why one input cannot be answered. It concerns that input alone, and its message is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The input is not of the kind that the recipe takes.
    #[error("expected {expected}, got {got}")]
    WrongKind {
        /// What the recipe takes.
        expected: &'static str,
        /// What came.
        got: &'static str,
    },
    /// The input is of the right kind, but cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The input would cost more than it may.
    #[error("{what} exceeds the limit of {limit} ({option})")]
    TooLarge {
        /// What is too large, with its size: `image of 1600000000 pixels`.
        what: String,
        /// The limit with its unit: `67108864 pixels`.
        limit: String,
        /// The option that sets the limit: `--max-pixels`.
        option: &'static str,
    },
}

/// Why a batch could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The device has too little memory for a batch of this size; a smaller one may run.
    #[error("out of device memory")]
    OutOfMemory,
    /// The tensors handed in do not fit the model (only from raw tensors, never from prepared inputs).
    #[error("{0}")]
    BadTensors(String),
    /// Anything else.
    #[error("forward pass failed: {0}")]
    Failed(#[source] candle_core::Error),
}

impl From<candle_core::Error> for ForwardError {
    fn from(error: candle_core::Error) -> Self {
        // candle hands the driver's error through as text alone.
        let text = error.to_string();
        if text.contains("OUT_OF_MEMORY") || text.contains("out of memory") {
            Self::OutOfMemory
        } else {
            Self::Failed(error)
        }
    }
}

/// Why a recipe could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No recipe has this name.
    #[error("unknown recipe {name:?}; the recipes are {known}")]
    UnknownRecipe {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// The recipe has no weights of this kind.
    #[error("{recipe} has no {wanted} weights; it has {available}")]
    NoSuchWeights {
        /// The recipe.
        recipe: &'static str,
        /// What was asked for.
        wanted: &'static str,
        /// What there is.
        available: String,
    },
    /// The hub's weights are not in the cache.
    #[error("the weights of {repo} are not in {}; run `galley pull {recipe}`", cache.display())]
    NotPulled {
        /// The recipe.
        recipe: &'static str,
        /// The hub repository.
        repo: String,
        /// The cache folder that was searched.
        cache: PathBuf,
    },
    /// A file is missing or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file was read, but is not what was expected.
    #[error("{what}: {reason}")]
    Invalid {
        /// The file or setting.
        what: String,
        /// What was expected and what came.
        reason: String,
    },
    /// The device or dtype cannot be used.
    #[error("{0}")]
    Unsupported(String),
    /// A tensor is missing or has another shape, or building the model failed.
    #[error("cannot build the model: {0}")]
    Model(#[from] candle_core::Error),
}

impl LoadError {
    /// An [`LoadError::Invalid`] from anything that prints.
    pub fn invalid(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Invalid {
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}

/// Why [`run_batch`](crate::run_batch) gave nothing at all.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RunError(#[from] pub ForwardError);
