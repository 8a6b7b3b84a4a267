//! What a training run looks like from outside: each step's loss, and norms at the end. It is what another program's numbers
//! are held against.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor, bail};

use super::Trainer;
use crate::host;

/// The tensor of images in a file of inputs, `[batch, channels, height, width]`.
const PIXELS: &str = "pixels";
/// That of token ids, `[batch, tokens]`.
const IDS: &str = "input_ids";
/// That of rows of numbers, `[batch, steps, features]`.
const ROWS: &str = "x";
/// The tensor of labels beside one of these, `[batch]`.
const LABELS: &str = "labels";

/// A batch, as a trainer reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[batch, height, width, channels]`.
    pub input: Vec<f32>,
    /// One for each example.
    pub labels: Vec<u32>,
    /// Of an example: channels, and pixels down and across. A sequence is a line of tokens or steps.
    pub shape: [usize; 3],
}

impl Batch {
    /// From named tensors: `pixels` `[batch, channels, height, width]`, whole numbers `input_ids` `[batch, tokens]` or `x` `[batch,
    /// steps, features]`, and whole numbers `labels` `[batch]`.
    ///
    /// # Errors
    /// One of them is missing or of another shape, or a label is below zero.
    pub fn read(tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let found = [PIXELS, IDS, ROWS].map(|name| tensors.get(name));
        let (input, shape) = match (
            found,
            found.map(|tensor| tensor.map_or(&[][..], Tensor::dims)),
        ) {
            ([Some(pixels), None, None], [[_, channels, height, width], ..]) => {
                (pixels.permute((0, 2, 3, 1))?, [*channels, *height, *width])
            }
            ([None, Some(ids), None], [_, [_, tokens], _]) => (ids.clone(), [1, 1, *tokens]),
            ([None, None, Some(rows)], [_, _, [_, steps, features]]) => {
                (rows.clone(), [*features, 1, *steps])
            }
            (_, shapes) => bail!(
                "expected {PIXELS} [batch, channels, height, width], {IDS} [batch, tokens] or {ROWS} [batch, steps, features], got {shapes:?}"
            ),
        };
        let Some(labels) = tensors.get(LABELS) else {
            bail!("expected a tensor {LABELS}, got none")
        };
        host::expect_shape(LABELS, labels, &[input.dim(0)?])?;
        let labels: Vec<i64> = labels.to_dtype(DType::I64)?.to_vec1()?;
        let label = |label: i64| match u32::try_from(label) {
            Ok(label) => Ok(label),
            Err(_) => bail!("expected {LABELS} from 0 on, got {label}"),
        };
        Ok(Self {
            input: host::to_vec(&input)?,
            labels: labels.into_iter().map(label).collect::<Result<_>>()?,
            shape,
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
    let parameters = trainer.parameters()?.map(|parameter| Norms {
        name: parameter.name.into(),
        gradient: norm(parameter.gradient),
        value: norm(parameter.values),
    });
    Ok(Trace {
        losses,
        parameters: parameters.collect(),
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn read(name: &str, shape: &[usize], labels: &[i64]) -> Result<Batch> {
        let count = shape.iter().product::<usize>() as u32;
        let input = Tensor::arange(0, count, &Device::Cpu)?.reshape(shape)?;
        let labels = Tensor::new(labels, &Device::Cpu)?;
        let named = [(name.to_owned(), input), (LABELS.to_owned(), labels)];
        Batch::read(&HashMap::from(named))
    }

    #[test]
    fn a_batch_is_read_as_a_trainer_wants_it() {
        let numbers = |count| (0..count).map(|i| i as f32).collect::<Vec<_>>();
        let pixels = read(PIXELS, &[1, 2, 1, 3], &[4]).unwrap();
        assert_eq!(pixels.input, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!((pixels.shape, &pixels.labels[..]), ([2, 1, 3], &[4][..]));
        let ids = read(IDS, &[2, 3], &[0, 1]).unwrap();
        assert_eq!((ids.shape, ids.input), ([1, 1, 3], numbers(6)));
        let rows = read(ROWS, &[2, 3, 4], &[0, 1]).unwrap();
        assert_eq!((rows.shape, rows.input), ([4, 1, 3], numbers(24)));
    }

    #[test]
    fn what_is_no_batch_is_told() {
        let told = |name, shape: &[usize], labels: &[i64]| {
            read(name, shape, labels).unwrap_err().to_string()
        };
        assert!(told(IDS, &[2, 3, 1], &[0, 1]).starts_with("expected pixels [batch, channels"));
        assert!(told("pixel", &[2, 3], &[0, 1]).starts_with("expected pixels [batch, channels"));
        assert!(told(IDS, &[2, 3], &[0]).starts_with("labels: expected shape [2]"));
        assert!(told(IDS, &[2, 3], &[0, -1]).starts_with("expected labels from 0 on, got -1"));
    }
}
