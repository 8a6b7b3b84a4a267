//! The one place that says which error has which status.
//!
//! A protocol renders an [`ApiError`] in its own shape; status, metrics' outcome and `Retry-After` come from here.

use std::time::Duration;

use axum::http::StatusCode;

use crate::{engine::InferError, metrics::Outcome};

/// How long a caller should wait where the server itself was too busy to take the request.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request is not answered; the messages are for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// The query or the body is not what was expected.
    #[error("{0}")]
    Malformed(String),
    /// The body's format is never accepted.
    #[error("{0}")]
    UnsupportedType(String),
    /// Larger than a limit.
    #[error("{what} exceeds the limit of {limit} ({option})")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit, with its unit.
        limit: String,
        /// The option that sets it.
        option: &'static str,
    },
    /// Not a single item of the request could be read, or one of them where all are answered together.
    #[error("{reason}")]
    AllRefused {
        /// Whether what could not be read was too large.
        too_large: bool,
        /// The first such item's reason, and how many there are.
        reason: String,
    },
    /// No valid API key came along.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// There is no such path, recipe or result.
    #[error("{0}")]
    NotFound(String),
    /// The path has no such method.
    #[error("{0}")]
    MethodNotAllowed(String),
    /// What is asked for is known, and not done here.
    #[error("{0}")]
    NotSupported(&'static str),
    /// The id stands for another request.
    #[error("{0}")]
    Conflict(String),
    /// The server has no room for the request now.
    #[error("{0}")]
    Busy(String),
    /// The body stood still, or came too slowly while its room was needed.
    #[error("{0}")]
    SlowBody(String),
    /// The job cannot be stored, and so is not accepted, or cannot be looked up.
    #[error("the table of jobs cannot be reached now")]
    NoTable,
    /// A health check fails.
    #[error("{0}")]
    Unhealthy(String),
    /// The engine did not answer.
    #[error(transparent)]
    Infer(#[from] InferError),
}

impl ApiError {
    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_)
            | Self::AllRefused {
                too_large: false, ..
            } => StatusCode::BAD_REQUEST,
            Self::UnsupportedType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. }
            | Self::AllRefused {
                too_large: true, ..
            }
            | Self::Infer(InferError::TooManyItems { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Busy(_)
            | Self::Infer(InferError::QueueFull { .. } | InferError::TooLate { .. }) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::SlowBody(_) => StatusCode::REQUEST_TIMEOUT,
            Self::NoTable | Self::Unhealthy(_) | Self::Infer(InferError::Unavailable(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Infer(InferError::Deadline) => StatusCode::GATEWAY_TIMEOUT,
            Self::Infer(InferError::Failed(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What metrics count the request as.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::TooLarge { .. }
            | Self::AllRefused {
                too_large: true, ..
            } => Outcome::TooLarge,
            Self::Busy(_) => Outcome::QueueFull,
            Self::NoTable | Self::Unhealthy(_) => Outcome::Unavailable,
            Self::Infer(error) => error.outcome(),
            Self::Malformed(_)
            | Self::AllRefused {
                too_large: false, ..
            }
            | Self::UnsupportedType(_)
            | Self::SlowBody(_)
            | Self::Unauthorized(_)
            | Self::NotFound(_)
            | Self::MethodNotAllowed(_)
            | Self::NotSupported(_)
            | Self::Conflict(_) => Outcome::BadRequest,
        }
    }

    /// The cause's name, for logs: the message may quote what the client sent.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::UnsupportedType(_) => "unsupported type",
            Self::TooLarge { option, .. } => option,
            Self::AllRefused { .. } => "no input can be read",
            Self::Unauthorized(_) => "unauthorized",
            Self::NotFound(_) => "not found",
            Self::MethodNotAllowed(_) => "method not allowed",
            Self::NotSupported(_) => "not supported",
            Self::Conflict(_) => "conflict",
            Self::Busy(_) => "busy",
            Self::SlowBody(_) => "slow body",
            Self::NoTable => "no table of jobs",
            Self::Unhealthy(_) => "unhealthy",
            Self::Infer(InferError::TooManyItems { .. }) => "too many items",
            Self::Infer(InferError::QueueFull { .. }) => "queue full",
            Self::Infer(InferError::TooLate { .. }) => "too late",
            Self::Infer(InferError::Unavailable(_)) => "unavailable",
            Self::Infer(InferError::Deadline) => "timeout",
            Self::Infer(InferError::Failed(_)) => "failed",
        }
    }

    /// The seconds of `Retry-After`, where trying again makes sense.
    pub(super) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Busy(_) | Self::NoTable => Some(RETRY_AFTER.as_secs()),
            Self::Infer(
                InferError::QueueFull { retry_after } | InferError::TooLate { retry_after },
            ) => {
                // Whole seconds, and rather one more than a second refusal.
                Some((retry_after.as_secs_f64().ceil() as u64).max(1))
            }
            _ => None,
        }
    }

    /// [`ApiError::Malformed`] from anything that prints.
    pub(super) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed(reason.into())
    }

    /// The refusal of an id that stands for something else.
    pub(super) fn other_body() -> Self {
        Self::Conflict("this unique_id was given to a request with another body".into())
    }

    /// The refusal of one more job.
    pub(super) fn too_many_jobs() -> Self {
        Self::Busy("as many requests with a unique_id run as may (--max-results)".into())
    }

    /// The refusal of a compressed body that comes out larger than this.
    pub(super) fn decompresses_to_more(limit: u64) -> Self {
        Self::TooLarge {
            what: "the decompressed body".into(),
            limit: format!("{limit} bytes"),
            option: "--max-decompressed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_status() {
        let text = || "x".to_owned();
        let too_large = ApiError::TooLarge {
            what: text(),
            limit: text(),
            option: "--max-body",
        };
        let refused = |too_large| ApiError::AllRefused {
            too_large,
            reason: text(),
        };
        let full = InferError::QueueFull {
            retry_after: Duration::from_millis(1),
        };
        for (error, status) in [
            (ApiError::Malformed(text()), 400),
            (refused(false), 400),
            (refused(true), 413),
            (too_large, 413),
            (InferError::TooManyItems { items: 2, limit: 1 }.into(), 413),
            (ApiError::UnsupportedType(text()), 415),
            (ApiError::Unauthorized("x"), 401),
            (ApiError::NotFound(text()), 404),
            (ApiError::MethodNotAllowed(text()), 405),
            (ApiError::NotSupported("x"), 501),
            (ApiError::Conflict(text()), 409),
            (ApiError::Busy(text()), 429),
            (full.clone().into(), 429),
            (ApiError::SlowBody(text()), 408),
            (ApiError::NoTable, 503),
            (ApiError::Unhealthy(text()), 503),
            (InferError::Unavailable(text()).into(), 503),
            (InferError::Deadline.into(), 504),
            (InferError::Failed(text()).into(), 500),
        ] {
            assert_eq!(error.status().as_u16(), status, "{error:?}");
        }
        assert_eq!(
            ApiError::from(full).retry_after(),
            Some(1),
            "rounded up, as 0 would mean at once"
        );
    }
}
