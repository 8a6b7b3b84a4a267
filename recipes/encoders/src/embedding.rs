//! Embeddings: text in, a vector out, as the sentence-transformers library makes it.
//!
//! A vector stands for one window of a text, as a model of this kind is trained. A longer text is refused, or cut where that
//! is asked for, which the library does without a word.

use galley_core::{
    AnswerForm, Architecture, ForwardError, Input, InputError, LoadError, LoadOptions, Output,
    RawTensors, Recipe, RecipeInfo, Signature, TextInput,
};
use galley_text::{Document, SAMPLE_TOKENS};
use serde_json::{Value, json};

use crate::{
    model::{Model, Parts, Task},
    modules::Modules,
};

/// The field of an input, and the option for all of them.
const TRUNCATE: &str = "truncate";

/// What the option does.
pub(crate) const TRUNCATE_HELP: (&str, &str) = (
    TRUNCATE,
    "whether a text longer than the model reads is cut and not refused: true or false (default: false)",
);

/// The least that a vector is divided by when it is normalised, as torch has it.
const LEAST_NORM: f32 = 1e-12;

/// The loaded recipe.
pub(crate) struct TextEmbeddings {
    model: Model,
    normalised: bool,
    truncate: bool,
}

impl TextEmbeddings {
    /// Builds the model from its files.
    ///
    /// # Errors
    /// As [`Model::load`], or the option is neither true nor false.
    pub(crate) fn new(parts: Parts<'_>, modules: Modules) -> Result<Self, LoadError> {
        let truncate = truncate(parts.options)?;
        Ok(Self {
            model: Model::load(parts, Task::Embedding(modules.pooling))?,
            normalised: modules.normalised,
            truncate,
        })
    }

    fn finished(&self, mut vector: Vec<f32>) -> Vec<f32> {
        if self.normalised {
            let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.iter_mut().for_each(|x| *x /= norm.max(LEAST_NORM));
        }
        vector
    }
}

fn truncate(options: &LoadOptions) -> Result<bool, LoadError> {
    let Some(text) = options.options.get(TRUNCATE) else {
        return Ok(false);
    };
    text.parse().map_err(|_| {
        LoadError::invalid(
            format!("option {TRUNCATE}"),
            format!("expected true or false, got {text:?}"),
        )
    })
}

impl Recipe for TextEmbeddings {
    type Prepared = Document;
    /// The vector as the network gives it.
    type Raw = Vec<f32>;

    fn info(&self) -> &RecipeInfo {
        &self.model.info
    }

    fn architecture(&self) -> Architecture {
        self.model.architecture
    }

    fn signature(&self) -> Signature {
        Signature {
            answer: AnswerForm::Embedding(self.model.network.outputs()),
            ..Signature::default()
        }
    }

    fn example(&self) -> Input {
        Input::text("A lighthouse stands where the river meets the sea.")
    }

    fn prepare(&self, input: Input) -> Result<Document, InputError> {
        let TextInput { text, options } = self.model.reader.text(input, &[TRUNCATE])?;
        let truncate = match options.get(TRUNCATE) {
            None => self.truncate,
            Some(Value::Bool(truncate)) => *truncate,
            Some(other) => {
                return Err(InputError::Unreadable(format!(
                    "field {TRUNCATE}: expected true or false, got {other}"
                )));
            }
        };
        self.model.reader.window(&text, truncate)
    }

    fn cost(&self, document: &Document) -> u32 {
        document.cost
    }

    fn forward(&self, batch: &[&Document]) -> Result<Vec<Vec<f32>>, ForwardError> {
        let values = self.model.forward(batch.iter().copied())?;
        let vectors = values.chunks_exact(self.model.network.outputs());
        Ok(vectors.map(<[f32]>::to_vec).collect())
    }

    fn finish(&self, _: Document, vector: Vec<f32>) -> Output {
        Output::Embedding(self.finished(vector))
    }

    fn is_finite(&self, raw: &Vec<f32>) -> bool {
        raw.iter().all(|number| number.is_finite())
    }

    fn sample(&self, size: Option<usize>, seed: u64) -> Document {
        let size = size.unwrap_or(SAMPLE_TOKENS);
        self.model.reader.sample(size, seed)
    }

    /// `{"embedding": [...]}` for each row.
    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        let (vectors, _) = self.model.forward_tensors(tensors)?;
        let finished = vectors.into_iter().map(|vector| self.finished(vector));
        Ok(finished
            .map(|vector| json!({ "embedding": vector }))
            .collect())
    }
}
