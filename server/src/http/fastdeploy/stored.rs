//! Answers as they are remembered: encoded, so that they take the memory that they are counted with. A JSON value takes many
//! times its text.

use galley_core::{InputError, Output};
use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::answer::verdict;
use crate::{
    engine::{Answers, InferError},
    http::error::ApiError,
    metrics::Outcome,
};

/// What a remembered answer takes besides its bytes, about.
const OVERHEAD: usize = 512;

/// Answers to a request, and what they come to.
#[derive(Debug, PartialEq)]
pub(super) struct Stored {
    /// As msgpack, which has the types of all that answers are made of.
    prediction: Box<[u8]>,
    pub(super) verdict: Result<Outcome, ApiError>,
}

impl Stored {
    pub(super) fn new(answers: &Answers) -> Result<Self, ApiError> {
        let mut bytes = Vec::new();
        let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
        let prediction = Prediction::Answers(answers);
        prediction.serialize(&mut serializer).map_err(|error| {
            tracing::error!(%error, "an answer cannot be kept");
            InferError::Failed("the answer cannot be kept".into())
        })?;
        Ok(Self {
            prediction: bytes.into(),
            verdict: verdict(answers),
        })
    }

    pub(super) fn prediction(&self) -> Prediction<'_> {
        Prediction::Encoded(&self.prediction)
    }

    /// The bytes that it takes.
    pub(super) fn size(&self) -> usize {
        self.prediction.len() + OVERHEAD
    }
}

/// Answers, to be written one after the other.
#[derive(Clone, Copy)]
pub(super) enum Prediction<'a> {
    Answers(&'a [Result<Output, InputError>]),
    /// Those of a [`Stored`].
    Encoded(&'a [u8]),
}

#[derive(Serialize)]
struct ItemError {
    error: String,
}

impl Serialize for Prediction<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Encoded(bytes) => {
                let mut msgpack = rmp_serde::Deserializer::from_read_ref(bytes);
                serde_transcode::Transcoder::new(&mut msgpack).serialize(serializer)
            }
            Self::Answers(answers) => {
                let mut list = serializer.serialize_seq(Some(answers.len()))?;
                for answer in *answers {
                    match answer {
                        Ok(output) => list.serialize_element(output)?,
                        Err(error) => list.serialize_element(&ItemError {
                            error: error.to_string(),
                        })?,
                    }
                }
                list.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use galley_core::{Entity, ImageClass, TextLabel};
    use serde_json::json;

    use super::*;

    /// Everything that recipes answer with, and numbers that lose something on a detour.
    fn answers() -> Answers {
        let entity = Entity {
            entity_group: Some("PER".into()),
            entity: None,
            score: 0.1,
            word: "Jo".into(),
            index: None,
            start: 0,
            end: 2,
        };
        let class = ImageClass {
            class: "espresso".into(),
            class_id: 967,
            synset: None,
            score: 0.3,
        };
        let label = TextLabel {
            label: "POSITIVE".into(),
            score: 0.7,
            scores: vec![("POSITIVE".into(), 0.7), ("NEGATIVE".into(), 1e-8)],
        };
        let any =
            json!({"b": [null, true, -1, u64::MAX, i64::MIN, 0.1, 1e300], "a": {"ü": "\u{0}\"x"}});
        vec![
            Ok(Output::Entities(vec![entity])),
            Ok(Output::ImageClasses(vec![class])),
            Ok(Output::TextLabel(label)),
            Ok(Output::Sentences(vec!["one".into(), String::new()])),
            Ok(Output::Json(any)),
            Err(InputError::Unreadable("not an image".into())),
        ]
    }

    #[test]
    fn what_is_read_again_is_what_was_answered_in_each_format() {
        let answers = answers();
        let (direct, stored) = (
            Prediction::Answers(&answers),
            Stored::new(&answers).unwrap(),
        );
        assert_eq!(stored.verdict, Ok(Outcome::Partial));
        let json = |prediction: &Prediction<'_>| serde_json::to_string(prediction).unwrap();
        assert_eq!(json(&stored.prediction()), json(&direct));
        let msgpack = |prediction: &Prediction<'_>| rmp_serde::to_vec_named(prediction).unwrap();
        assert_eq!(msgpack(&stored.prediction()), msgpack(&direct));
    }

    #[test]
    fn many_small_values_take_what_they_are_counted_with() {
        let text = format!("[{}0]", "1,".repeat(15_000));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let stored = Stored::new(&vec![Ok(Output::Json(value))]).unwrap();
        assert!(stored.size() <= text.len(), "{}", stored.size());
    }
}
