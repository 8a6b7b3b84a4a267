//! What of HTTP/1 is taken more strictly than hyper takes it: a request that a proxy in between may have read as another one is
//! refused.

use axum::http::{HeaderMap, HeaderValue, Method, header};

use crate::http::error::ApiError;

/// Checks a request by its headers, and by its header as it came. That is known in whole unless the request is pipelined: there a
/// body in chunks, the one thing that the headers do not tell all of, is refused.
pub(super) fn check(method: &Method, headers: &HeaderMap, raw: &[u8]) -> Result<(), ApiError> {
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(ApiError::malformed("expected one Host header, got several"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    let is_chunked = |coding: &HeaderValue| {
        let coding = coding.as_bytes().trim_ascii();
        coding.eq_ignore_ascii_case(b"chunked")
    };
    if !is_chunked(coding) || codings.next().is_some() {
        return Err(ApiError::malformed(
            "Transfer-Encoding: expected chunked and nothing else",
        ));
    }
    let line = raw
        .trim_ascii_start()
        .strip_prefix(method.as_str().as_bytes());
    if !line.is_some_and(|rest| rest.starts_with(b" ")) {
        return Err(ApiError::malformed(
            "Transfer-Encoding: a request with it cannot follow another before that is answered",
        ));
    }
    // hyper has taken it away already.
    if headers.contains_key(header::CONTENT_LENGTH) || has_content_length(raw) {
        return Err(ApiError::malformed(
            "expected Content-Length or Transfer-Encoding, got both",
        ));
    }
    Ok(())
}

fn has_content_length(raw: &[u8]) -> bool {
    raw.split(|byte| *byte == b'\n')
        .skip_while(|line| line.trim_ascii().is_empty())
        .take_while(|line| !line.trim_ascii().is_empty())
        .filter_map(|line| line.split(|byte| *byte == b':').next())
        .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"content-length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(raw: &str) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        for line in raw.lines().skip(1).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            let name: header::HeaderName = name.parse().unwrap();
            // As hyper hands them over.
            if name != header::CONTENT_LENGTH {
                headers.append(name, value.trim().parse().unwrap());
            }
        }
        check(&Method::POST, &headers, raw.as_bytes())
    }

    #[test]
    fn a_header_that_is_not_known_in_whole_has_no_chunks() {
        let mut headers = HeaderMap::new();
        assert!(check(&Method::POST, &headers, b"").is_ok());
        headers.append(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
        for (raw, is_fine) in [
            ("\r\nPOST / HTTP/1.1\r\n\r\n", true),
            ("", false),
            ("T / HTTP/1.1\r\n\r\n", false),
            ("POSTS / HTTP/1.1\r\n\r\n", false),
        ] {
            let checked = check(&Method::POST, &headers, raw.as_bytes());
            assert_eq!(checked.is_ok(), is_fine, "{raw}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (lines, is_fine) in [
            ("Host: a", true),
            ("Host: a\r\nContent-Length: 5", true),
            ("Host: a\r\nTransfer-Encoding: Chunked", true),
            ("Host: a\r\nhost: a", false),
            ("Transfer-Encoding: gzip, chunked", false),
            ("Transfer-Encoding: chunked, chunked", false),
            (
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
                false,
            ),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5", false),
            ("content-length: 5\r\nTransfer-Encoding: chunked", false),
        ] {
            let raw = format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n");
            assert_eq!(checked(&raw).is_ok(), is_fine, "{lines}");
        }
    }

    #[test]
    fn a_body_is_no_header() {
        let body = "5\r\nContent-Length: 5\r\n0\r\n\r\n";
        let raw = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert!(checked(&raw).is_ok());
    }
}
