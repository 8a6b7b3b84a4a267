//! A model with its linear layer, on a device.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use galley_core::LoadError;
use galley_nn::{
    Backend, Precision,
    lstm::Lstm,
    text::{Activation, Head, HeadLayer, Linear, Packed, Pooling, TensorNames, Transformer},
};

use crate::zoo::{Family, Model};

/// Classes of the linear layer.
pub(crate) const CLASSES: usize = 100;

/// What a model reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sequence {
    /// Token ids.
    Ids(Vec<u32>),
    /// Rows of numbers, end to end.
    Rows(Vec<f32>),
}

/// A loaded model.
pub(crate) enum Network {
    Transformer(Transformer),
    Lstm {
        lstm: Lstm,
        /// Numbers of a row.
        width: usize,
        linear: Linear,
    },
}

impl Network {
    /// Reads the tensors of the benchmark's state dict.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or the device has no kernels for the model.
    pub(crate) fn load(
        model: &Model,
        backend: &Backend,
        vb: &VarBuilder,
    ) -> std::result::Result<Self, LoadError> {
        let hidden = model.hidden;
        let layer = |name: &str, outputs, activation| {
            HeadLayer::load(&vb.pp(name), (hidden, outputs), activation)
        };
        let last = layer("_linear", CLASSES, Activation::None)?;
        let (names, prefix, head) = match model.family {
            Family::Bert => {
                let pooler = layer("_bert.pooler.dense", hidden, Activation::Tanh)?;
                let head = Head {
                    pooling: Pooling::First,
                    layers: vec![pooler, last],
                };
                (&TensorNames::BERT, "_bert", head)
            }
            Family::Gpt2 => {
                let head = Head {
                    pooling: Pooling::Tokens,
                    layers: vec![last],
                };
                (&TensorNames::GPT2, "_gpt2", head)
            }
            Family::Lstm => {
                if backend.cpu().map_err(LoadError::Unsupported)? != Precision::F32 {
                    return Err(LoadError::Unsupported(
                        "an LSTM computes in f32 on the CPU: use --dtype f32".into(),
                    ));
                }
                let config = model.lstm();
                return Ok(Self::Lstm {
                    lstm: Lstm::load(&vb.pp("_lstm"), config)?,
                    width: config.input,
                    linear: Linear::new(&last.weight, &last.bias)?,
                });
            }
        };
        let (config, vb) = (model.transformer(), vb.pp(prefix));
        Ok(Self::Transformer(Transformer::load(
            &config, names, &head, backend, &vb,
        )?))
    }

    /// The logits of each sequence: of its only row, or of all its tokens one after the other.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// A sequence is of the other kind.
    pub(crate) fn forward(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Transformer(transformer) => {
                let ids = |sequence: &&Sequence| match sequence {
                    Sequence::Ids(ids) => ids.clone(),
                    Sequence::Rows(_) => unreachable!("`prepare` made ids"),
                };
                transformed(transformer, &Packed::new(batch.iter().map(ids)))
            }
            Self::Lstm {
                lstm,
                width,
                linear,
            } => {
                let rows: Vec<&[f32]> = (batch.iter())
                    .map(|sequence| match sequence {
                        Sequence::Rows(rows) => &rows[..],
                        Sequence::Ids(_) => unreachable!("`prepare` made rows"),
                    })
                    .collect();
                let lengths: Vec<_> = rows.iter().map(|rows| rows.len() / width).collect();
                let shape = (lengths.iter().sum::<usize>(), *width);
                let x = Tensor::from_vec(rows.concat(), shape, &Device::Cpu)?;
                // A sequence's last output is the last state of the top layer.
                let top = lstm.forward(&x, &lengths)?.hidden;
                let top = top.get(top.dim(0)? - 1)?.contiguous()?;
                linear.forward(&top, Activation::None)?.to_vec2()
            }
        }
    }
}

/// The logits of each sequence.
///
/// # Errors
/// The device failed.
pub(crate) fn transformed(transformer: &Transformer, batch: &Packed) -> Result<Vec<Vec<f32>>> {
    let logits: Vec<f32> = transformer.forward(batch)?.flatten_all()?.to_vec1()?;
    let sequences = batch.lengths().count();
    let mut rest = &logits[..];
    let each_token = logits.len() != sequences * CLASSES;
    Ok(batch
        .lengths()
        .map(|length| {
            let rows = if each_token { length } else { 1 };
            let (own, after) = rest.split_at(rows * CLASSES);
            rest = after;
            own.to_vec()
        })
        .collect())
}
