//! The time that a caller gives a call: the header `grpc-timeout`.

use std::time::Duration;

use axum::http::HeaderMap;

/// The header's name.
pub(super) const TIMEOUT: &str = "grpc-timeout";
/// Its most digits, by the gRPC specification.
const MAX_DIGITS: usize = 8;

/// How long the call may take: what the caller says, but `max` at the most.
///
/// # Errors
/// The header is none; the message says what was expected.
pub(super) fn of(headers: &HeaderMap, max: Duration) -> Result<Duration, &'static str> {
    match headers.get(TIMEOUT) {
        None => Ok(max),
        Some(value) => value
            .to_str()
            .ok()
            .and_then(parse)
            .map(|timeout| timeout.min(max))
            .ok_or("grpc-timeout: expected up to 8 digits and one of H, M, S, m, u, n"),
    }
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let valid = !digits.is_empty()
        && digits.len() <= MAX_DIGITS
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = valid.then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_nonsense_is_not() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("10S", Some(Duration::from_secs(10))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("1n", Some(Duration::from_nanos(1))),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("+5S", None),
            ("123456789S", None),
            ("5ü", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
