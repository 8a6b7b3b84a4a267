//! Token embeddings: the word's vector plus the position's, then LayerNorm, in one pass.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::{
    TASK,
    encoder::{EncoderConfig, layer_norm},
    norm::layer_norm_row,
    packed::Packed,
};
use crate::{
    host,
    simd::{Level, Vector, dispatch},
};

/// The tables, and the LayerNorm after them.
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
    pub(super) fn load(config: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        let features = config.hidden;
        let (words, positions) = tables(config, vb)?;
        let (weight, bias) = layer_norm(&vb.pp("LayerNorm"), features)?;
        Ok(Self {
            words: host::to_vec(&words)?,
            positions: host::to_vec(&positions)?,
            norm: host::to_vec(&Tensor::stack(&[weight, bias], 0)?)?,
            eps: config.layer_norm_eps,
            features,
        })
    }

    /// `LayerNorm(word[id] + position[i])` for the `i`-th token of each sequence, to `[tokens, features]`.
    ///
    /// # Errors
    /// An id is outside the vocabulary, or a sequence is longer than there are positions.
    ///
    /// # Panics
    /// `out` has another length.
    pub(super) fn run(&self, level: Level, batch: &Packed, out: &mut [f32]) -> Result<()> {
        let features = self.features.max(1);
        assert_eq!(out.len(), batch.ids().len() * features, "output length");
        batch.check(self.words.len() / features, self.positions.len() / features)?;
        let rows: Vec<(u32, u32)> = batch.ids().iter().copied().zip(batch.positions()).collect();
        let task = (TASK / features).max(1);
        out.par_chunks_mut(task * features)
            .zip(rows.par_chunks(task))
            .for_each(|(out, rows)| {
                for (out, &(word, position)) in out.chunks_exact_mut(features).zip(rows) {
                    let word = &self.words[word as usize * features..][..features];
                    let position = &self.positions[position as usize * features..][..features];
                    // SAFETY: the level is the caller's to vouch for, and the kernel stays within its slices.
                    unsafe { embed_row(level, out, word, position, &self.norm, self.eps) };
                }
            });
        Ok(())
    }
}

/// The vectors of words `[vocabulary, features]`, and of positions `[max_positions, features]` with that of token type 0
/// added to each.
pub(super) fn tables(config: &EncoderConfig, vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let table = |name: &str, rows| vb.pp(name).get((rows, config.hidden), "weight");
    let mut positions = table("position_embeddings", config.max_positions)?;
    if config.token_types > 0 {
        let types = table("token_type_embeddings", config.token_types)?;
        positions = positions.broadcast_add(&types.get(0)?)?;
    }
    Ok((table("word_embeddings", config.vocabulary)?, positions))
}

dispatch! {
    fn embed_row(row: &mut [f32], word: &[f32], position: &[f32], norm: &[f32], eps: f32)
        = embed_row_kernel
}

#[inline(always)]
unsafe fn embed_row_kernel<V: Vector>(
    row: &mut [f32],
    word: &[f32],
    position: &[f32],
    norm: &[f32],
    eps: f32,
) {
    for ((x, w), p) in row.iter_mut().zip(word).zip(position) {
        *x = w + p;
    }
    // SAFETY: the caller vouches for the instruction set.
    unsafe { layer_norm_row::<V>(row, norm, eps) };
}
