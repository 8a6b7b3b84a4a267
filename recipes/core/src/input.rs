//! Inputs as they reach a recipe: encoded files or JSON values, with the limits that bound what they may cost.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One input as it came from outside; nothing about it has been checked yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// An encoded file, for instance a JPEG.
    File(Bytes),
    /// A JSON value: a string for text recipes, or an object `{"text": "...", ...}` that carries options.
    Json(Value),
    /// An image as a network reads it; for recipes whose [`Signature`](crate::Signature) says so.
    Pixels(Pixels),
}

/// An image that is decoded, resized, cropped and normalised already.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// `[height, width]`.
    pub size: [usize; 2],
    /// `[3, height, width]`: the planes of red, green and blue.
    pub values: Vec<f32>,
}

impl Input {
    /// A JSON string.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Json(Value::String(text.into()))
    }

    /// The size that tells a small input from a large one, in bytes (approximate for structured JSON).
    pub fn size(&self) -> usize {
        fn json(value: &Value) -> usize {
            match value {
                Value::Null | Value::Bool(_) | Value::Number(_) => 8,
                Value::String(text) => text.len(),
                Value::Array(items) => items.iter().map(json).sum::<usize>() + 8,
                Value::Object(fields) => {
                    fields
                        .iter()
                        .map(|(key, value)| key.len() + json(value))
                        .sum::<usize>()
                        + 8
                }
            }
        }
        match self {
            Self::File(bytes) => bytes.len(),
            Self::Json(value) => json(value),
            Self::Pixels(pixels) => size_of_val(pixels.values.as_slice()),
        }
    }

    /// What the input is, in the words of an error message.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::File(_) => "a file",
            Self::Pixels(_) => "pixels",
            Self::Json(Value::Null) => "null",
            Self::Json(Value::Bool(_)) => "a boolean",
            Self::Json(Value::Number(_)) => "a number",
            Self::Json(Value::String(_)) => "a text",
            Self::Json(Value::Array(_)) => "a list",
            Self::Json(Value::Object(_)) => "an object",
        }
    }
}

/// The kind of input that a recipe takes; its JSON form is the `input_type` of fastDeploy's `/meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// Encoded files ([`Input::File`]).
    File,
    /// JSON values ([`Input::Json`]).
    Json,
}

/// Bounds on what preparing one input may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLimits {
    /// The most pixels that an image may have once decoded (`--max-pixels`).
    pub max_pixels: u64,
    /// The most bytes that a text may have (`--max-text`).
    pub max_text_bytes: usize,
}

impl Default for InputLimits {
    fn default() -> Self {
        Self {
            max_pixels: 64 << 20,
            max_text_bytes: 1 << 20,
        }
    }
}
