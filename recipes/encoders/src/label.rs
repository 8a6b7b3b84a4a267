//! Sequence classification: text in, label and scores out.
//!
//! A text longer than the model takes is read in overlapping windows. Its probabilities are the mean of the windows',
//! each counting as many times as the tokens that it answers for: every token weighs the same, and none is left out.

use galley_core::{
    AnswerForm, Architecture, ForwardError, Input, InputError, LoadError, Output, RawTensors,
    Recipe, RecipeInfo, Signature, TextLabel,
};
use galley_text::{Document, SAMPLE_TOKENS, softmax};
use serde_json::{Value, json};

use crate::model::{Model, Parts, Task};

/// The loaded recipe.
pub(crate) struct SequenceClassification {
    model: Model,
}

impl SequenceClassification {
    /// Builds the model from its files.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub(crate) fn new(parts: Parts<'_>) -> Result<Self, LoadError> {
        let model = Model::load(parts, Task::Label)?;
        Ok(Self { model })
    }
}

impl Recipe for SequenceClassification {
    type Prepared = Document;
    /// Each window's logits.
    type Raw = Vec<Vec<f32>>;

    fn info(&self) -> &RecipeInfo {
        &self.model.info
    }

    fn architecture(&self) -> Architecture {
        self.model.architecture
    }

    fn signature(&self) -> Signature {
        Signature {
            answer: AnswerForm::Label,
            ..Signature::default()
        }
    }

    fn example(&self) -> Input {
        Input::text("What a lovely day, and nobody was in a hurry.")
    }

    fn prepare(&self, input: Input) -> Result<Document, InputError> {
        let input = self.model.reader.text(input, &[])?;
        self.model.reader.document(&input.text)
    }

    fn cost(&self, document: &Document) -> u32 {
        document.cost
    }

    fn forward(&self, batch: &[&Document]) -> Result<Vec<Vec<Vec<f32>>>, ForwardError> {
        let logits = self.model.forward(batch.iter().copied())?;
        let mut logits = logits
            .chunks_exact(self.model.labels.len())
            .map(<[f32]>::to_vec);
        Ok(batch
            .iter()
            .map(|document| logits.by_ref().take(document.windows.len()).collect())
            .collect())
    }

    fn finish(&self, document: Document, logits: Vec<Vec<f32>>) -> Output {
        // A text without tokens has one window, which then has the whole say.
        let total = document.tokens.ids.len().max(1) as f32;
        let mut mean = vec![0f32; self.model.labels.len()];
        for (window, logits) in document.windows.iter().zip(&logits) {
            let weight = if document.windows.len() == 1 {
                1.0
            } else {
                window.answers.len() as f32 / total
            };
            for (mean, p) in mean.iter_mut().zip(softmax(logits)) {
                *mean += weight * p;
            }
        }
        let mut scores: Vec<_> = self.model.labels.iter().cloned().zip(mean).collect();
        scores.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let (label, score) = scores[0].clone();
        Output::TextLabel(TextLabel {
            label,
            score,
            scores,
        })
    }

    fn logits(&self, raw: &Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        raw.clone()
    }

    fn sample(&self, size: Option<usize>, seed: u64) -> Document {
        let size = size.unwrap_or(SAMPLE_TOKENS);
        self.model.reader.sample(size, seed)
    }

    /// `{"logits": [...]}` for each row.
    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        let (logits, _) = self.model.forward_tensors(tensors)?;
        Ok(logits
            .into_iter()
            .map(|row| json!({ "logits": row }))
            .collect())
    }
}
