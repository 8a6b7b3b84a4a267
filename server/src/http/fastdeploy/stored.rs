//! Answers as they are remembered: encoded, so that they take the memory that they are counted with. A JSON value takes many
//! times its text.

use bytes::Bytes;
use galley_core::{InputError, Output};
use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::answer::verdict;
use crate::{
    engine::{Answers, InferError},
    http::error::ApiError,
    jobs::End,
    metrics::Outcome,
};

/// What a remembered answer takes besides its bytes, about.
const OVERHEAD: usize = 512;

/// Answers to a request, and what they come to.
#[derive(Clone, Debug, PartialEq)]
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

/// As it is written into the table of jobs.
pub(super) fn to_end(finished: Result<Stored, ApiError>) -> End {
    let (verdict, answer) = match finished {
        Ok(stored) => (stored.verdict, Some(Bytes::from(stored.prediction))),
        Err(error) => (Err(error), None),
    };
    let error = verdict.err();
    End {
        status: error.as_ref().map_or(200, |error| error.status().as_u16()),
        error: error.map(|error| error.to_string()),
        answer,
    }
}

/// As it is read from there: the same answer with the same status, whatever of its cause is not told.
pub(super) fn from_end(end: End) -> Result<Stored, ApiError> {
    let reason = end.error.unwrap_or_default();
    let error = match end.status {
        200 => None,
        400 | 413 => Some(ApiError::AllRefused {
            too_large: end.status == 413,
            reason,
        }),
        504 => Some(InferError::Deadline.into()),
        _ => Some(InferError::Failed(reason).into()),
    };
    match (end.answer, error) {
        (Some(answer), error) => Ok(Stored {
            prediction: answer.as_ref().into(),
            verdict: error.map_or(Ok(Outcome::Ok), Err),
        }),
        (None, error) => {
            Err(error.unwrap_or_else(|| InferError::Failed("its answer is lost".into()).into()))
        }
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
            Ok(Output::Embedding(vec![0.1, -3e-9])),
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
    fn what_a_table_has_kept_says_the_same() {
        let refused = vec![Err(InputError::Unreadable("not an image".into()))];
        let huge = InputError::TooLarge {
            what: "image".into(),
            limit: "10 pixels".into(),
            option: "--max-pixels",
        };
        let finished = [
            Stored::new(&answers()),
            Stored::new(&refused),
            Stored::new(&vec![Err(huge)]),
            Err(InferError::Deadline.into()),
            Err(InferError::Failed("the device failed".into()).into()),
            Err(InferError::TooManyItems { items: 2, limit: 1 }.into()),
            Err(ApiError::malformed("expected a list")),
        ];
        let said = |error: &ApiError| (error.status(), error.to_string());
        for finished in finished {
            let (before, after) = (finished.clone(), from_end(to_end(finished)));
            match (before, after) {
                (Ok(before), Ok(after)) => {
                    assert_eq!(after.prediction, before.prediction);
                    let said =
                        |stored: Stored| stored.verdict.map(drop).map_err(|error| said(&error));
                    assert_eq!(said(after), said(before));
                }
                (Err(before), Err(after)) => assert_eq!(said(&after), said(&before)),
                (before, after) => panic!("{before:?} became {after:?}"),
            }
        }
    }

    #[test]
    fn many_small_values_take_what_they_are_counted_with() {
        let text = format!("[{}0]", "1,".repeat(15_000));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let stored = Stored::new(&vec![Ok(Output::Json(value))]).unwrap();
        assert!(stored.size() <= text.len(), "{}", stored.size());
    }
}
