//! An encoder with the head of a task, and what stands around it: all that the recipes here have in common.

use candle_nn::VarBuilder;
use galley_core::{
    Architecture, Entry, ForwardError, LoadError, LoadOptions, RawTensors, RecipeInfo, counted,
};
use galley_nn::{
    Backend,
    text::{Activation, Head, HeadLayer, Packed, Pooling, Transformer, TransformerConfig},
};
use galley_text::{Document, ModelFiles, Reader, architecture, recipe_info};

use crate::config::{Config, Names};

/// A tensor of every encoder.
const WORDS: &str = "embeddings.word_embeddings.weight";

/// What an encoder's features are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A label for each token.
    Tokens,
    /// A label for each text.
    Label,
    /// The features themselves, a vector for each text.
    Embedding(Pooling),
}

/// What a recipe is loaded from.
pub(crate) struct Parts<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) options: &'a LoadOptions,
    /// The weights' source, for people.
    pub(crate) source: String,
    pub(crate) files: ModelFiles,
    /// Tokens that are read at once; as many as the model has positions if it is larger.
    pub(crate) max_positions: usize,
    /// What sets the bound on a text's tokens.
    pub(crate) bound: &'static str,
}

/// A loaded network, and the way to it.
pub(crate) struct Model {
    pub(crate) info: RecipeInfo,
    pub(crate) architecture: Architecture,
    pub(crate) network: Transformer,
    pub(crate) reader: Reader,
    task: Task,
    /// Those of the task, by index.
    pub(crate) labels: Vec<String>,
}

impl Model {
    /// Builds the network.
    ///
    /// # Errors
    /// The files are not those of an encoder with a head for the task, or do not fit each other.
    pub(crate) fn load(parts: Parts<'_>, task: Task) -> Result<Self, LoadError> {
        let config: Config = parts.files.config()?;
        let transformer = config.transformer()?;
        let names = config.names();
        let labels = match task {
            Task::Tokens => config.labels("ForTokenClassification")?,
            Task::Label => config.labels("ForSequenceClassification")?,
            Task::Embedding(_) => Vec::new(),
        };
        let options = parts.options;
        let backend =
            Backend::of(&options.device, options.dtype).map_err(LoadError::Unsupported)?;
        let read = TransformerConfig {
            max_positions: transformer.max_positions.min(parts.max_positions),
            ..transformer.clone()
        };
        let reader = Reader::new(parts.files.tokenizer, &read, options, parts.bound)?;
        let (weights, parameters) = counted(parts.files.weights);
        let head = head(task, names, &weights, (transformer.hidden, labels.len()))?;
        // What was saved without a head has no prefix.
        let bare = head.layers.is_empty() && weights.contains_tensor(WORDS);
        let encoder = if bare {
            weights
        } else {
            weights.pp(names.prefix)
        };
        let network = Transformer::load(&transformer, &names.tensors, &head, &backend, &encoder)?;
        Ok(Self {
            info: recipe_info(parts.entry, options, parts.source),
            architecture: architecture(&transformer, parameters.get()),
            network,
            reader,
            task,
            labels,
        })
    }

    /// What the network gives for a batch, `[rows, outputs]`.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn forward<'a>(
        &self,
        batch: impl IntoIterator<Item = &'a Document>,
    ) -> Result<Vec<f32>, ForwardError> {
        let mut values = Vec::new();
        for run in self.reader.runs(batch, self.network.most_tokens()) {
            let run = self.network.forward(&run)?;
            values.extend(run.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(values)
    }

    /// The same for raw tensors, and the tokens that they came to.
    ///
    /// # Errors
    /// The tensors are not what the network reads, a row has no token where one is needed, or the device failed.
    pub(crate) fn forward_tensors(
        &self,
        tensors: &RawTensors,
    ) -> Result<(Vec<Vec<f32>>, Packed), ForwardError> {
        let batch = self.reader.tensors(tensors)?;
        if self.task != Task::Tokens && batch.lengths().any(|length| length == 0) {
            return Err(ForwardError::BadTensors(
                "expected at least one token in each row, got one with none".into(),
            ));
        }
        Ok((self.network.forward(&batch)?.to_vec2()?, batch))
    }
}

/// The head of transformers' class for the task.
fn head(
    task: Task,
    names: &Names,
    weights: &VarBuilder,
    (hidden, labels): (usize, usize),
) -> candle_core::Result<Head> {
    let layer =
        |vb: VarBuilder, outputs, activation| HeadLayer::load(&vb, (hidden, outputs), activation);
    let classifier = || layer(weights.pp("classifier"), labels, Activation::None);
    Ok(match task {
        Task::Tokens => Head {
            pooling: Pooling::Tokens,
            layers: vec![classifier()?],
        },
        Task::Label => {
            let (before, activation) = names.before_label;
            Head {
                pooling: Pooling::First,
                layers: vec![
                    layer(weights.pp(before), hidden, activation)?,
                    classifier()?,
                ],
            }
        }
        Task::Embedding(pooling) => Head {
            pooling,
            layers: Vec::new(),
        },
    })
}
