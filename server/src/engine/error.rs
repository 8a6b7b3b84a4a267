//! Why a request was not answered at all.

use std::time::Duration;

use crate::metrics::Outcome;

/// Why a request was not answered at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// More items than the queue could ever hold.
    #[error("request of {items} items exceeds the limit of {limit} items (--max-queue-size)")]
    TooManyItems {
        /// The items of the request.
        items: usize,
        /// The queue's bound.
        limit: usize,
    },
    /// The queue has no room now.
    #[error("the queue is full (--max-queue-size)")]
    QueueFull {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// By what items have taken lately, the answer would come after the request's time.
    #[error("too much is waiting for an answer within the request's time")]
    TooLate {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The server is warming up, draining or its device has failed.
    #[error("{0}")]
    Unavailable(String),
    /// The deadline passed first.
    #[error("timeout")]
    Deadline,
    /// The device or the recipe failed; the reason is fit for a caller's eyes.
    #[error("{0}")]
    Failed(String),
}

impl InferError {
    /// The outcome that metrics count it as.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::TooManyItems { .. } => Outcome::TooLarge,
            Self::QueueFull { .. } | Self::TooLate { .. } => Outcome::QueueFull,
            Self::Unavailable(_) => Outcome::Unavailable,
            Self::Deadline => Outcome::Timeout,
            Self::Failed(_) => Outcome::Failed,
        }
    }
}
