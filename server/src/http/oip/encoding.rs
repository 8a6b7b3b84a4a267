//! HTTP's content encodings, gzip and deflate, with a bound on what comes out.

use std::io::{Read, Write};

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use flate2::{
    Compression,
    bufread::{GzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};

use crate::http::error::ApiError;

/// Smaller answers are sent as they are: compressing them takes longer than sending them.
const WORTHWHILE: usize = 1 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    /// That is zlib's format, by HTTP's own definition.
    Deflate,
}

impl Encoding {
    fn of(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// How a request's body is encoded.
    pub(super) fn of_body(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.get(header::CONTENT_ENCODING) else {
            return Ok(None);
        };
        if value == "identity" {
            return Ok(None);
        }
        value
            .to_str()
            .ok()
            .and_then(Self::of)
            .map(Some)
            .ok_or_else(|| {
                ApiError::UnsupportedType("Content-Encoding: expected gzip or deflate".into())
            })
    }

    /// How an answer of that size may be encoded, so that it is worthwhile.
    pub(super) fn of_answer(headers: &HeaderMap, size: usize) -> Option<Self> {
        let accepted = headers.get(header::ACCEPT_ENCODING)?.to_str().ok()?;
        if size < WORTHWHILE {
            return None;
        }
        accepted.split(',').find_map(|choice| {
            let (name, quality) = choice.split_once(';').unwrap_or((choice, ""));
            let quality = quality.trim().strip_prefix("q=").unwrap_or("1");
            let is_refused = quality.parse::<f32>().is_ok_and(|quality| quality == 0.0);
            Self::of(name.trim()).filter(|_| !is_refused)
        })
    }

    pub(super) fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        })
    }

    /// Decompresses to at most `limit` bytes.
    pub(super) fn decompress(self, bytes: &[u8], limit: u64) -> Result<Bytes, ApiError> {
        let mut plain = Vec::new();
        let most = limit.saturating_add(1);
        let read = match self {
            Self::Gzip => GzDecoder::new(bytes).take(most).read_to_end(&mut plain),
            Self::Deflate => ZlibDecoder::new(bytes).take(most).read_to_end(&mut plain),
        };
        if plain.len() as u64 > limit {
            return Err(ApiError::TooLarge {
                what: "the decompressed body".into(),
                limit: format!("{limit} bytes"),
                option: "--max-decompressed",
            });
        }
        match read {
            Ok(_) => Ok(plain.into()),
            Err(_) => Err(ApiError::malformed(
                "the body is not compressed as Content-Encoding says",
            )),
        }
    }

    pub(super) fn compress(self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let packed = Vec::with_capacity(bytes.len() / 2);
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(packed, Compression::fast());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(packed, Compression::fast());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_out_again_up_to_the_limit() {
        let text = b"abc".repeat(1000);
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let packed = encoding.compress(&text).unwrap();
            assert!(packed.len() < 100);
            assert_eq!(encoding.decompress(&packed, 3000).unwrap(), text);
            assert!(matches!(
                encoding.decompress(&packed, 2999),
                Err(ApiError::TooLarge { .. })
            ));
            for broken in [&packed[..packed.len() - 9], b"not compressed"] {
                assert!(matches!(
                    encoding.decompress(broken, 3000),
                    Err(ApiError::Malformed(_))
                ));
            }
        }
    }

    #[test]
    fn the_first_encoding_that_the_client_accepts_is_taken() {
        use Encoding::{Deflate, Gzip};
        for (accepted, expected) in [
            ("gzip", Some(Gzip)),
            ("br, deflate, gzip", Some(Deflate)),
            ("gzip;q=0, deflate;q=0.5", Some(Deflate)),
            ("identity", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
            assert_eq!(Encoding::of_answer(&headers, 5000), expected, "{accepted}");
            assert_eq!(Encoding::of_answer(&headers, 50), None);
        }
    }
}
