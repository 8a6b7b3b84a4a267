//! JSON as clients send it: what they put before it, and what they take for it.

use serde::Deserialize;

use super::{error::ApiError, signature};

/// A byte order mark, which editors and some libraries put before UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Words that other languages write where JSON has none.
const WORDS: [(&str, &str); 9] = [
    ("NaN", "null"),
    ("Infinity", "null"),
    ("-Infinity", "null"),
    ("inf", "null"),
    ("-inf", "null"),
    ("undefined", "null"),
    ("None", "null"),
    ("True", "true"),
    ("False", "false"),
];

/// The longest of them is found within so many bytes.
const LONGEST: usize = 16;

/// A body without its byte order mark.
pub(super) fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(MARK).unwrap_or(body)
}

/// Reads a whole body.
///
/// # Errors
/// It is no JSON, or another; see [`refusal`].
pub(super) fn read<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, ApiError> {
    let body = without_mark(body);
    serde_json::from_slice(body).map_err(|error| refusal(body, &error))
}

/// Why a body cannot be read as JSON: by what it is, where that can be told.
pub(super) fn refusal(body: &[u8], error: &serde_json::Error) -> ApiError {
    if let Some(words) = signature::not_json(body) {
        return ApiError::malformed(words);
    }
    let word = match error.is_syntax() {
        true => word_at(body, error.line(), error.column()),
        false => None,
    };
    ApiError::malformed(match word {
        Some((word, instead)) => format!(
            "JSON: {word} at line {} column {} is not JSON, which has {instead} in its place",
            error.line(),
            error.column()
        ),
        None => format!("JSON: {error}"),
    })
}

/// The known word that an error is at. The column counts bytes, up to the last that was read: anywhere within the word.
fn word_at(body: &[u8], line: usize, column: usize) -> Option<(&'static str, &'static str)> {
    let line = body
        .split(|byte| *byte == b'\n')
        .nth(line.checked_sub(1)?)?;
    let is_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let at = column.checked_sub(1)?.min(line.len());
    let before = line[..at].iter().rev().take(LONGEST);
    let start = at - before.take_while(|byte| is_of_word(byte)).count();
    let rest = line[start..].iter().take(LONGEST);
    let end = start + rest.take_while(|byte| is_of_word(byte)).count();
    let found = &line[start..end];
    let known = WORDS
        .iter()
        .find(|(word, _)| found.eq_ignore_ascii_case(word.as_bytes()));
    known.copied()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_byte_order_mark_is_passed_over_once() {
        for body in [&b"\xef\xbb\xbf[1]"[..], b"[1]"] {
            assert_eq!(read::<Value>(body).unwrap(), serde_json::json!([1]));
        }
        assert!(read::<Value>(b"\xef\xbb\xbf\xef\xbb\xbf[1]").is_err());
    }

    #[test]
    fn what_is_not_json_is_named() {
        for (body, named) in [
            ("[NaN]", "NaN at line 1 column"),
            ("[nan]", "NaN"),
            ("{\"data\": [1.5,\n  -Infinity]}", "-Infinity at line 2"),
            ("[Infinity]", "Infinity"),
            ("[\"a\", None]", "None"),
            ("NaN", "NaN"),
            ("{\"a\": True}", "True"),
            ("[undefined]", "undefined"),
        ] {
            let error = read::<Value>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{body}: {error}");
            assert!(error.contains("is not JSON"), "{body}: {error}");
        }
        for (body, named) in [
            ("[1", "EOF"),
            ("['a']", "expected value"),
            ("[1e999]", "out of range"),
            ("[\"NaN\" 1]", "expected `,`"),
            ("[Nano]", "expected"),
            ("", "EOF"),
            ("\n\n", "EOF"),
        ] {
            let error = read::<Value>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{body}: {error}");
            assert!(!error.contains("is not JSON"), "{body}: {error}");
        }
    }
}
