//! A transformer without its head on the CPU: BERT (Devlin et al., <https://arxiv.org/abs/1810.04805>), DistilBERT, GPT-2.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::{
    config::{Norm, TensorNames, Tensors, TransformerConfig},
    embeddings::Embeddings,
    layer::{Layer, Workspace},
    packed::Packed,
    transformer::Pooling,
};
use crate::{
    ops::attention::Tokens,
    simd::{Level, Precision},
    workspace::Workspaces,
};

/// A transformer with its weights, without its head.
#[derive(Debug)]
pub(super) struct Encoder {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    heads: usize,
    hidden: usize,
    norm: Norm,
    causal: bool,
    workspaces: Workspaces<Workspace>,
}

impl Encoder {
    /// Reads the weights under `vb`, whose prefix is the model's own (`bert`, `distilbert`), and packs them for products
    /// of this precision.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or `hidden` is not a multiple of `heads`.
    pub(super) fn load(
        config: &TransformerConfig,
        names: &TensorNames,
        precision: Precision,
        vb: &VarBuilder,
    ) -> Result<Self> {
        config.head_features()?;
        let tensors = Tensors { config, names, vb };
        Ok(Self {
            embeddings: Embeddings::load(&tensors)?,
            layers: (0..config.layers)
                .map(|i| Layer::load(config, precision, tensors.layer(i)?))
                .collect::<Result<_>>()?,
            heads: config.heads,
            hidden: config.hidden,
            norm: config.norm,
            causal: config.causal,
            workspaces: Workspaces::default(),
        })
    }

    /// What the head reads: the last layer's output for each token, `[tokens, hidden]`, or one row for each sequence. What
    /// other tokens would become is not computed where nobody reads it.
    ///
    /// # Errors
    /// An id is outside the vocabulary or a sequence too long, or has no token of which to give a row.
    pub(super) fn forward(&self, batch: &Packed, pooling: Pooling) -> Result<Tensor> {
        let offsets = batch.offsets();
        let level = Level::detect();
        let rows = pooling.rows(batch)?;
        let tokens = Tokens {
            offsets,
            heads: self.heads,
            causal: self.causal,
        };
        self.workspaces.with(|workspace| {
            let size = batch.ids().len() * self.hidden;
            self.embeddings
                .run(level, batch, true, workspace.x.at_least(size))?;
            if self.norm == Norm::Pre {
                self.embeddings
                    .run(level, batch, false, workspace.other.at_least(size))?;
            }
            for (i, layer) in self.layers.iter().enumerate() {
                layer.attend(level, tokens, workspace);
                let mut left = batch.ids().len();
                if let (true, Some(picked)) = (i + 1 == self.layers.len(), &rows) {
                    layer.pick(picked, workspace);
                    left = picked.len();
                }
                layer.feed_forward(level, left, workspace);
            }
            let x = workspace.x.as_slice();
            let x = match (pooling, &rows) {
                (Pooling::Mean, _) => means(&x[..size], offsets, self.hidden),
                (_, Some(picked)) => x[..picked.len() * self.hidden].to_vec(),
                (_, None) => x[..size].to_vec(),
            };
            let shape = (x.len() / self.hidden.max(1), self.hidden);
            Tensor::from_vec(x, shape, &Device::Cpu)
        })
    }
}

/// The mean of each sequence's rows, `[sequences, width]`.
fn means(x: &[f32], offsets: &[usize], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; offsets.len().saturating_sub(1) * width];
    out.par_chunks_mut(width.max(1))
        .zip(offsets.par_windows(2))
        .for_each(|(out, bounds)| {
            let rows = &x[bounds[0] * width..bounds[1] * width];
            for row in rows.chunks_exact(width) {
                out.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            let count = (bounds[1] - bounds[0]) as f32;
            out.iter_mut().for_each(|sum| *sum /= count);
        });
    out
}
