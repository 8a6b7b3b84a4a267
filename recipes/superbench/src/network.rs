//! A model with its linear layer, on a device.

use candle_core::{Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use galley_core::LoadError;
use galley_nn::{
    Backend, Precision,
    lstm::LstmClassifier,
    text::{Activation, Head, HeadLayer, Packed, Pooling, TensorNames, Transformer},
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
        lstm: LstmClassifier,
        /// Numbers of a row.
        width: usize,
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
        let last = || layer("_linear", CLASSES, Activation::None);
        let (names, prefix, head) = match model.family {
            Family::Bert => {
                let pooler = layer("_bert.pooler.dense", hidden, Activation::Tanh)?;
                let head = Head {
                    pooling: Pooling::First,
                    layers: vec![pooler, last()?],
                };
                (&TensorNames::BERT, "_bert", head)
            }
            Family::Gpt2 => {
                let head = Head {
                    pooling: Pooling::Tokens,
                    layers: vec![last()?],
                };
                (&TensorNames::GPT2, "_gpt2", head)
            }
            Family::Lstm => {
                if backend
                    .cpu()
                    .is_ok_and(|precision| precision != Precision::F32)
                {
                    return Err(LoadError::Unsupported(
                        "an LSTM computes in f32 on the CPU: use --dtype f32".into(),
                    ));
                }
                let config = model.lstm();
                let (lstm, linear) = (vb.pp("_lstm"), vb.pp("_linear"));
                return Ok(Self::Lstm {
                    lstm: LstmClassifier::load(backend, (&lstm, config), (&linear, CLASSES))?,
                    width: config.input,
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
        let batch = self.batch(batch)?;
        Ok(batch.split(&self.run(&batch)?))
    }

    /// Sequences as [`Self::run`] reads them.
    ///
    /// # Panics
    /// A sequence is of the other kind.
    pub(crate) fn batch(&self, sequences: &[&Sequence]) -> Result<Batch> {
        match self {
            Self::Transformer(_) => {
                let ids = |sequence: &&Sequence| match sequence {
                    Sequence::Ids(ids) => ids.clone(),
                    Sequence::Rows(_) => unreachable!("`prepare` made ids"),
                };
                Ok(Batch::Ids(Packed::new(sequences.iter().map(ids))))
            }
            Self::Lstm { width, .. } => {
                let rows: Vec<&[f32]> = (sequences.iter())
                    .map(|sequence| match sequence {
                        Sequence::Rows(rows) => &rows[..],
                        Sequence::Ids(_) => unreachable!("`prepare` made rows"),
                    })
                    .collect();
                let lengths: Vec<_> = rows.iter().map(|rows| rows.len() / width).collect();
                let shape = (lengths.iter().sum::<usize>(), *width);
                let rows = Tensor::from_vec(rows.concat(), shape, &Device::Cpu)?;
                Ok(Batch::Rows { rows, lengths })
            }
        }
    }

    /// The logits of all sequences, end to end.
    ///
    /// # Errors
    /// The batch is of the other kind, or the device failed.
    pub(crate) fn run(&self, batch: &Batch) -> Result<Vec<f32>> {
        match (self, batch) {
            (Self::Transformer(transformer), Batch::Ids(ids)) => {
                transformer.forward(ids)?.flatten_all()?.to_vec1()
            }
            (Self::Lstm { lstm, .. }, Batch::Rows { rows, lengths }) => lstm.forward(rows, lengths),
            _ => bail!("expected a batch of the other kind"),
        }
    }
}

/// Sequences laid end to end.
pub(crate) enum Batch {
    /// Of token ids.
    Ids(Packed),
    /// Of rows of numbers.
    Rows {
        /// `[rows, width]`.
        rows: Tensor,
        /// Rows of each sequence.
        lengths: Vec<usize>,
    },
}

impl Batch {
    /// All logits by sequences: of each its only row, or all its tokens one after the other.
    pub(crate) fn split(&self, logits: &[f32]) -> Vec<Vec<f32>> {
        let lengths: Vec<usize> = match self {
            Self::Ids(ids) => ids.lengths().collect(),
            Self::Rows { lengths, .. } => lengths.clone(),
        };
        let each_token = logits.len() != lengths.len() * CLASSES;
        let mut rest = logits;
        let own = lengths.into_iter().map(|length| {
            let rows = if each_token { length } else { 1 };
            let (own, after) = rest.split_at(rows * CLASSES);
            rest = after;
            own.to_vec()
        });
        own.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_are_split_by_sequences() {
        let logits: Vec<f32> = (0..3 * CLASSES).map(|i| i as f32).collect();
        let ids = Batch::Ids(Packed::new([vec![1, 2], vec![3]]));
        // Of each token, two and then one.
        let split = ids.split(&logits);
        assert_eq!([split[0].len(), split[1].len()], [2 * CLASSES, CLASSES]);
        assert_eq!(split.concat(), logits);
        // Of each sequence.
        let split = ids.split(&logits[..2 * CLASSES]);
        assert_eq!(split[1][0], 100.0);
        assert_eq!(split.len(), 2);
    }
}
