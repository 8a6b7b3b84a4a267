//! The three stages: a text into tokens and windows, windows into logits, logits into a label.
//!
//! A text longer than the model takes is read in overlapping windows. Its probabilities are the mean of the windows',
//! each counting as many times as the tokens that it answers for: every token weighs the same, and none is left out.

use galley_core::{
    AnswerForm, Architecture, Entry, ForwardError, Input, InputError, LoadError, LoadOptions,
    Output, RawTensors, Recipe, RecipeInfo, Signature, TextLabel, counted,
};
use galley_nn::{Backend, text::Classifier};
use galley_text::{
    Document, ModelFiles, Reader, SAMPLE_TOKENS, architecture, recipe_info, softmax,
};
use serde_json::{Value, json};

use crate::{MAX_TOKENS, config::DistilBertConfig, model::sequence_classifier};

/// The loaded recipe.
pub(crate) struct SequenceClassification {
    info: RecipeInfo,
    architecture: Architecture,
    model: Classifier,
    reader: Reader,
    labels: Vec<String>,
}

impl SequenceClassification {
    /// Builds the model from its files.
    ///
    /// # Errors
    /// The files are not those of a DistilBERT sequence classifier, or do not fit each other.
    pub(crate) fn new(
        entry: &Entry,
        options: &LoadOptions,
        weights: String,
        files: ModelFiles,
    ) -> Result<Self, LoadError> {
        let config: DistilBertConfig = files.config()?;
        let (encoder, labels) = (config.encoder()?, config.labels()?);
        let backend =
            Backend::of(&options.device, options.dtype).map_err(LoadError::Unsupported)?;
        let reader = Reader::new(files.tokenizer, &encoder, options, MAX_TOKENS)?;
        let (weights_read, parameters) = counted(files.weights);
        let model = sequence_classifier(&encoder, labels.len(), &backend, &weights_read)?;
        Ok(Self {
            info: recipe_info(entry, options, weights),
            architecture: architecture(&encoder, parameters.get()),
            model,
            reader,
            labels,
        })
    }
}

impl Recipe for SequenceClassification {
    type Prepared = Document;
    /// Each window's logits.
    type Raw = Vec<Vec<f32>>;

    fn info(&self) -> &RecipeInfo {
        &self.info
    }

    fn architecture(&self) -> Architecture {
        self.architecture
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
        let input = self.reader.text(input, &[])?;
        self.reader.document(&input.text)
    }

    fn cost(&self, document: &Document) -> u32 {
        document.cost
    }

    fn forward(&self, batch: &[&Document]) -> Result<Vec<Vec<Vec<f32>>>, ForwardError> {
        let mut logits = Vec::new();
        let most = self.model.most_tokens();
        for run in self.reader.runs(batch.iter().copied(), most) {
            logits.extend(self.model.forward(&run)?.to_vec2::<f32>()?);
        }
        let mut logits = logits.into_iter();
        Ok(batch
            .iter()
            .map(|document| logits.by_ref().take(document.windows.len()).collect())
            .collect())
    }

    fn finish(&self, document: Document, logits: Vec<Vec<f32>>) -> Output {
        // A text without tokens has one window, which then has the whole say.
        let total = document.tokens.ids.len().max(1) as f32;
        let mut mean = vec![0f32; self.labels.len()];
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
        let mut scores: Vec<_> = self.labels.iter().cloned().zip(mean).collect();
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
        self.reader.sample(size, seed)
    }

    /// `{"logits": [...]}` for each row.
    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        let batch = self.reader.tensors(tensors)?;
        if batch.lengths().any(|length| length == 0) {
            return Err(ForwardError::BadTensors(
                "expected at least one token in each row, got one with none".into(),
            ));
        }
        let logits: Vec<Vec<f32>> = self.model.forward(&batch)?.to_vec2()?;
        Ok(logits
            .into_iter()
            .map(|row| json!({ "logits": row }))
            .collect())
    }
}
