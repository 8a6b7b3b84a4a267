//! HTTP's content encodings, for every protocol: gzip, deflate and zstd, with a bound on what comes out.

use std::io::{BufRead, Read, Write};

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use flate2::{
    Compression,
    bufread::{MultiGzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};

use super::{error::ApiError, zstd};

/// Smaller answers are sent as they are: compressing them takes longer than sending them.
const WORTHWHILE: usize = 1 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    /// That is zlib's format, by HTTP's own definition.
    Deflate,
    Zstd,
}

impl Encoding {
    fn of(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// How a request's body is encoded, if it is.
    ///
    /// # Errors
    /// In a way that is not known, or in several, one on top of the other.
    pub(super) fn of_body(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let refuse = |reason| {
            ApiError::UnsupportedType(format!(
                "Content-Encoding: expected gzip, deflate or zstd, got {reason}"
            ))
        };
        let mut found = None;
        for line in headers.get_all(header::CONTENT_ENCODING) {
            let line = line.to_str().map_err(|_| refuse("none of them"))?;
            for name in line.split(',').map(str::trim) {
                if name.is_empty() || name.eq_ignore_ascii_case("identity") {
                    continue;
                }
                let encoding = Self::of(name).ok_or_else(|| refuse("another"))?;
                if found.replace(encoding).is_some() {
                    return Err(refuse("several"));
                }
            }
        }
        Ok(found)
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
            Self::Zstd => "zstd",
        })
    }

    /// Decompresses the whole to at most `limit` bytes: every member or frame that follows another, and nothing else.
    pub(super) fn decompress(self, bytes: &[u8], limit: u64) -> Result<Bytes, ApiError> {
        match self {
            Self::Gzip => inflate(MultiGzDecoder::new(bytes), limit).map(|(plain, _)| plain),
            Self::Deflate => {
                let (plain, decoder) = inflate(ZlibDecoder::new(bytes), limit)?;
                match decoder.into_inner().fill_buf() {
                    Ok([]) => Ok(plain),
                    _ => Err(not_so_compressed()),
                }
            }
            Self::Zstd => zstd::decompress(bytes, limit),
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
            Self::Zstd => zstd::compress(bytes),
        }
    }
}

/// What a decoder gives, up to `limit` bytes, and the decoder as it is then.
fn inflate<R: Read>(decoder: R, limit: u64) -> Result<(Bytes, R), ApiError> {
    let mut plain = Vec::new();
    let mut bounded = decoder.take(limit.saturating_add(1));
    let read = bounded.read_to_end(&mut plain);
    if plain.len() as u64 > limit {
        return Err(ApiError::decompresses_to_more(limit));
    }
    match read {
        Ok(_) => Ok((plain.into(), bounded.into_inner())),
        Err(_) => Err(not_so_compressed()),
    }
}

fn not_so_compressed() -> ApiError {
    ApiError::malformed("the body is not compressed as Content-Encoding says")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Encoding; 3] = [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd];

    #[test]
    fn what_is_compressed_comes_out_again_up_to_the_limit() {
        let text = b"abc".repeat(1000);
        for encoding in ALL {
            let packed = encoding.compress(&text).unwrap();
            assert!(packed.len() < 100);
            assert_eq!(encoding.decompress(&packed, 3000).unwrap(), text);
            assert!(matches!(
                encoding.decompress(&packed, 2999),
                Err(ApiError::TooLarge { .. })
            ));
            let cut = &packed[..packed.len() - 9];
            let followed = [packed.as_slice(), b"more"].concat();
            for broken in [cut, b"not compressed", b"x", &followed] {
                assert!(
                    matches!(
                        encoding.decompress(broken, 3000),
                        Err(ApiError::Malformed(_))
                    ),
                    "{encoding:?} {broken:?}"
                );
            }
        }
    }

    #[test]
    fn members_and_frames_one_after_the_other_are_one_body() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let members = ["[\"a\"", "", ", \"b\"]"];
            let packed: Vec<u8> = members
                .iter()
                .flat_map(|member| encoding.compress(member.as_bytes()).unwrap())
                .collect();
            assert_eq!(
                encoding.decompress(&packed, 10).unwrap(),
                "[\"a\", \"b\"]",
                "{encoding:?}"
            );
            assert!(matches!(
                encoding.decompress(&packed, 9),
                Err(ApiError::TooLarge { .. })
            ));
        }
    }

    #[test]
    fn a_bodys_encoding_is_read_in_any_case_and_in_any_number_of_lines() {
        use Encoding::{Deflate, Gzip, Zstd};
        let of = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::CONTENT_ENCODING, line.parse().unwrap());
            }
            Encoding::of_body(&headers)
        };
        for (lines, expected) in [
            (&[][..], None),
            (&[""], None),
            (&["identity"], None),
            (&["IDENTITY, Identity"], None),
            (&["gzip"], Some(Gzip)),
            (&["GZip"], Some(Gzip)),
            (&["X-GZIP"], Some(Gzip)),
            (&["Deflate"], Some(Deflate)),
            (&[" ZSTD "], Some(Zstd)),
            (&["identity", "zstd"], Some(Zstd)),
            (&["gzip, identity"], Some(Gzip)),
        ] {
            assert_eq!(of(lines), Ok(expected), "{lines:?}");
        }
        for lines in [
            &["br"][..],
            &["gzip, zstd"],
            &["gzip, gzip"],
            &["gzip", "deflate"],
            &["utf-8"],
        ] {
            assert!(
                matches!(of(lines), Err(ApiError::UnsupportedType(_))),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn the_first_encoding_that_the_client_accepts_is_taken() {
        use Encoding::{Deflate, Gzip, Zstd};
        for (accepted, expected) in [
            ("gzip", Some(Gzip)),
            ("br, deflate, gzip", Some(Deflate)),
            ("gzip;q=0, deflate;q=0.5", Some(Deflate)),
            ("br, ZSTD", Some(Zstd)),
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
