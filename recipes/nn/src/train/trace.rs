//! What a training run looks like from outside: each step's loss, and norms at the end. It is what another program's numbers
//! are held against.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor, bail};

use super::Trainer;
use crate::host;

/// The tensor of images in a file of inputs, `[batch, channels, height, width]`.
const PIXELS: &str = "pixels";
/// The tensor of labels there, `[batch]`.
const LABELS: &str = "labels";

/// A batch, as a trainer reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[batch, height, width, channels]`.
    pub input: Vec<f32>,
    /// One for each example.
    pub labels: Vec<u32>,
    /// Of the images: channels, and pixels down and across.
    pub shape: [usize; 3],
}

impl Batch {
    /// From named tensors: `pixels` `[batch, channels, height, width]` and whole numbers `labels` `[batch]`.
    ///
    /// # Errors
    /// One of them is missing or of another shape, or a label is below zero.
    pub fn read(tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let get = |name: &str| match tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("expected tensors {PIXELS} and {LABELS}, got no {name}"),
        };
        let (pixels, labels) = (get(PIXELS)?, get(LABELS)?);
        let [batch, channels, height, width] = match *pixels.dims() {
            [batch, channels, height, width] => [batch, channels, height, width],
            _ => bail!(
                "expected {PIXELS} [batch, channels, height, width], got {:?}",
                pixels.dims()
            ),
        };
        host::expect_shape(LABELS, labels, &[batch])?;
        let labels: Vec<i64> = labels.to_dtype(DType::I64)?.to_vec1()?;
        let label = |label: i64| match u32::try_from(label) {
            Ok(label) => Ok(label),
            Err(_) => bail!("expected {LABELS} from 0 on, got {label}"),
        };
        Ok(Self {
            input: host::to_vec(&pixels.permute((0, 2, 3, 1))?)?,
            labels: labels.into_iter().map(label).collect::<Result<_>>()?,
            shape: [channels, height, width],
        })
    }
}

/// What a run did.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The loss before each step.
    pub losses: Vec<f64>,
    /// Of each parameter after the last step.
    pub parameters: Vec<Norms>,
}

/// The Euclidean norms of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Norms {
    /// What its state dict calls it.
    pub name: String,
    /// Of the last step's gradient.
    pub gradient: f64,
    /// Of the values after that step.
    pub value: f64,
}

/// Trains on one batch for so many steps.
///
/// # Errors
/// As [`Trainer::step`].
pub fn trace(trainer: &mut Trainer, batch: &Batch, steps: usize) -> Result<Trace> {
    let losses = (0..steps).map(|_| Ok(trainer.step(&batch.input, &batch.labels)?.loss));
    let losses = losses.collect::<Result<_>>()?;
    let norm = |values: &[f32]| {
        values
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let parameters = trainer.parameters().map(|parameter| Norms {
        name: parameter.name.into(),
        gradient: norm(parameter.gradient),
        value: norm(parameter.values),
    });
    Ok(Trace {
        losses,
        parameters: parameters.collect(),
    })
}
