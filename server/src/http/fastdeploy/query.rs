//! The query of `/infer` and `/result`.

use std::{borrow::Cow, time::Duration};

use url::form_urlencoded;
use utoipa::IntoParams;

use super::{
    super::error::ApiError,
    answer::{Encoding, Format},
};

/// The most bytes of a `unique_id`.
const MAX_ID: usize = 128;

/// What the query says.
#[derive(Debug, Default, PartialEq, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// The client's own id: the same again with the same body is the same request, and its result can be read later
    #[param(max_length = 128)]
    pub(super) unique_id: Option<String>,
    /// How long the answer may take, in seconds; past it 504
    #[param(exclusive_minimum = 0)]
    pub(super) timeout: Option<f64>,
    /// Answer at once, and let the result be asked for
    #[param(rename = "async", value_type = Option<bool>)]
    pub(super) is_async: bool,
    /// The body's format and the answer's; without it the content type says the body's
    #[param(inline)]
    pub(super) input_type: Option<Format>,
    /// Whether the body is compressed with zstd, and the answer is to be
    #[param(value_type = Option<bool>)]
    pub(super) compressed: bool,
    /// The recipe, where the path names none and there are several
    pub(super) recipe: Option<String>,
}

impl Query {
    /// Reads a query string. With an error comes what could be read, for the answer's encoding.
    pub(super) fn parse(query: Option<&str>) -> (Self, Result<(), ApiError>) {
        let mut parsed = Self::default();
        let mut result = Ok(());
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let read = parsed.set(&key, value);
            result = result.and(read);
        }
        (parsed, result)
    }

    /// How the answer is to be written: as the request was.
    pub(super) fn encoding(&self) -> Encoding {
        Encoding {
            format: self.input_type.unwrap_or_default(),
            compressed: self.compressed,
        }
    }

    /// How long the answer may take.
    pub(super) fn timeout(&self, max: Duration) -> Duration {
        match self.timeout {
            Some(seconds) if seconds < max.as_secs_f64() => Duration::from_secs_f64(seconds),
            _ => max,
        }
    }

    fn set(&mut self, key: &str, value: Cow<'_, str>) -> Result<(), ApiError> {
        match key {
            "unique_id" => self.unique_id = id(value)?,
            "timeout" => self.timeout = Some(timeout(&value)?),
            "async" => self.is_async = boolean("async", &value)?,
            "compressed" => self.compressed = boolean("compressed", &value)?,
            "input_type" => self.input_type = Some(format(&value)?),
            "recipe" => self.recipe = Some(value.into_owned()),
            // Other servers' parameters, caches' and proxies'.
            _ => {}
        }
        Ok(())
    }
}

/// Checks a client's own id; an empty one is none.
pub(super) fn id(value: Cow<'_, str>) -> Result<Option<String>, ApiError> {
    if value.len() > MAX_ID || value.chars().any(char::is_control) {
        return Err(ApiError::malformed(format!(
            "unique_id: expected at most {MAX_ID} bytes of printable text"
        )));
    }
    Ok(Some(value.into_owned()).filter(|id| !id.is_empty()))
}

fn timeout(value: &str) -> Result<f64, ApiError> {
    // The comparison is false for NaN too.
    value
        .parse()
        .ok()
        .filter(|&seconds: &f64| seconds > 0.0)
        .ok_or_else(|| ApiError::malformed("timeout: expected a number of seconds above 0"))
}

fn boolean(key: &str, value: &str) -> Result<bool, ApiError> {
    let is = |words: &[&str]| words.iter().any(|word| value.eq_ignore_ascii_case(word));
    if is(&["true", "t", "1"]) {
        Ok(true)
    } else if is(&["false", "f", "0", ""]) {
        Ok(false)
    } else {
        Err(ApiError::malformed(format!(
            "{key}: expected true or false"
        )))
    }
}

fn format(value: &str) -> Result<Format, ApiError> {
    match value {
        "json" => Ok(Format::Json),
        "msgpack" => Ok(Format::Msgpack),
        "pickle" => Err(ApiError::UnsupportedType(
            "pickle is never accepted, for reading it runs what it contains; use input_type=msgpack or json".into(),
        )),
        _ => Err(ApiError::malformed("input_type: expected json or msgpack")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Query, ApiError> {
        let (query, result) = Query::parse(Some(query));
        result.map(|()| query)
    }

    #[test]
    fn reads_what_official_clients_send() {
        let query = parse(
            "unique_id=a%20b&async=False&input_type=msgpack&compressed=True&timeout=0.5&recipe=echo&x=1",
        );
        let expected = Query {
            unique_id: Some("a b".into()),
            timeout: Some(0.5),
            is_async: false,
            input_type: Some(Format::Msgpack),
            compressed: true,
            recipe: Some("echo".into()),
        };
        assert_eq!(query.unwrap(), expected);
        assert_eq!(Query::parse(None), (Query::default(), Ok(())));
        assert_eq!(parse("unique_id=").unwrap().unique_id, None);
        for yes in ["true", "TRUE", "t", "1"] {
            assert!(parse(&format!("async={yes}")).unwrap().is_async);
        }
    }

    #[test]
    fn says_what_it_expected() {
        let long = format!("unique_id={}", "x".repeat(129));
        for (query, status, expected) in [
            ("timeout=NaN", 400, "seconds"),
            ("timeout=-1", 400, "seconds"),
            ("timeout=0", 400, "seconds"),
            ("timeout=", 400, "seconds"),
            ("async=maybe", 400, "true or false"),
            ("compressed=2", 400, "true or false"),
            ("input_type=xml", 400, "json or msgpack"),
            ("input_type=pickle", 415, "never accepted"),
            ("unique_id=a%0Ab", 400, "printable"),
            (&long, 400, "128 bytes"),
        ] {
            let error = parse(query).unwrap_err();
            assert_eq!(error.status().as_u16(), status, "{query}");
            assert!(error.to_string().contains(expected), "{query}: {error}");
        }
    }

    #[test]
    fn the_first_error_counts_and_the_encoding_is_known_all_the_same() {
        let (query, result) =
            Query::parse(Some("timeout=x&compressed=true&async=y&input_type=msgpack"));
        assert!(result.unwrap_err().to_string().contains("timeout"));
        assert_eq!(
            query.encoding(),
            Encoding {
                format: Format::Msgpack,
                compressed: true
            }
        );
    }

    #[test]
    fn a_timeout_is_capped() {
        let max = Duration::from_secs(60);
        let timeout = |query| parse(query).unwrap().timeout(max);
        assert_eq!(timeout("timeout=0.25"), Duration::from_millis(250));
        assert_eq!(timeout("timeout=1e300"), max);
        assert_eq!(timeout("timeout=inf"), max);
        assert_eq!(timeout("timeout=1e-300"), Duration::ZERO);
        assert_eq!(timeout(""), max);
    }
}
