//! Errors by cause: of an input, of a forward pass, of loading; and what of candle's is for people to read.

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
    /// What the network made of it is no number, or one beyond the dtype's.
    #[error(
        "the network's numbers for this input are not finite in {dtype}; a wider --dtype may answer it"
    )]
    NotFinite {
        /// What the network computes in.
        dtype: &'static str,
    },
    /// Nobody waits for its answer any more.
    #[error("not wanted any more")]
    NotWanted,
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
    Failed(candle_core::Error),
}

impl From<candle_core::Error> for ForwardError {
    fn from(error: candle_core::Error) -> Self {
        let error = without_backtrace(error);
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
    Model(candle_core::Error),
}

impl From<candle_core::Error> for LoadError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(without_backtrace(error))
    }
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

/// A candle error without the backtraces that candle writes into its messages where `RUST_BACKTRACE` is set: they are for
/// nobody who reads an answer or a log. Every error of candle's that becomes a message goes through here.
pub fn without_backtrace(error: candle_core::Error) -> candle_core::Error {
    use candle_core::Error;
    match error {
        Error::WithBacktrace { inner, .. } => without_backtrace(*inner),
        Error::Context { inner, context } => Error::Context {
            inner: Box::new(without_backtrace(*inner)),
            context,
        },
        Error::WithPath { inner, path } => Error::WithPath {
            inner: Box::new(without_backtrace(*inner)),
            path,
        },
        Error::WrappedContext { wrapped, context } => Error::WrappedContext {
            wrapped: match wrapped.downcast() {
                Ok(inner) => Box::new(without_backtrace(*inner)),
                Err(other) => other,
            },
            context,
        },
        other => other,
    }
}

/// Why [`run_batch`](crate::run_batch) gave nothing at all.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RunError(#[from] pub ForwardError);

#[cfg(test)]
mod tests {
    use std::backtrace::Backtrace;

    use candle_core::Error;

    use super::*;

    /// As candle makes one where `RUST_BACKTRACE` is set.
    fn traced(inner: Error) -> Error {
        Error::WithBacktrace {
            inner: Box::new(inner),
            backtrace: Box::new(Backtrace::force_capture()),
        }
    }

    /// The same error with a backtrace at every place that one can be, or at none.
    fn nested(at: fn(Error) -> Error) -> Error {
        let message = at(Error::Msg("expected a, got b".into()));
        let with_path = at(message.with_path("weights"));
        let wrapped = at(Error::WrappedContext {
            wrapped: Box::new(with_path),
            context: "while reading".into(),
        });
        at(wrapped.context("while loading"))
    }

    #[test]
    fn messages_of_candle_s_errors_have_no_backtraces() {
        let expected = nested(|error| error).to_string();
        let frames = |text: &str| text.contains("messages_of_candle_s_errors");
        assert!(frames(&nested(traced).to_string()), "there is none to lose");
        assert_eq!(without_backtrace(nested(traced)).to_string(), expected);
        for message in [
            ForwardError::from(nested(traced)).to_string(),
            LoadError::from(nested(traced)).to_string(),
        ] {
            assert!(message.ends_with(&expected), "{message}");
            assert!(!frames(&message), "{message}");
        }
    }

    #[test]
    fn a_device_that_has_no_memory_left_is_told_from_other_failures() {
        let of = |text: &str| ForwardError::from(traced(Error::Msg(text.into())));
        let out = of("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert!(matches!(out, ForwardError::OutOfMemory), "{out}");
        let other = of("DriverError(CUDA_ERROR_LAUNCH_FAILED)");
        assert!(matches!(other, ForwardError::Failed(_)), "{other}");
    }
}
