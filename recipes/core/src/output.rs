//! Answers, typed by task. Their JSON form is what `/infer` puts into `prediction`.

use serde::Serialize;
use serde_json::Value;

/// The answer to one input.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Output {
    /// The likeliest classes of an image, best first.
    ImageClasses(Vec<ImageClass>),
    /// The sentences of a text, in order.
    Sentences(Vec<String>),
    /// The entities of a text, in order.
    Entities(Vec<Entity>),
    /// The label of a text.
    TextLabel(TextLabel),
    /// The vector that stands for a text.
    Embedding(Vec<f32>),
    /// Any JSON value.
    Json(Value),
}

/// One class of an image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageClass {
    /// The class's name, `espresso`; `class 967` where the weights come without names.
    pub class: String,
    /// The index among the model's outputs.
    pub class_id: u32,
    /// The WordNet id, `n07920052`, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synset: Option<String>,
    /// The softmax probability, 0 to 1.
    pub score: f32,
}

/// One entity, with the fields of the transformers library's token-classification pipeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entity {
    /// The type (`PER`), or with aggregation `none` the token's full label (`B-PER`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity_group: Option<String>,
    /// With aggregation `none`: the token's label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// The probability, 0 to 1, as the aggregation strategy defines it.
    pub score: f32,
    /// The entity's words, or the token with aggregation `none`.
    pub word: String,
    /// With aggregation `none`: the token's index in its window, `[CLS]` being 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Where it starts in the text, in Unicode code points.
    pub start: usize,
    /// Where it ends, exclusive, in Unicode code points.
    pub end: usize,
}

/// The label of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextLabel {
    /// The likeliest label.
    pub label: String,
    /// Its softmax probability, 0 to 1.
    pub score: f32,
    /// Every label with its probability, best first.
    pub scores: Vec<(String, f32)>,
}
