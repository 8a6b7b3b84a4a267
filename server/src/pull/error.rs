//! Why a pull failed, by cause.

use std::{io, path::PathBuf};

/// Why weights could not be pulled. Whatever the cause, what was in the cache before is still there and still good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// `HF_ENDPOINT` or `HF_TOKEN` cannot be used.
    #[error("{variable}: {reason}")]
    BadSetting {
        /// The variable.
        variable: &'static str,
        /// What was expected and what came.
        reason: String,
    },
    /// The revision cannot be the name of a branch, tag or commit.
    #[error("expected a branch, tag or commit as the revision, got {revision:?}")]
    BadRevision {
        /// What came.
        revision: String,
    },
    /// The hub cannot be reached, or the connection broke before its answer began.
    #[error("cannot reach {host}: {cause}")]
    Unreachable {
        /// The host, with its port.
        host: String,
        /// Why.
        cause: Box<ureq::Error>,
    },
    /// The hub refuses: the repository is private or gated, or there is none (the hub does not tell strangers which).
    #[error(
        "the hub refused access to {repo} ({status}): the repository does not exist, or is private or gated; {advice}"
    )]
    Denied {
        /// The repository.
        repo: String,
        /// The HTTP status: 401 or 403.
        status: u16,
        /// What to do about it.
        advice: &'static str,
    },
    /// There is no such repository, or no such revision of it.
    #[error("{host} has no {repo} with a revision {revision} (404)")]
    NoSuchRevision {
        /// The hub's host.
        host: String,
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
    },
    /// The repository has no such file.
    #[error("{repo} has no {file} at {commit} (404)")]
    NoSuchFile {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The commit.
        commit: String,
    },
    /// Any other status that is not a success.
    #[error("{what}: expected a success, got status {status}")]
    Status {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub's answer is not what its protocol promises.
    #[error("{what}: {reason}")]
    BadReply {
        /// What was asked for.
        what: String,
        /// What was expected and what came.
        reason: String,
    },
    /// Fewer bytes came than were announced, however often the download was resumed.
    #[error("{file} is truncated: expected {expected} bytes, got {got} ({reason})")]
    Truncated {
        /// The file.
        file: String,
        /// Its announced size, in bytes.
        expected: u64,
        /// What came, in bytes.
        got: u64,
        /// How the download ended.
        reason: String,
    },
    /// The bytes came, and they are not those that the hub announced.
    #[error("{file} is not the file that was announced: expected hash {expected}, got {got}")]
    WrongContent {
        /// The file.
        file: String,
        /// The announced hash.
        expected: String,
        /// The hash of what came.
        got: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot use {}: {cause}", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

impl PullError {
    /// Whether the same request may succeed a moment later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Truncated { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 416 | 429 | 500..=599),
            Self::Unreachable { cause, .. } => match &**cause {
                // A certificate that is not trusted is reported as invalid data.
                ureq::Error::Io(error) => error.kind() != io::ErrorKind::InvalidData,
                ureq::Error::Timeout(_)
                | ureq::Error::ConnectionFailed
                | ureq::Error::Protocol(_) => true,
                _ => false,
            },
            _ => false,
        }
    }

    /// A [`PullError::Cache`] for a path, to hand to `map_err`.
    pub(super) fn cache(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Cache { path, cause }
    }

    /// A [`PullError::BadReply`].
    pub(super) fn reply(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::BadReply {
            what: what.into(),
            reason: reason.into(),
        }
    }
}
