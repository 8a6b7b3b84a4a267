//! What can go wrong in a benchmark, by cause.

use std::{io, path::PathBuf};

use galley_core::{ForwardError, InputError, LoadError};

/// The result of the crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The path that stands for it in [`Error::File`].
pub(crate) const STDOUT: &str = "standard output";

/// Why a benchmark gave no figure. Failed requests are no error: they are counted and shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value that makes no sense here.
    #[error("{option}: {reason}")]
    Option {
        /// The option as typed.
        option: &'static str,
        /// What was expected and what came.
        reason: String,
    },
    /// The recipe could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The recipe refused an example of its own corpus.
    #[error("example {index} of the {corpus} corpus: {source}")]
    Example {
        /// The corpus.
        corpus: &'static str,
        /// The example's number.
        index: usize,
        /// Why.
        source: InputError,
    },
    /// A batch failed in process.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// An operator failed.
    #[error("operator {operator}: {source}")]
    Operator {
        /// Its name.
        operator: String,
        /// Why.
        source: candle_core::Error,
    },
    /// Data that are part of the program cannot be read: the build is broken.
    #[error("bundled {what}: {reason}")]
    Bundled {
        /// Which data.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record cannot be read back.
    #[error("{}, line {line}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// A process that was started failed or did not become ready.
    #[error("the {what} that was started {reason}")]
    Process {
        /// What it was to be.
        what: &'static str,
        /// What it did instead, with the end of its log.
        reason: String,
    },
    /// The table of a stream cannot be read.
    #[error("cannot read the table: {0}")]
    Table(String),
    /// A stream's rows are not those that its messages should have.
    #[error("the rows are wrong: {0}")]
    Rows(String),
    /// The server at the URL does not serve the recipe, or does not answer.
    #[error("{url}: {reason}")]
    Target {
        /// The server's URL.
        url: String,
        /// What was expected and what came.
        reason: String,
    },
    /// The HTTP client or its runtime could not be set up.
    #[error("cannot set up the load generator: {0}")]
    Client(String),
    /// Something is slower than it was, and the run was to fail for that.
    #[error("slower than before: {}", .0.join("; "))]
    Regression(Vec<String>),
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// Whether all that has failed is that nobody reads standard output any more.
    pub fn has_no_reader(&self) -> bool {
        matches!(self, Self::File { path, source }
            if path.as_os_str() == STDOUT && source.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn option(option: &'static str, reason: impl Into<String>) -> Self {
        Self::Option {
            option,
            reason: reason.into(),
        }
    }
}
