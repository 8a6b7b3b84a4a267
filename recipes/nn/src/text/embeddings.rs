//! Token embeddings: the word's vector plus the position's, and the LayerNorm before the first layer, in one pass.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{TASK, config::Tensors, norm::layer_norm_row, packed::Packed};
use crate::{
    host,
    simd::{Level, Vector, dispatch},
};

/// The tables, and the first LayerNorm.
#[derive(Debug)]
pub(super) struct Embeddings {
    /// `[vocabulary, features]`.
    words: Vec<f32>,
    /// `[max_positions, features]`, with the vector of token type 0 added to each.
    positions: Vec<f32>,
    /// `[2, features]`: weight, then bias.
    norm: Vec<f32>,
    eps: f32,
    features: usize,
}

impl Embeddings {
    pub(super) fn load(tensors: &Tensors<'_>) -> Result<Self> {
        let (weight, bias) = tensors.first_norm()?;
        Ok(Self {
            words: host::to_vec(&tensors.words()?)?,
            positions: host::to_vec(&tensors.positions()?)?,
            norm: host::to_vec(&Tensor::stack(&[weight, bias], 0)?)?,
            eps: tensors.config.layer_norm_eps,
            features: tensors.config.hidden,
        })
    }

    /// `word[id] + position[i]` for the `i`-th token of each sequence, and its LayerNorm if it is `normed`, to `[tokens,
    /// features]`.
    ///
    /// # Errors
    /// An id is outside the vocabulary, or a sequence is longer than there are positions.
    ///
    /// # Panics
    /// `out` has another length.
    pub(super) fn run(
        &self,
        level: Level,
        batch: &Packed,
        normed: bool,
        out: &mut [f32],
    ) -> Result<()> {
        let features = self.features.max(1);
        assert_eq!(out.len(), batch.ids().len() * features, "output length");
        batch.check(self.words.len() / features, self.positions.len() / features)?;
        let rows: Vec<(u32, u32)> = batch.ids().iter().copied().zip(batch.positions()).collect();
        let task = (TASK / features).max(1);
        let norm = normed.then_some(&self.norm[..]);
        out.par_chunks_mut(task * features)
            .zip(rows.par_chunks(task))
            .for_each(|(out, rows)| {
                for (out, &(word, position)) in out.chunks_exact_mut(features).zip(rows) {
                    let word = &self.words[word as usize * features..][..features];
                    let position = &self.positions[position as usize * features..][..features];
                    // SAFETY: the level is the caller's to vouch for, and the kernel stays within its slices.
                    unsafe { embed_row(level, out, [word, position], norm, self.eps) };
                }
            });
        Ok(())
    }
}

dispatch! {
    fn embed_row(row: &mut [f32], parts: [&[f32]; 2], norm: Option<&[f32]>, eps: f32)
        = embed_row_kernel
}

#[inline(always)]
unsafe fn embed_row_kernel<V: Vector>(
    row: &mut [f32],
    [word, position]: [&[f32]; 2],
    norm: Option<&[f32]>,
    eps: f32,
) {
    for ((x, w), p) in row.iter_mut().zip(word).zip(position) {
        *x = w + p;
    }
    if let Some(norm) = norm {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { layer_norm_row::<V>(row, norm, eps) };
    }
}
