//! The inputs of a request.

use galley_core::{Input, InputError, Output};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::engine::Answers;

/// Tells requests apart by what is in them.
pub(super) type Digest = [u8; 32];

/// Inputs in their order, and those that are none.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Items {
    /// Those that can be handed to the recipe.
    pub(super) inputs: Vec<Input>,
    /// The others, with their place among all.
    pub(super) refused: Vec<(usize, InputError)>,
}

impl Items {
    pub(super) fn len(&self) -> usize {
        self.inputs.len() + self.refused.len()
    }

    pub(super) fn push(&mut self, item: Result<Input, InputError>) {
        match item {
            Ok(input) => self.inputs.push(input),
            Err(error) => self.refused.push((self.len(), error)),
        }
    }

    /// The bytes that the inputs take, about.
    pub(super) fn memory(&self) -> usize {
        let of_input = |input: &Input| match input {
            Input::File(bytes) => bytes.len(),
            Input::Json(value) => memory_of(value),
            Input::Pixels(pixels) => size_of_val(&pixels.values[..]),
        };
        self.inputs.iter().map(of_input).sum()
    }

    /// The same for the same inputs, however they were encoded.
    pub(super) fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        let mut add = |kind: u8, bytes: &[u8]| {
            hash.update([kind]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for input in &self.inputs {
            match input {
                Input::File(bytes) => add(0, bytes),
                Input::Json(Value::String(text)) => add(1, text.as_bytes()),
                Input::Json(value) => add(2, value.to_string().as_bytes()),
                // This protocol has no way to send them; they stand here for the match to be whole.
                Input::Pixels(pixels) => {
                    let bytes = pixels.values.iter().flat_map(|value| value.to_le_bytes());
                    add(5, &bytes.collect::<Vec<u8>>());
                }
            }
        }
        for (place, error) in &self.refused {
            add(3, &(*place as u64).to_le_bytes());
            add(4, error.to_string().as_bytes());
        }
        hash.finalize().into()
    }
}

/// What a value takes with all that is in it.
fn memory_of(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(memory_of).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| size_of::<String>() + key.len() + memory_of(value))
            .sum(),
    };
    size_of::<Value>() + inside
}

/// Puts the refused items back among the answers to the others.
pub(super) fn merge(answers: Answers, refused: Vec<(usize, InputError)>) -> Answers {
    if refused.is_empty() {
        return answers;
    }
    let mut all: Answers = Vec::with_capacity(answers.len() + refused.len());
    let mut answers = answers.into_iter();
    for (place, error) in refused {
        let before: Vec<Result<Output, InputError>> =
            answers.by_ref().take(place - all.len()).collect();
        all.extend(before);
        all.push(Err(error));
    }
    all.extend(answers);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_values_take_more_than_their_text() {
        let of = |text: &str| {
            let value = serde_json::from_str(text).unwrap();
            let inputs = vec![Input::Json(value)];
            let items = Items {
                inputs,
                ..Items::default()
            };
            items.memory()
        };
        let numbers = format!("[{}0]", "1,".repeat(999));
        assert!(of(&numbers) >= 1000 * size_of::<Value>());
        let text = format!("\"{}\"", "x".repeat(1000));
        assert!((1000..1100).contains(&of(&text)));
        assert!(of(r#"{"key": [[], "value"]}"#) > of(r#"[[], "value"]"#));
    }

    #[test]
    fn refused_items_return_to_their_places() {
        let refused = |place: usize| (place, InputError::Unreadable(place.to_string()));
        let ok = |n: u64| Ok(Output::Json(n.into()));
        let merged = merge(vec![ok(1), ok(2)], vec![refused(0), refused(2), refused(4)]);
        let expected = vec![
            Err(refused(0).1),
            ok(1),
            Err(refused(2).1),
            ok(2),
            Err(refused(4).1),
        ];
        assert_eq!(merged, expected);
    }
}
