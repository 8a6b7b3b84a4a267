//! A text as it comes in: a JSON string, or an object `{"text": "...", ...}` that carries options.

use serde_json::{Map, Value};

use crate::{Input, InputError, InputLimits};

/// A text and the options that came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextInput {
    /// The text.
    pub text: String,
    /// The other fields of the object, by name; none where a string came.
    pub options: Map<String, Value>,
}

impl TextInput {
    /// Reads an input whose object form may have the fields `options` beside `text`.
    ///
    /// # Errors
    /// The input is neither string nor object with a text, has a field that is not known, or the text is too long.
    pub fn read(input: Input, options: &[&str], limits: &InputLimits) -> Result<Self, InputError> {
        let read = match input {
            Input::Json(Value::String(text)) => Self {
                text,
                options: Map::new(),
            },
            Input::Json(Value::Object(fields)) => Self::from_fields(fields, options)?,
            other => {
                return Err(InputError::WrongKind {
                    expected: "a text or an object {\"text\": \"...\"}",
                    got: other.describe(),
                });
            }
        };
        if read.text.len() > limits.max_text_bytes {
            return Err(InputError::TooLarge {
                what: format!("text of {} bytes", read.text.len()),
                limit: format!("{} bytes", limits.max_text_bytes),
                option: "--max-text",
            });
        }
        Ok(read)
    }

    fn from_fields(mut fields: Map<String, Value>, options: &[&str]) -> Result<Self, InputError> {
        let text = match fields.remove("text") {
            Some(Value::String(text)) => text,
            Some(other) => {
                let got = Input::Json(other).describe();
                return Err(InputError::Unreadable(format!(
                    "field text: expected a text, got {got}"
                )));
            }
            None => {
                return Err(InputError::Unreadable(
                    "expected an object with the field text".into(),
                ));
            }
        };
        match fields.keys().find(|key| !options.contains(&key.as_str())) {
            Some(unknown) => Err(InputError::Unreadable(format!(
                "unknown field {unknown:?}; the fields are {}",
                [&["text"], options].concat().join(", ")
            ))),
            None => Ok(Self {
                text,
                options: fields,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<TextInput, InputError> {
        let limits = InputLimits {
            max_text_bytes: 5,
            ..InputLimits::default()
        };
        TextInput::read(Input::Json(value), &["mode"], &limits)
    }

    #[test]
    fn a_string_and_an_object_are_texts() {
        assert_eq!(read(json!("abc")).unwrap().text, "abc");
        let read = read(json!({"text": "abc", "mode": 1})).unwrap();
        assert_eq!(
            (read.text.as_str(), &read.options["mode"]),
            ("abc", &json!(1))
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        for (value, reason) in [
            (json!(3), "got a number"),
            (json!({}), "the field text"),
            (
                json!({"text": null}),
                "field text: expected a text, got null",
            ),
            (
                json!({"text": "a", "mood": 1}),
                "\"mood\"; the fields are text, mode",
            ),
            (
                json!("abcdef"),
                "text of 6 bytes exceeds the limit of 5 bytes (--max-text)",
            ),
        ] {
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
