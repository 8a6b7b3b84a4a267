//! Token embeddings: the word's vector plus the position's, then LayerNorm, in one pass.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{TASK, norm::layer_norm_row, packed::Packed};
use crate::{
    host,
    simd::{Level, Vector, dispatch},
};

/// `LayerNorm(word[id] + position[i])` for the `i`-th token of each sequence.
///
/// `words` is `[vocabulary, features]`, `positions` `[max_positions, features]`, `norm` `[2, features]` (weight, then
/// bias). Gives `[tokens, features]`.
///
/// # Errors
/// An id is outside the vocabulary, a sequence is longer than there are positions, or a tensor is not contiguous f32.
pub fn embed(
    words: &Tensor,
    positions: &Tensor,
    norm: &Tensor,
    batch: &Packed,
    eps: f32,
) -> Result<Tensor> {
    let (vocabulary, features) = words.dims2()?;
    let (max_positions, width) = positions.dims2()?;
    if width != features || norm.dims() != [2, features] {
        bail!(
            "embed: expected tables of one width, got {features}, {width} and {:?}",
            norm.shape()
        )
    }
    if let Some(id) = batch.ids().iter().find(|&&id| id as usize >= vocabulary) {
        bail!("embed: expected ids below {vocabulary}, got {id}")
    }
    let longest = batch.lengths().max().unwrap_or(0);
    if longest > max_positions {
        bail!("embed: expected at most {max_positions} tokens in a sequence, got {longest}")
    }
    let op = Embed {
        rows: batch.ids().iter().copied().zip(batch.positions()).collect(),
        eps,
    };
    words.apply_op3_no_bwd(positions, norm, &op)
}

struct Embed {
    /// For each token its id and its position, both checked.
    rows: Arc<[(u32, u32)]>,
    eps: f32,
}

impl CustomOp3 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(
        &self,
        words: &CpuStorage,
        words_layout: &Layout,
        positions: &CpuStorage,
        positions_layout: &Layout,
        norm: &CpuStorage,
        norm_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let words = host::values(words, words_layout)?;
        let positions = host::values(positions, positions_layout)?;
        let norm = host::values(norm, norm_layout)?;
        let features = norm.len() / 2;
        let output = embed_cpu(words, positions, norm, &self.rows, self.eps);
        Ok((CpuStorage::F32(output), (self.rows.len(), features).into()))
    }
}

/// The kernel; `rows` holds each token's word and position, and `norm` is twice as long as a row.
pub(super) fn embed_cpu(
    words: &[f32],
    positions: &[f32],
    norm: &[f32],
    rows: &[(u32, u32)],
    eps: f32,
) -> Vec<f32> {
    let features = (norm.len() / 2).max(1);
    let mut output = vec![0f32; rows.len() * features];
    let task = (TASK / features).max(1);
    let level = Level::detect();
    output
        .par_chunks_mut(task * features)
        .zip(rows.par_chunks(task))
        .for_each(|(output, rows)| {
            for (output, &(word, position)) in output.chunks_exact_mut(features).zip(rows) {
                let word = &words[word as usize * features..][..features];
                let position = &positions[position as usize * features..][..features];
                // SAFETY: the level is this processor's, and the kernel stays within its slices.
                unsafe { embed_row(level, output, word, position, norm, eps) };
            }
        });
    output
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
