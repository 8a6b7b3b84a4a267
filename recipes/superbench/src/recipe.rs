//! The three stages: a JSON list into ids or rows, these into logits, logits into the answer.

use candle_core::DType;
use candle_nn::VarBuilder;
use galley_core::{
    Architecture, Entry, ForwardError, Input, InputError, LoadError, LoadOptions, Output,
    RawTensors, Recipe, RecipeInfo, counted, synthetic,
};
use galley_nn::Backend;
use galley_text::{TensorLimits, packed, recipe_info};
use serde_json::{Value, json};

use crate::{
    LENGTH,
    network::{Batch, CLASSES, Network, Sequence},
    steps::IDS,
    zoo::{Family, Model},
};

/// The most steps of a sequence without positions.
const MOST_STEPS: usize = 4096;

/// The tensor that an LSTM reads.
const ROWS: &str = "input";

/// The loaded recipe.
pub(crate) struct SequenceModel {
    info: RecipeInfo,
    architecture: Architecture,
    network: Network,
    /// What it reads, if it reads ids.
    limits: Option<TensorLimits>,
    /// Numbers of a row, if it reads rows.
    width: usize,
    /// Whether there are logits for each token.
    each_token: bool,
}

impl SequenceModel {
    /// Builds the model.
    ///
    /// # Errors
    /// As [`Network::load`].
    pub(crate) fn new(
        entry: &Entry,
        options: &LoadOptions,
        source: String,
        model: &Model,
        weights: VarBuilder<'static>,
    ) -> Result<Self, LoadError> {
        let backend =
            Backend::of(&options.device, options.dtype).map_err(LoadError::Unsupported)?;
        let (weights, parameters) = counted(weights);
        let network = Network::load(model, &backend, &weights)?;
        let config = model.transformer();
        Ok(Self {
            info: recipe_info(entry, options, source),
            architecture: Architecture {
                parameters: Some(parameters.get()),
                layers: Some(model.layers),
                hidden_size: Some(model.hidden),
                attention_heads: model.attention_heads(),
            },
            network,
            limits: (model.family != Family::Lstm).then_some(TensorLimits {
                vocabulary: config.vocabulary,
                max_positions: config.max_positions,
            }),
            width: model.lstm().input,
            each_token: model.family == Family::Gpt2,
        })
    }

    fn ids(limits: TensorLimits, value: Value) -> Result<Sequence, String> {
        let ids: Vec<u32> = serde_json::from_value(value)
            .map_err(|error| format!("expected a list of token ids: {error}"))?;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= limits.vocabulary) {
            return Err(format!(
                "expected ids below {}, got {id}",
                limits.vocabulary
            ));
        }
        if ids.is_empty() || ids.len() > limits.max_positions {
            return Err(format!(
                "expected 1 to {} token ids, got {}",
                limits.max_positions,
                ids.len()
            ));
        }
        Ok(Sequence::Ids(ids))
    }

    fn rows(&self, value: Value) -> Result<Sequence, String> {
        let rows: Vec<Vec<f32>> = serde_json::from_value(value)
            .map_err(|error| format!("expected a list of rows of numbers: {error}"))?;
        if rows.is_empty() || rows.len() > MOST_STEPS {
            return Err(format!(
                "expected 1 to {MOST_STEPS} rows, got {}",
                rows.len()
            ));
        }
        match rows.iter().find(|row| row.len() != self.width) {
            Some(row) => Err(format!(
                "expected rows of {} numbers, got one of {}",
                self.width,
                row.len()
            )),
            None if rows.iter().flatten().all(|x| x.is_finite()) => {
                Ok(Sequence::Rows(rows.concat()))
            }
            None => Err("expected numbers within f32".into()),
        }
    }

    /// The tensor of rows.
    ///
    /// # Errors
    /// It is not there or another.
    fn rows_of(&self, tensors: &RawTensors) -> Result<Batch, ForwardError> {
        let bad = |got: String| {
            ForwardError::BadTensors(format!(
                "expected {ROWS} [n, steps, {}] of f32, {got}",
                self.width
            ))
        };
        let rows = match tensors.get(ROWS) {
            Some(rows) if tensors.len() == 1 => rows,
            _ => {
                let names: Vec<_> = tensors.keys().map(String::as_str).collect();
                return Err(bad(format!("got {}", names.join(", "))));
            }
        };
        match *rows.dims() {
            [n, steps, width] if steps > 0 && width == self.width && rows.dtype() == DType::F32 => {
                Ok(Batch::Rows {
                    rows: rows.contiguous()?.reshape((n * steps, width))?,
                    lengths: vec![steps; n],
                })
            }
            _ => {
                let dtype = rows.dtype().as_str();
                Err(bad(format!("got {:?} of {dtype}", rows.dims())))
            }
        }
    }
}

impl Recipe for SequenceModel {
    type Prepared = Sequence;
    type Raw = Vec<f32>;

    fn info(&self) -> &RecipeInfo {
        &self.info
    }

    fn architecture(&self) -> Architecture {
        self.architecture
    }

    fn example(&self) -> Input {
        Input::Json(match self.limits {
            Some(_) => json!([3, 14, 15, 92, 65]),
            None => json!([vec![0.5; self.width], vec![-0.5; self.width]]),
        })
    }

    fn prepare(&self, input: Input) -> Result<Sequence, InputError> {
        let Input::Json(value) = input else {
            let got = input.describe();
            return Err(InputError::Unreadable(format!(
                "expected a JSON list, got {got}"
            )));
        };
        let read = match self.limits {
            Some(limits) => Self::ids(limits, value),
            None => self.rows(value),
        };
        read.map_err(InputError::Unreadable)
    }

    fn cost(&self, sequence: &Sequence) -> u32 {
        let length = match sequence {
            Sequence::Ids(ids) => ids.len(),
            Sequence::Rows(rows) => rows.len() / self.width,
        };
        u32::try_from(length).unwrap_or(u32::MAX)
    }

    fn forward(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, ForwardError> {
        Ok(self.network.forward(batch)?)
    }

    /// The logits of the only row, or of the last token.
    fn finish(&self, _: Sequence, logits: Vec<f32>) -> Output {
        Output::Json(json!(logits[logits.len() - CLASSES..]))
    }

    fn logits(&self, raw: &Vec<f32>) -> Vec<Vec<f32>> {
        raw.chunks_exact(CLASSES).map(<[f32]>::to_vec).collect()
    }

    fn sample(&self, size: Option<usize>, seed: u64) -> Sequence {
        let size = size.unwrap_or(LENGTH).max(1);
        match self.limits {
            Some(limits) => {
                let ids = synthetic::raw24("sample", seed).take(size.min(limits.max_positions));
                Sequence::Ids(ids.map(|raw| raw % IDS).collect())
            }
            None => {
                let numbers = synthetic::uniform("sample", seed);
                Sequence::Rows(numbers.take(size * self.width).collect())
            }
        }
    }

    /// `{"logits": [...]}` for each row, or `{"logits": [[...], ...]}` with a list for each token.
    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        let batch = match self.limits {
            Some(limits) => {
                let ids = packed(tensors, limits)?;
                if ids.lengths().any(|length| length == 0) {
                    return Err(ForwardError::BadTensors(
                        "expected at least one token in each row, got one with none".into(),
                    ));
                }
                Batch::Ids(ids)
            }
            None => self.rows_of(tensors)?,
        };
        let logits = batch.split(&self.network.run(&batch)?);
        Ok(logits
            .into_iter()
            .map(|logits| match self.each_token {
                true => json!({ "logits": self.logits(&logits) }),
                false => json!({ "logits": logits }),
            })
            .collect())
    }
}
