//! Whether a stream's answers are those in process, for a sample of the examples.

use galley_core::{AnyRecipe, Input};
use serde_json::Value;

use super::{feed::message, rows::Rows};
use crate::{
    corpus::Corpus,
    error::{Error, Result},
    native::forward,
};

/// The most examples that are compared.
const SAMPLE: usize = 200;
/// How far numbers may differ: batches of other sizes sum in another order, and the shorter a dtype the more that is.
const TOLERANCE_F32: f64 = 1e-3;
const TOLERANCE: f64 = 5e-2;

/// Examples spread over all, and their answers in process.
pub(super) struct Sample {
    answers: Vec<(usize, Value)>,
    tolerance: f64,
}

impl Sample {
    /// Answers a sample in process.
    ///
    /// # Errors
    /// The recipe does not answer an example, or the corpus cannot be read.
    pub(super) fn new(recipe: &AnyRecipe, corpus: &Corpus, examples: usize) -> Result<Self> {
        let mut answers = Vec::new();
        for index in spread(examples) {
            let refused = |source| Error::Example {
                corpus: corpus.kind().name(),
                index,
                source,
            };
            let input = corpus.input(index)?;
            let input = message(input.clone()).map_or(input, Input::Json);
            let prepared = recipe.prepare(input).map_err(refused)?;
            let raw = forward(recipe.as_ref(), std::slice::from_ref(&prepared))?;
            let answer = raw.into_iter().next();
            let answer = answer.map(|raw| recipe.finish(prepared, raw));
            let answer = answer.transpose().map_err(refused)?;
            answers.push((index, serde_json::to_value(answer).unwrap_or_default()));
        }
        let tolerance = match recipe.info().dtype {
            "f16" | "bf16" => TOLERANCE,
            _ => TOLERANCE_F32,
        };
        Ok(Self { answers, tolerance })
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Compares them with the rows whose ids are so and a number.
    ///
    /// # Errors
    /// One has another answer or none.
    pub(super) fn compare(&self, rows: &Rows, prefix: &str) -> Result<()> {
        for (index, expected) in &self.answers {
            let got = rows.answer(&format!("{prefix}{index}")).unwrap_or_default();
            let value = serde_json::from_str(got).unwrap_or(Value::Null);
            if !alike(expected, &value, self.tolerance) {
                return Err(Error::Rows(format!(
                    "example {index}: expected {expected} as in process, got {got}"
                )));
            }
        }
        Ok(())
    }
}

/// At most [`SAMPLE`] numbers below `examples`, evenly spread.
fn spread(examples: usize) -> impl Iterator<Item = usize> {
    let count = examples.min(SAMPLE);
    (0..count).map(move |place| place * examples / count)
}

/// Whether two answers are the same but for the rounding of numbers.
fn alike(a: &Value, b: &Value, tolerance: f64) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b, tolerance))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |(key, a)| b.get(key).is_some_and(|b| alike(a, b, tolerance));
            a.len() == b.len() && a.iter().all(same)
        }
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a == b,
            _ => match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => (a - b).abs() <= tolerance * a.abs().max(1.0),
                _ => a == b,
            },
        },
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sample_is_spread_over_all() {
        assert_eq!(spread(3).collect::<Vec<_>>(), [0, 1, 2]);
        let many: Vec<_> = spread(1000).collect();
        assert_eq!((many.len(), many[1], many[199]), (200, 5, 995));
        assert_eq!(spread(0).count(), 0);
    }

    #[test]
    fn answers_differ_by_more_than_rounding() {
        let answer = |class: &str, id: u32, score: f64| json!([{"class": class, "class_id": id, "score": score}]);
        let expected = answer("cat", 7, 0.5);
        let is = |got| alike(&expected, &got, 1e-3);
        assert!(is(answer("cat", 7, 0.5004)));
        assert!(!is(answer("cat", 7, 0.502)));
        assert!(!is(answer("cat", 8, 0.5)));
        assert!(!is(answer("dog", 7, 0.5)));
        assert!(!is(json!([])) && !is(json!(null)));
        assert!(!is(json!([{"class": "cat", "class_id": 7}])));
    }
}
