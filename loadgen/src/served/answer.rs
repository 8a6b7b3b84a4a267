//! What a server's answer is worth: the one place that decides whether a request went well.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Why a request failed. Its text is the kind that errors are counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The status was not 200.
    Status(u16),
    /// No answer came in time.
    Timeout,
    /// The connection was refused, or broke before the answer was complete.
    Connection,
    /// The body is not what the protocol answers.
    Malformed,
    /// `success` is not true.
    NotSuccessful,
    /// There are more or fewer predictions than inputs.
    WrongCount,
    /// An input was answered with an error of its own.
    Item,
    /// It was not sent, because as many as the client can have were in flight.
    Unsent,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Timeout => f.write_str("timeout"),
            Self::Connection => f.write_str("connection"),
            Self::Malformed => f.write_str("malformed answer"),
            Self::NotSuccessful => f.write_str("not successful"),
            Self::WrongCount => f.write_str("wrong number of predictions"),
            Self::Item => f.write_str("error for an input"),
            Self::Unsent => f.write_str("not sent"),
        }
    }
}

/// Whether an answer is a good one to a request of `items` inputs.
pub(crate) fn check(status: u16, body: &[u8], items: usize) -> Result<(), Failure> {
    if status != 200 {
        return Err(Failure::Status(status));
    }
    serde_json::from_slice::<Answer>(body)
        .map_err(|_| Failure::Malformed)?
        .check(items)
}

/// The same of an answer in msgpack.
pub(crate) fn check_msgpack(status: u16, body: &[u8], items: usize) -> Result<(), Failure> {
    if status != 200 {
        return Err(Failure::Status(status));
    }
    rmp_serde::from_slice::<Answer>(body)
        .map_err(|_| Failure::Malformed)?
        .check(items)
}

/// The same of an answer of the Open Inference Protocol; `None` where its outputs' first dimension does not count items.
pub(crate) fn check_oip(status: u16, body: &[u8], items: Option<usize>) -> Result<(), Failure> {
    if status != 200 {
        return Err(Failure::Status(status));
    }
    let answer: Inferred = serde_json::from_slice(body).map_err(|_| Failure::Malformed)?;
    if answer.outputs.is_empty() {
        return Err(Failure::Malformed);
    }
    let counts = answer.outputs.iter().map(|output| output.shape.first());
    if let Some(items) = items
        && counts.into_iter().any(|count| count != Some(&items))
    {
        return Err(Failure::WrongCount);
    }
    Ok(())
}

/// An answer of the Open Inference Protocol.
#[derive(Deserialize)]
struct Inferred {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    shape: Vec<usize>,
}

#[derive(Deserialize)]
struct Answer {
    success: Option<bool>,
    prediction: Option<Predictions>,
}

impl Answer {
    fn check(self, items: usize) -> Result<(), Failure> {
        if self.success != Some(true) {
            return Err(Failure::NotSuccessful);
        }
        match self.prediction {
            None => Err(Failure::Malformed),
            Some(predictions) if predictions.count != items => Err(Failure::WrongCount),
            Some(predictions) if predictions.errors > 0 => Err(Failure::Item),
            Some(_) => Ok(()),
        }
    }
}

/// Predictions, counted as they pass: a client that kept them would compete with the server that it measures.
#[derive(Clone, Copy)]
struct Predictions {
    count: usize,
    errors: usize,
}

impl<'de> Deserialize<'de> for Predictions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counter;
        impl<'de> Visitor<'de> for Counter {
            type Value = Predictions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of predictions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Predictions, A::Error> {
                let (mut count, mut errors) = (0, 0);
                while let Some(IsError(error)) = list.next_element()? {
                    count += 1;
                    errors += usize::from(error);
                }
                Ok(Predictions { count, errors })
            }
        }
        deserializer.deserialize_seq(Counter)
    }
}

/// Whether a prediction is `{"error": ...}`.
struct IsError(bool);

impl<'de> Deserialize<'de> for IsError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = IsError;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a prediction")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<IsError, A::Error> {
                let (mut keys, mut error) = (0, false);
                while let Some(key) = map.next_key::<Key<'_>>()? {
                    keys += 1;
                    error |= key.0 == "error";
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(IsError(error && keys == 1))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<IsError, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(IsError(false))
            }

            fn visit_bool<E>(self, _: bool) -> Result<IsError, E> {
                Ok(IsError(false))
            }

            fn visit_i64<E>(self, _: i64) -> Result<IsError, E> {
                Ok(IsError(false))
            }

            fn visit_u64<E>(self, _: u64) -> Result<IsError, E> {
                Ok(IsError(false))
            }

            fn visit_f64<E>(self, _: f64) -> Result<IsError, E> {
                Ok(IsError(false))
            }

            fn visit_str<E>(self, _: &str) -> Result<IsError, E> {
                Ok(IsError(false))
            }

            fn visit_bytes<E>(self, _: &[u8]) -> Result<IsError, E> {
                Ok(IsError(false))
            }

            fn visit_unit<E>(self) -> Result<IsError, E> {
                Ok(IsError(false))
            }
        }
        deserializer.deserialize_any(Look)
    }
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(body: &str, items: usize) -> Result<(), Failure> {
        check(200, body.as_bytes(), items)
    }

    #[test]
    fn a_good_answer_has_a_prediction_for_each_input() {
        let body = r#"{"success":true,"unique_id":"u","prediction":["a",{"error":"x","more":1},[{"error":"y"}],null,1.5],"reason":null}"#;
        assert_eq!(check_text(body, 5), Ok(()));
        assert_eq!(check_text(body, 4), Err(Failure::WrongCount));
    }

    #[test]
    fn failures_are_told_apart() {
        let cases = [
            (
                r#"{"success":true,"prediction":[{"error":"not an image"}]}"#,
                Failure::Item,
            ),
            (
                r#"{"success":false,"prediction":null,"reason":"no"}"#,
                Failure::NotSuccessful,
            ),
            (r#"{"prediction":[1]}"#, Failure::NotSuccessful),
            (r#"{"success":true,"prediction":"a"}"#, Failure::Malformed),
            (r#"{"success":true}"#, Failure::Malformed),
            (r#"{"success":true,"prediction":["a""#, Failure::Malformed),
            ("", Failure::Malformed),
        ];
        for (body, failure) in cases {
            assert_eq!(check_text(body, 1), Err(failure), "{body}");
        }
        assert_eq!(check(429, b"{}", 1), Err(Failure::Status(429)));
    }

    #[test]
    fn msgpack_and_tensors_are_judged_alike() {
        // {"success": true, "prediction": [b"a", {"error": "no"}]}
        let body = b"\x82\xa7success\xc3\xaaprediction\x92\xc4\x01a\x81\xa5error\xa2no";
        assert_eq!(check_msgpack(200, body, 2), Err(Failure::Item));
        assert_eq!(check_msgpack(200, body, 1), Err(Failure::WrongCount));
        assert_eq!(check_msgpack(200, b"{}", 1), Err(Failure::Malformed));
        assert_eq!(check_msgpack(503, body, 2), Err(Failure::Status(503)));
        let body = br#"{"model_name":"m","outputs":[{"name":"p","shape":[2,5],"data":[]}]}"#;
        assert_eq!(check_oip(200, body, Some(2)), Ok(()));
        assert_eq!(check_oip(200, body, Some(1)), Err(Failure::WrongCount));
        assert_eq!(check_oip(200, body, None), Ok(()));
        for bad in [&br#"{"error":"no"}"#[..], br#"{"outputs":[]}"#] {
            assert_eq!(check_oip(200, bad, Some(1)), Err(Failure::Malformed));
        }
        assert_eq!(check_oip(429, body, Some(2)), Err(Failure::Status(429)));
    }
}
