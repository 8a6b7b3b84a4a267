//! A request's parameters: which are honoured, and which are refused as they would change the answer.
//!
//! What is in neither list says something to other servers only, and is passed over.

use std::time::{Duration, Instant};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

use utoipa::ToSchema;

use crate::http::error::ApiError;

/// A parameter's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
}

impl Scalar {
    fn is_zero(&self) -> bool {
        match self {
            Self::Unsigned(number) => *number == 0,
            Self::Signed(number) => *number == 0,
            Self::Text(text) => text.is_empty(),
            Self::Bool(_) | Self::Float(_) => false,
        }
    }
}

/// The parameters of a request that mean something here.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct RequestParameters {
    /// How long the answer may take, in microseconds; 0: as long as the server allows
    #[schema(value_type = Option<u64>)]
    pub(super) timeout: Option<Scalar>,
    /// Refused unless it is 0
    #[schema(value_type = Option<u64>)]
    pub(super) priority: Option<Scalar>,
    /// Refused unless it is 0 or empty
    #[schema(value_type = Option<serde_json::Value>)]
    pub(super) sequence_id: Option<Scalar>,
    /// Whether outputs are binary that do not say it themselves
    pub(super) binary_data_output: Option<bool>,
}

impl RequestParameters {
    /// Refuses what cannot be honoured, and gives the time by which the request is to be answered.
    pub(super) fn deadline(&self, start: Instant, max: Duration) -> Result<Instant, ApiError> {
        let is_asked =
            |parameter: &Option<Scalar>| parameter.as_ref().is_some_and(|value| !value.is_zero());
        if is_asked(&self.priority) {
            return Err(ApiError::malformed(
                "priority: all requests have the same; expected 0 or none",
            ));
        }
        if is_asked(&self.sequence_id) {
            return Err(ApiError::malformed(
                "sequence_id: models here have no state; expected 0 or none",
            ));
        }
        let micros = match self.timeout {
            None => 0,
            Some(Scalar::Unsigned(micros)) => micros,
            Some(Scalar::Signed(micros)) if micros >= 0 => micros.unsigned_abs(),
            Some(_) => {
                return Err(ApiError::malformed(
                    "timeout: expected a number of microseconds",
                ));
            }
        };
        Ok(start
            + match micros {
                0 => max,
                _ => max.min(Duration::from_micros(micros)),
            })
    }
}

/// The parameters of an input or an output that mean something here.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct TensorParameters {
    /// How many bytes of the binary part are this input's
    pub(super) binary_data_size: Option<u64>,
    /// Whether this output is to be binary
    pub(super) binary_data: Option<bool>,
    /// Refused unless it is 0
    #[schema(value_type = Option<u64>)]
    pub(super) classification: Option<Scalar>,
    /// Refused
    #[schema(value_type = Option<serde_json::Value>)]
    pub(super) shared_memory_region: Option<Scalar>,
}

impl TensorParameters {
    /// Refuses what cannot be honoured.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        if self.shared_memory_region.is_some() {
            return Err(ApiError::malformed(
                "shared_memory_region: this server shares no memory with its clients",
            ));
        }
        if self
            .classification
            .as_ref()
            .is_some_and(|count| !count.is_zero())
        {
            return Err(ApiError::malformed(
                "classification: recipes name and sort their classes themselves; expected none",
            ));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// By hand, as serde's own way would first keep whatever came, lists of any length too.
        struct Scalars;

        impl Visitor<'_> for Scalars {
            type Value = Scalar;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, a text, true or false")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Bool(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar::Unsigned(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Signed(value))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(value))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(value.to_owned()))
            }
        }

        deserializer.deserialize_any(Scalars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(60);

    fn deadline(json: &str) -> Result<Duration, String> {
        let parameters: RequestParameters =
            serde_json::from_str(json).map_err(|error| error.to_string())?;
        let start = Instant::now();
        let deadline = parameters.deadline(start, MAX);
        deadline
            .map(|deadline| deadline - start)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_timeout_is_in_microseconds_and_within_the_servers() {
        assert_eq!(
            deadline(r#"{"timeout": 1500}"#),
            Ok(Duration::from_micros(1500))
        );
        for json in [
            "{}",
            r#"{"timeout": 0}"#,
            r#"{"timeout": null}"#,
            r#"{"timeout": 18446744073709551615}"#,
            r#"{"priority": 0, "sequence_id": "", "content_type": {"of": ["others"]}}"#,
        ] {
            assert_eq!(deadline(json), Ok(MAX), "{json}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for (json, reason) in [
            (
                r#"{"timeout": -1}"#,
                "timeout: expected a number of microseconds",
            ),
            (r#"{"timeout": 1.5}"#, "timeout"),
            (r#"{"timeout": "1"}"#, "timeout"),
            (r#"{"timeout": [1]}"#, "a number, a text, true or false"),
            (r#"{"priority": 1}"#, "priority"),
            (r#"{"priority": "high"}"#, "priority"),
            (r#"{"sequence_id": 3}"#, "sequence_id"),
        ] {
            let error = deadline(json).unwrap_err();
            assert!(error.contains(reason), "{json}: {error}");
        }
        for json in [
            r#"{"classification": 3}"#,
            r#"{"shared_memory_region": "r"}"#,
        ] {
            let parameters: TensorParameters = serde_json::from_str(json).unwrap();
            assert!(parameters.check().is_err(), "{json}");
        }
    }
}
