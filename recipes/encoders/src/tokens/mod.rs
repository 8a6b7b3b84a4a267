//! Token classification: text in, entities out, as the transformers library's pipeline gives them.
//!
//! `aggregation` makes entities of tokens with probabilities.

mod aggregation;
mod code_points;

use galley_core::{
    Architecture, ForwardError, Input, InputError, LoadError, Output, RawTensors, Recipe,
    RecipeInfo, TextInput,
};
use galley_text::{Document, SAMPLE_TOKENS, softmax};
use serde_json::{Value, json};

pub(crate) use self::aggregation::Aggregation;
use self::{
    aggregation::{ScoredToken, entities},
    code_points::CodePoints,
};
use crate::model::{Model, Parts, Task};

/// The loaded recipe.
pub(crate) struct TokenClassification {
    model: Model,
    aggregation: Aggregation,
}

/// A text, ready for a batch.
pub(crate) struct Item {
    text: String,
    document: Document,
    aggregation: Aggregation,
}

impl TokenClassification {
    /// Builds the model from its files.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub(crate) fn new(parts: Parts<'_>, aggregation: Aggregation) -> Result<Self, LoadError> {
        let model = Model::load(parts, Task::Tokens)?;
        Ok(Self { model, aggregation })
    }

    /// Each token with its probabilities, from the logits of all tokens in a row.
    fn scored<'a>(&'a self, item: &'a Item, logits: &[f32]) -> Vec<ScoredToken<'a>> {
        let Document {
            tokens, windows, ..
        } = &item.document;
        let mut places = CodePoints::new(&item.text);
        let mut rows = logits.chunks_exact(self.model.labels.len());
        let mut scored = Vec::with_capacity(tokens.ids.len());
        for window in windows {
            for (i, row) in window.answers.clone().zip(&mut rows) {
                let (from, to) = tokens.offsets[i];
                let (start, end) = (places.before(from), places.before(to));
                let slice = item.text.get(from..to).unwrap_or_default();
                let mut word = self.model.reader.tokenizer().token(tokens.ids[i]);
                let mut is_subword = if self.model.reader.tokenizer().marks_continuations() {
                    // A piece that continues a word is longer than its slice by its mark.
                    word.chars().count() != end - start
                } else {
                    start > 0 && !around_start(&item.text, from).contains(' ')
                };
                if self.model.reader.tokenizer().unknown() == Some(tokens.ids[i]) {
                    word = slice;
                    is_subword = false;
                }
                scored.push(ScoredToken {
                    word,
                    probabilities: softmax(row),
                    index: self.model.reader.tokenizer().prefix_len() + i - window.tokens.start,
                    start,
                    end,
                    is_subword,
                });
            }
        }
        scored
    }
}

/// The characters before and after the byte `place`, by which a token that begins there is told to begin a word.
fn around_start(text: &str, place: usize) -> &str {
    let before = text.get(..place).and_then(|text| text.chars().next_back());
    let after = text.get(place..).and_then(|text| text.chars().next());
    let length = |char: Option<char>| char.map_or(0, char::len_utf8);
    text.get(place - length(before)..place + length(after))
        .unwrap_or_default()
}

impl Recipe for TokenClassification {
    type Prepared = Item;
    /// The logits of the text's tokens, special ones left out, one after the other.
    type Raw = Vec<f32>;

    fn info(&self) -> &RecipeInfo {
        &self.model.info
    }

    fn architecture(&self) -> Architecture {
        self.model.architecture
    }

    fn example(&self) -> Input {
        Input::text("My name is Wolfgang Meyer and I live at 12 Elm Street, Boston.")
    }

    fn prepare(&self, input: Input) -> Result<Item, InputError> {
        let TextInput { text, options } = self.model.reader.text(input, &["aggregation"])?;
        let aggregation = match options.get("aggregation") {
            None => self.aggregation,
            Some(value) => value
                .as_str()
                .ok_or_else(|| format!("expected a text, got {value}"))
                .and_then(str::parse)
                .map_err(|reason| InputError::Unreadable(format!("field aggregation: {reason}")))?,
        };
        let document = self.model.reader.document(&text)?;
        Ok(Item {
            text,
            document,
            aggregation,
        })
    }

    fn cost(&self, item: &Item) -> u32 {
        item.document.cost
    }

    fn forward(&self, batch: &[&Item]) -> Result<Vec<Vec<f32>>, ForwardError> {
        let logits = self
            .model
            .forward(batch.iter().map(|item| &item.document))?;
        let width = self.model.labels.len();
        let specials = self.model.reader.tokenizer().specials();
        let mut first = 0;
        Ok(batch
            .iter()
            .map(|item| {
                let mut own = Vec::with_capacity(item.document.tokens.ids.len() * width);
                for window in &item.document.windows {
                    let skipped = window.answers.start - window.tokens.start;
                    let start = first + self.model.reader.tokenizer().prefix_len() + skipped;
                    own.extend(&logits[start * width..(start + window.answers.len()) * width]);
                    first += window.tokens.len() + specials;
                }
                own
            })
            .collect())
    }

    fn finish(&self, item: Item, logits: Vec<f32>) -> Output {
        let tokens = self.scored(&item, &logits);
        Output::Entities(entities(
            &tokens,
            &self.model.labels,
            item.aggregation,
            self.model.reader.tokenizer(),
        ))
    }

    fn is_finite(&self, raw: &Vec<f32>) -> bool {
        raw.iter().all(|number| number.is_finite())
    }

    fn logits(&self, raw: &Vec<f32>) -> Vec<Vec<f32>> {
        raw.chunks_exact(self.model.labels.len())
            .map(<[f32]>::to_vec)
            .collect()
    }

    fn sample(&self, size: Option<usize>, seed: u64) -> Item {
        let size = size.unwrap_or(SAMPLE_TOKENS);
        let document = self.model.reader.sample(size, seed);
        Item {
            text: "x".repeat(document.tokens.ids.len()),
            document,
            aggregation: self.aggregation,
        }
    }

    /// `{"logits": [[...], ...]}` for each row: a list of logits for each token that the row's mask shows, special
    /// tokens among them.
    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        let (logits, batch) = self.model.forward_tensors(tensors)?;
        let rows = batch.offsets().windows(2);
        Ok(rows
            .map(|row| json!({ "logits": logits[row[0]..row[1]] }))
            .collect())
    }
}
