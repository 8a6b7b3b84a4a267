//! How a benchmark of models runs a recipe's model: the same step again and again, on made-up inputs.

use std::time::Duration;

use crate::{Entry, ForwardError, LoadError, LoadOptions};

/// How SuperBench's model benchmarks run a model.
#[derive(Clone, Copy, Debug)]
pub struct ModelBenchmark {
    /// SuperBench's name for models of its kind, which stands before theirs in the names of metrics: `resnet`, `gpt`.
    pub group: &'static str,
    /// Loads the model and makes steps of inference.
    pub inference: MakeSteps,
}

/// Loads a model and makes its steps, on a batch of inputs that are made up.
///
/// # Errors
/// [`LoadError::Unsupported`] where the device does not compute the model in that dtype; the weights are missing or wrong, or inputs of
/// that shape do not fit the model.
pub type MakeSteps = fn(&Entry, &LoadOptions, &BatchShape) -> Result<Box<dyn Steps>, LoadError>;

/// The batch that steps run on. A model takes of it what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Inputs in a batch.
    pub batch: usize,
    /// Pixels of an image's side.
    pub image_size: usize,
    /// Tokens, or rows, of a sequence.
    pub seq_len: usize,
}

/// A loaded model with a batch, which lies on the host as the model reads it.
pub trait Steps {
    /// The shape of the batch: `[n, 3, height, width]`, `[n, tokens]` or `[n, rows, features]`.
    fn shape(&self) -> Vec<usize>;

    /// The model's parameters.
    fn parameters(&self) -> u64;

    /// Multiplications, each with an addition, that the model's definition asks for in a step.
    fn multiply_adds(&self) -> u64;

    /// Runs a step, from the batch on the host to numbers there: of inference, the logits; of training, the loss.
    ///
    /// # Errors
    /// Out of memory or a failing device.
    fn step(&mut self) -> Result<Vec<f32>, ForwardError>;

    /// What the last step of training took: the batch's copy to the device, forward, backward, update.
    fn parts(&self) -> Option<[Duration; 4]> {
        None
    }

    /// Of training, the loss as the parameters are now, without dropout.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn loss(&mut self) -> Result<Option<f64>, ForwardError> {
        Ok(None)
    }
}
