//! Answers, always of one shape, in the request's own encoding.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use galley_core::InputError;
use serde::Serialize;
use utoipa::ToSchema;

use super::stored::{Prediction, Stored};
use crate::{
    engine::Answers,
    http::{error::ApiError, zstd},
    metrics::Outcome,
};

/// Room for a small answer.
const CAPACITY: usize = 256;

/// The content types that answers may have besides JSON: msgpack, and either compressed with zstd.
pub(in crate::http) const ENCODED: &[&str] = &["application/msgpack", "application/octet-stream"];

/// A serialisation format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Format {
    #[default]
    Json,
    Msgpack,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Encoding {
    pub(super) format: Format,
    /// With zstd.
    pub(super) compressed: bool,
}

/// The one shape of answers
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Answer<'a> {
    /// Null while the request is processed
    #[schema(required)]
    pub(super) success: Option<bool>,
    #[schema(required)]
    pub(super) unique_id: Option<&'a str>,
    /// One for each input, in order; {"error": "..."} for one that cannot be read
    #[schema(required, value_type = Option<Vec<serde_json::Value>>)]
    pub(super) prediction: Option<Prediction<'a>>,
    /// Why there is no prediction
    #[schema(required)]
    pub(super) reason: Option<&'a str>,
}

/// What an asynchronous request is answered at once: this and no more, which tells it from an [`Answer`]
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Accepted<'a> {
    success: bool,
    unique_id: &'a str,
}

/// Whether answers count as a success: items may fail, but not every one.
pub(super) fn verdict(answers: &Answers) -> Result<Outcome, ApiError> {
    let refused = || answers.iter().filter_map(|answer| answer.as_ref().err());
    let Some(first) = refused().next() else {
        return Ok(Outcome::Ok);
    };
    if refused().count() < answers.len() {
        return Ok(Outcome::Partial);
    }
    Err(ApiError::AllRefused {
        too_large: refused().all(|error| matches!(error, InputError::TooLarge { .. })),
        reason: match answers.len() {
            1 => first.to_string(),
            items => format!("none of the {items} inputs can be answered; the first: {first}"),
        },
    })
}

impl Encoding {
    /// The answer to a request that was answered, whatever came of its items.
    pub(super) fn answers(self, unique_id: &str, answers: &Answers) -> (Response, Outcome) {
        self.prediction(unique_id, Prediction::Answers(answers), verdict(answers))
    }

    /// The same from what is remembered of it.
    pub(super) fn stored(self, unique_id: &str, stored: &Stored) -> (Response, Outcome) {
        self.prediction(unique_id, stored.prediction(), stored.verdict.clone())
    }

    fn prediction(
        self,
        unique_id: &str,
        prediction: Prediction<'_>,
        verdict: Result<Outcome, ApiError>,
    ) -> (Response, Outcome) {
        match verdict {
            Ok(outcome) => {
                let answer = Answer {
                    success: Some(true),
                    unique_id: Some(unique_id),
                    prediction: Some(prediction),
                    reason: None,
                };
                (self.write(StatusCode::OK, &answer), outcome)
            }
            Err(error) => (
                self.failure(Some(unique_id), Some(prediction), &error),
                error.outcome(),
            ),
        }
    }

    /// The answer to a request that failed.
    pub(super) fn error(self, unique_id: Option<&str>, error: &ApiError) -> Response {
        self.failure(unique_id, None, error)
    }

    /// The answer to an asynchronous request.
    pub(super) fn accepted(self, unique_id: &str) -> Response {
        self.write(
            StatusCode::OK,
            &Accepted {
                success: true,
                unique_id,
            },
        )
    }

    /// The answer while a request runs.
    pub(super) fn processing(self, unique_id: &str) -> Response {
        let answer = Answer {
            success: None,
            unique_id: Some(unique_id),
            prediction: None,
            reason: Some("processing"),
        };
        self.write(StatusCode::OK, &answer)
    }

    fn failure(
        self,
        unique_id: Option<&str>,
        prediction: Option<Prediction<'_>>,
        error: &ApiError,
    ) -> Response {
        let reason = error.to_string();
        tracing::debug!(
            status = error.status().as_u16(),
            cause = error.cause(),
            "refused"
        );
        let answer = Answer {
            success: Some(false),
            unique_id,
            prediction,
            reason: Some(&reason),
        };
        let mut response = self.write(error.status(), &answer);
        if let Some(seconds) = error.retry_after() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }

    fn write(self, status: StatusCode, answer: &impl Serialize) -> Response {
        match self.encode(answer) {
            Ok((content_type, bytes)) => {
                let mut response = Response::new(Body::from(bytes));
                *response.status_mut() = status;
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
                response
            }
            Err(error) => {
                tracing::error!(%error, "an answer cannot be written");
                let mut response = Response::new(Body::from(
                    r#"{"success":false,"unique_id":null,"prediction":null,"reason":"the answer cannot be written"}"#,
                ));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        }
    }

    fn encode(self, answer: &impl Serialize) -> anyhow::Result<(&'static str, Vec<u8>)> {
        let mut bytes = Vec::with_capacity(CAPACITY);
        let content_type = match self.format {
            Format::Json => {
                serde_json::to_writer(&mut bytes, answer)?;
                "application/json"
            }
            Format::Msgpack => {
                answer.serialize(&mut rmp_serde::Serializer::new(&mut bytes).with_struct_map())?;
                "application/msgpack"
            }
        };
        if !self.compressed {
            return Ok((content_type, bytes));
        }
        Ok(("application/octet-stream", zstd::compress(&bytes)?))
    }
}
