//! The one place that says which error has which gRPC code.

use tonic::{Code, Status, metadata::MetadataValue};

use crate::{engine::InferError, http::error::ApiError};

/// The status of an error, with `retry-after` where trying again makes sense.
pub(super) fn of(error: &ApiError) -> Status {
    let (code, reason) = (code(error), error.to_string());
    tracing::debug!(%code, cause = error.cause(), "refused");
    let mut status = Status::new(code, reason);
    if let Some(seconds) = error.retry_after() {
        let seconds = MetadataValue::from(seconds);
        status.metadata_mut().insert("retry-after", seconds);
    }
    status
}

/// The code of an error.
pub(super) fn code(error: &ApiError) -> Code {
    match error {
        ApiError::Malformed(_)
        | ApiError::UnsupportedType(_)
        | ApiError::AllRefused {
            too_large: false, ..
        } => Code::InvalidArgument,
        // As tonic has it for a message over the limit; RESOURCE_EXHAUSTED would invite another try.
        ApiError::TooLarge { .. }
        | ApiError::AllRefused {
            too_large: true, ..
        }
        | ApiError::Infer(InferError::TooManyItems { .. }) => Code::OutOfRange,
        ApiError::Unauthorized(_) => Code::Unauthenticated,
        ApiError::NotFound(_) => Code::NotFound,
        ApiError::MethodNotAllowed(_) | ApiError::NotSupported(_) => Code::Unimplemented,
        ApiError::Conflict(_) => Code::AlreadyExists,
        ApiError::Busy(_)
        | ApiError::Infer(InferError::QueueFull { .. } | InferError::TooLate { .. }) => {
            Code::ResourceExhausted
        }
        ApiError::NoTable
        | ApiError::Unhealthy(_)
        | ApiError::Infer(InferError::Unavailable(_)) => Code::Unavailable,
        ApiError::SlowBody(_) | ApiError::Infer(InferError::Deadline) => Code::DeadlineExceeded,
        ApiError::Infer(InferError::Failed(_)) => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_cause_has_its_code() {
        let text = || "x".to_owned();
        let refused = |too_large| ApiError::AllRefused {
            too_large,
            reason: text(),
        };
        let full = InferError::QueueFull {
            retry_after: Duration::from_secs(2),
        };
        for (error, expected) in [
            (ApiError::Malformed(text()), Code::InvalidArgument),
            (refused(false), Code::InvalidArgument),
            (refused(true), Code::OutOfRange),
            (
                InferError::TooManyItems { items: 2, limit: 1 }.into(),
                Code::OutOfRange,
            ),
            (ApiError::Unauthorized("x"), Code::Unauthenticated),
            (ApiError::NotFound(text()), Code::NotFound),
            (ApiError::NotSupported("x"), Code::Unimplemented),
            (ApiError::Busy(text()), Code::ResourceExhausted),
            (ApiError::SlowBody(text()), Code::DeadlineExceeded),
            (full.clone().into(), Code::ResourceExhausted),
            (InferError::Unavailable(text()).into(), Code::Unavailable),
            (InferError::Deadline.into(), Code::DeadlineExceeded),
            (InferError::Failed(text()).into(), Code::Internal),
        ] {
            assert_eq!(code(&error), expected, "{error:?}");
        }
        let status = of(&full.into());
        assert_eq!(status.metadata().get("retry-after").unwrap(), "2");
    }
}
