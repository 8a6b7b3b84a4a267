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
