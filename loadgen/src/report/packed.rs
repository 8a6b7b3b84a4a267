//! Many numbers in a record: as they are, or compressed where that would make a line of `results.jsonl` long.

use std::io::Read;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

/// More numbers than this are compressed.
const FEW: usize = 256;
/// Steps of a number in milliseconds: a tenth of a microsecond, which clocks do not tell better.
const STEPS: f64 = 1e4;
/// No list of a pass is longer than this in JSON; whatever a file says, no more is unpacked.
const LONGEST: u64 = 64 << 20;

/// A list of numbers, each rounded to four digits after the point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Packed(pub Vec<f64>);

/// A list as it stands in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Plain(Vec<f64>),
    /// The same list's JSON through zstd, in base64.
    Zstd {
        zstd: String,
    },
}

impl From<Packed> for Written {
    fn from(list: Packed) -> Self {
        let rounded: Vec<f64> = list.0.iter().map(|x| (x * STEPS).round() / STEPS).collect();
        if rounded.len() <= FEW {
            return Self::Plain(rounded);
        }
        let packed = serde_json::to_vec(&rounded)
            .map_err(std::io::Error::from)
            .and_then(|json| zstd::encode_all(json.as_slice(), 19));
        match packed {
            Ok(bytes) => Self::Zstd {
                zstd: BASE64_STANDARD.encode(bytes),
            },
            Err(_) => Self::Plain(rounded),
        }
    }
}

impl TryFrom<Written> for Packed {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let text = match written {
            Written::Plain(list) => return Ok(Self(list)),
            Written::Zstd { zstd } => zstd,
        };
        let bytes = BASE64_STANDARD
            .decode(text)
            .map_err(|error| format!("expected base64: {error}"))?;
        let mut json = Vec::new();
        zstd::Decoder::new(bytes.as_slice())
            .and_then(|decoder| decoder.take(LONGEST).read_to_end(&mut json))
            .map_err(|error| format!("expected a list compressed by zstd: {error}"))?;
        let list = serde_json::from_slice(&json)
            .map_err(|error| format!("expected a list of numbers: {error}"))?;
        Ok(Self(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_any_length_come_back_rounded() {
        for length in [0, 1, FEW, FEW + 1, 5000] {
            let list = Packed((0..length).map(|i| (i as f64).sqrt() * 7.0).collect());
            let json = serde_json::to_string(&list).unwrap();
            assert_eq!(json.starts_with('['), length <= FEW);
            let back: Packed = serde_json::from_str(&json).unwrap();
            assert_eq!(back.0.len(), length);
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.5 / STEPS + 1e-9;
            assert!(list.0.iter().zip(&back.0).all(near));
            assert!(json.len() < 8 * length + 80, "{length}: {}", json.len());
        }
    }

    #[test]
    fn what_cannot_be_unpacked_is_refused() {
        for bad in [
            r#"{"zstd":"!"}"#,
            r#"{"zstd":"aGVsbG8="}"#,
            r#""none""#,
            r#"[1,"x"]"#,
        ] {
            assert!(serde_json::from_str::<Packed>(bad).is_err(), "{bad}");
        }
    }
}
