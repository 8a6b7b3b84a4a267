//! The three stages: a text into tokens and windows, windows into logits, logits into entities.

use galley_core::{
    Architecture, Entry, ForwardError, Input, InputError, LoadError, LoadOptions, Output,
    RawTensors, Recipe, RecipeInfo, TextInput, counted,
};
use galley_nn::{Backend, text::Classifier};
use galley_text::{
    Document, ModelFiles, Reader, SAMPLE_TOKENS, architecture, recipe_info, softmax,
};
use serde_json::{Value, json};

use crate::{
    MAX_TOKENS,
    aggregation::{Aggregation, ScoredToken, entities},
    code_points::CodePoints,
    config::BertConfig,
    model::token_classifier,
};

/// The loaded recipe.
pub(crate) struct TokenClassification {
    info: RecipeInfo,
    architecture: Architecture,
    model: Classifier,
    reader: Reader,
    labels: Vec<String>,
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
    /// The files are not those of a BERT token classifier, or do not fit each other.
    pub(crate) fn new(
        entry: &Entry,
        options: &LoadOptions,
        weights: String,
        files: ModelFiles,
        aggregation: Aggregation,
    ) -> Result<Self, LoadError> {
        let config: BertConfig = files.config()?;
        let (encoder, labels) = (config.encoder()?, config.labels()?);
        let backend =
            Backend::of(&options.device, options.dtype).map_err(LoadError::Unsupported)?;
        let reader = Reader::new(files.tokenizer, &encoder, options, MAX_TOKENS)?;
        let (weights_read, parameters) = counted(files.weights);
        let model = token_classifier(&encoder, labels.len(), &backend, &weights_read)?;
        Ok(Self {
            info: recipe_info(entry, options, weights),
            architecture: architecture(&encoder, parameters.get()),
            model,
            reader,
            labels,
            aggregation,
        })
    }

    /// Each token with its probabilities, from the logits of all tokens in a row.
    fn scored(&self, item: &Item, logits: &[f32]) -> Vec<ScoredToken> {
        let Document {
            tokens, windows, ..
        } = &item.document;
        let mut places = CodePoints::new(&item.text);
        let mut rows = logits.chunks_exact(self.labels.len());
        let mut scored = Vec::with_capacity(tokens.ids.len());
        for window in windows {
            for (i, row) in window.answers.clone().zip(&mut rows) {
                let (from, to) = tokens.offsets[i];
                let (start, end) = (places.before(from), places.before(to));
                let slice = item.text.get(from..to).unwrap_or_default();
                let mut word = self.reader.tokenizer().token(tokens.ids[i]);
                let mut is_subword = if self.reader.tokenizer().marks_continuations() {
                    // A piece that continues a word is longer than its slice by its mark.
                    word.chars().count() != end - start
                } else {
                    start > 0 && !around_start(&item.text, from).contains(' ')
                };
                if self.reader.tokenizer().unknown() == Some(tokens.ids[i]) {
                    word = slice.into();
                    is_subword = false;
                }
                scored.push(ScoredToken {
                    word,
                    probabilities: softmax(row),
                    index: self.reader.tokenizer().prefix_len() + i - window.tokens.start,
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
        &self.info
    }

    fn architecture(&self) -> Architecture {
        self.architecture
    }

    fn example(&self) -> Input {
        Input::text("My name is Wolfgang Meyer and I live at 12 Elm Street, Boston.")
    }

    fn prepare(&self, input: Input) -> Result<Item, InputError> {
        let TextInput { text, options } = self.reader.text(input, &["aggregation"])?;
        let aggregation = match options.get("aggregation") {
            None => self.aggregation,
            Some(value) => value
                .as_str()
                .ok_or_else(|| format!("expected a text, got {value}"))
                .and_then(str::parse)
                .map_err(|reason| InputError::Unreadable(format!("field aggregation: {reason}")))?,
        };
        let document = self.reader.document(&text)?;
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
        let mut logits = Vec::new();
        let documents = batch.iter().map(|item| &item.document);
        for run in self.reader.runs(documents, self.model.most_tokens()) {
            let run = self.model.forward(&run)?;
            logits.extend(run.flatten_all()?.to_vec1::<f32>()?);
        }
        let width = self.labels.len();
        let specials = self.reader.tokenizer().specials();
        let mut first = 0;
        Ok(batch
            .iter()
            .map(|item| {
                let mut own = Vec::with_capacity(item.document.tokens.ids.len() * width);
                for window in &item.document.windows {
                    let skipped = window.answers.start - window.tokens.start;
                    let start = first + self.reader.tokenizer().prefix_len() + skipped;
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
            &self.labels,
            item.aggregation,
            self.reader.tokenizer(),
        ))
    }

    fn logits(&self, raw: &Vec<f32>) -> Vec<Vec<f32>> {
        raw.chunks_exact(self.labels.len())
            .map(<[f32]>::to_vec)
            .collect()
    }

    fn sample(&self, size: Option<usize>, seed: u64) -> Item {
        let size = size.unwrap_or(SAMPLE_TOKENS);
        let document = self.reader.sample(size, seed);
        Item {
            text: "x".repeat(document.tokens.ids.len()),
            document,
            aggregation: self.aggregation,
        }
    }

    /// `{"logits": [[...], ...]}` for each row: a list of logits for each token that the row's mask shows, special
    /// tokens among them.
    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        let batch = self.reader.tensors(tensors)?;
        let logits: Vec<Vec<f32>> = self.model.forward(&batch)?.to_vec2()?;
        let rows = batch.offsets().windows(2);
        Ok(rows
            .map(|row| json!({ "logits": logits[row[0]..row[1]] }))
            .collect())
    }
}
