//! Self-attention over sequences packed end to end: no padding, hence no mask.
//!
//! Every (sequence, head, block of queries) is a task of its own: scores, softmax and the weighted sum of the values,
//! with the scores of one block small enough to stay in the core's cache.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::{
    host::{self, Output, Shared},
    simd::{Level, Vector, dispatch, exp, load_up_to, store_up_to},
};

/// Queries in a block: the scores of 64 queries against 512 keys take 128 KiB.
const BLOCK: usize = 64;

/// Multiplications below which a task is not worth a thread of its own.
const TASK: usize = 1 << 17;

/// `softmax(Q K^T / sqrt(dim)) V` for each sequence and head.
///
/// `qkv` is `[tokens, 3 * heads * dim]`: for each token its query, key and value, each of all heads side by side.
/// Sequence `i` is the rows `offsets[i]..offsets[i + 1]`. Gives `[tokens, heads * dim]`.
///
/// # Errors
/// `qkv` is not contiguous f32, its width does not fit `heads`, or the offsets do not cover its rows in order.
pub fn attention(qkv: &Tensor, offsets: &Arc<[usize]>, heads: usize) -> Result<Tensor> {
    let (tokens, width) = qkv.dims2()?;
    if heads == 0 || width % (3 * heads) != 0 {
        bail!("attention: expected a width of 3 x {heads} heads x dim, got {width}")
    }
    let ordered = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if offsets.first() != Some(&0) || offsets.last() != Some(&tokens) || !ordered {
        bail!("attention: expected offsets from 0 to {tokens} in order, got {offsets:?}")
    }
    qkv.apply_op1_no_bwd(&Attention {
        offsets: Arc::clone(offsets),
        heads,
    })
}

struct Attention {
    offsets: Arc<[usize]>,
    heads: usize,
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        let qkv = host::values(qkv, layout)?;
        let output = attention_cpu(qkv, &self.offsets, self.heads, width / (3 * self.heads));
        Ok((CpuStorage::F32(output), (tokens, width / 3).into()))
    }
}

/// A block of queries of one head of one sequence.
struct Task {
    /// The sequence's first row.
    start: usize,
    /// The sequence's length.
    tokens: usize,
    head: usize,
    /// The block's first query within the sequence, and how many.
    query: usize,
    queries: usize,
}

/// The kernel. The caller has checked that the offsets are in order and end at the last row of `qkv`.
pub(super) fn attention_cpu(qkv: &[f32], offsets: &[usize], heads: usize, dim: usize) -> Vec<f32> {
    let hidden = heads * dim;
    let rows = qkv.len() / (3 * hidden).max(1);
    assert!(
        offsets.iter().all(|&offset| offset <= rows),
        "offsets lie within the rows"
    );
    let mut output = Output::new(rows * hidden);
    let tasks = tasks(offsets, heads);
    let work: usize = tasks
        .iter()
        .map(|task| task.queries * task.tokens * dim * 2)
        .sum();
    let least = (TASK * tasks.len()).div_ceil(work.max(1));
    let shared = output.shared();
    let level = Level::detect();
    tasks
        .par_iter()
        .with_min_len(least)
        .for_each_init(Vec::new, |scores, task| {
            let block = Block {
                qkv,
                hidden,
                dim,
                task,
            };
            // SAFETY: tasks are disjoint in their (row, head), so no two write to the same element; every row is below
            // `rows` by the assertion above, and `output` is neither moved nor read until all tasks are done.
            unsafe { block.run(level, scores, shared) };
        });
    // SAFETY: the offsets cover the rows, so that each (row, head) was in a task.
    unsafe { output.values() }
}

fn tasks(offsets: &[usize], heads: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    for pair in offsets.windows(2) {
        let (start, tokens) = (pair[0], pair[1] - pair[0]);
        for head in 0..heads {
            for query in (0..tokens).step_by(BLOCK) {
                tasks.push(Task {
                    start,
                    tokens,
                    head,
                    query,
                    queries: BLOCK.min(tokens - query),
                });
            }
        }
    }
    tasks
}

/// A task and what it reads.
struct Block<'a> {
    /// `[rows, 3 * hidden]`.
    qkv: &'a [f32],
    hidden: usize,
    dim: usize,
    task: &'a Task,
}

impl Block<'_> {
    /// Attends from one block of queries.
    ///
    /// # Safety
    /// The task's rows must lie within `qkv` and `output` `[rows, hidden]`, its head within `hidden`, nobody else may use
    /// the output's elements of these queries and this head meanwhile, and the processor has the level.
    unsafe fn run(&self, level: Level, scores: &mut Vec<f32>, output: Shared) {
        let Self {
            qkv, hidden, dim, ..
        } = *self;
        let Task {
            start,
            tokens,
            head,
            query,
            queries,
        } = *self.task;
        let stride = 3 * hidden;
        let column = head * dim;
        let first = start * stride + column;
        let (q, k, v) = (first + query * stride, first + hidden, first + 2 * hidden);
        scores.resize(queries * tokens, 0.0);
        // SAFETY: `scores` is [queries, tokens]; q's rows are `queries` of the sequence's, k's all `tokens`, each `dim` wide
        // at this head's column, and all rows are within `qkv`.
        unsafe {
            product(
                [queries, tokens, dim],
                scores.as_mut_ptr(),
                tokens,
                (&raw const qkv[q], stride, 1),
                (&raw const qkv[k], 1, stride),
                1.0 / (dim as f32).sqrt(),
            );
        }
        for row in scores.chunks_exact_mut(tokens) {
            // SAFETY: the level is the caller's to vouch for, and the kernel stays within its slice.
            unsafe { softmax(level, row) };
        }
        // SAFETY: `scores` as above, v as k, and the output's rows of this block at this head's column are this task's own.
        unsafe {
            let target = output.at((start + query) * hidden + column);
            product(
                [queries, dim, tokens],
                target,
                hidden,
                (scores.as_ptr(), tokens, 1),
                (&raw const qkv[v], stride, 1),
                1.0,
            );
        }
    }
}

/// `dst = scale * lhs rhs` for `[m, n, k]`, each operand as its address, row stride and column stride; on this thread.
///
/// # Safety
/// `lhs` must be readable as [m, k], `rhs` as [k, n], `dst` writable as [m, n] with unit columns, and `dst` must not overlap them.
unsafe fn product(
    [m, n, k]: [usize; 3],
    dst: *mut f32,
    dst_rows: usize,
    lhs: (*const f32, usize, usize),
    rhs: (*const f32, usize, usize),
    scale: f32,
) {
    // SAFETY: exactly the caller's promise; `dst` is not read.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            1,
            dst_rows as isize,
            false,
            lhs.0,
            lhs.2 as isize,
            lhs.1 as isize,
            rhs.0,
            rhs.2 as isize,
            rhs.1 as isize,
            0.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

dispatch! {
    /// Softmax of one row, in place.
    fn softmax(row: &mut [f32]) = softmax_kernel
}

#[inline(always)]
unsafe fn softmax_kernel<V: Vector>(row: &mut [f32]) {
    // SAFETY: a chunk has at most a vector's values; the instruction set is the caller's to vouch for.
    unsafe {
        let max = max::<V>(row);
        let mut sums = V::splat(0.0);
        let mut rest = 0f32;
        for chunk in row.chunks_mut(V::LEN) {
            let x: V = load_up_to(chunk.as_ptr(), chunk.len());
            let power = exp(x.add(V::splat(-max)));
            store_up_to(power, chunk.as_mut_ptr(), chunk.len());
            if chunk.len() == V::LEN {
                sums = sums.add(power);
            } else {
                rest = chunk.iter().sum();
            }
        }
        let scale = 1.0 / (sums.sum() + rest);
        for x in row {
            *x *= scale;
        }
    }
}

#[inline(always)]
unsafe fn max<V: Vector>(row: &[f32]) -> f32 {
    let chunks = row.chunks_exact(V::LEN);
    let mut max = f32::NEG_INFINITY;
    for &x in chunks.remainder() {
        max = if x > max { x } else { max };
    }
    // SAFETY: a chunk is a vector; the instruction set is the caller's to vouch for.
    let lanes = unsafe {
        let mut lanes = V::splat(f32::NEG_INFINITY);
        for chunk in chunks {
            lanes = lanes.max(V::load(chunk.as_ptr()));
        }
        lanes.to_array()
    };
    for lane in &lanes[..V::LEN] {
        max = if *lane > max { *lane } else { max };
    }
    max
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device};

    /// The textbook form in f64, one sequence at a time.
    fn naive(qkv: &Tensor, offsets: &[usize], heads: usize) -> Tensor {
        let width = qkv.dim(1).unwrap() / 3;
        let qkv = qkv.to_dtype(candle_core::DType::F64).unwrap();
        let sequences: Vec<Tensor> = offsets
            .windows(2)
            .map(|pair| {
                let tokens = pair[1] - pair[0];
                let part = |i: usize| {
                    qkv.narrow(0, pair[0], tokens)
                        .and_then(|t| t.narrow(1, i * width, width))
                        .and_then(|t| t.reshape((tokens, heads, width / heads)))
                        .and_then(|t| t.transpose(0, 1)?.contiguous())
                        .unwrap()
                };
                let scale = ((width / heads) as f64).sqrt();
                let scores = (part(0).matmul(&part(1).t().unwrap()).unwrap() / scale).unwrap();
                candle_nn::ops::softmax(&scores, D::Minus1)
                    .and_then(|p| p.matmul(&part(2)))
                    .and_then(|t| t.transpose(0, 1)?.reshape((tokens, width)))
                    .unwrap()
            })
            .collect();
        Tensor::cat(&sequences, 0).unwrap()
    }

    #[test]
    fn packed_sequences_attend_to_themselves_only() {
        for (lengths, heads, dim) in [
            (vec![1, 7, 130, 64], 3, 32),
            (vec![5], 1, 17),
            (vec![200, 1], 12, 64),
        ] {
            let offsets: Arc<[usize]> = super::super::tests::offsets(&lengths);
            let tokens = *offsets.last().unwrap();
            let qkv = Tensor::randn(0f32, 1.0, (tokens, 3 * heads * dim), &Device::Cpu).unwrap();
            let got = attention(&qkv, &offsets, heads).unwrap();
            let error = super::super::tests::max_error(&got, &naive(&qkv, &offsets, heads));
            assert!(error < 1e-5, "{lengths:?}: {error}");
        }
    }

    #[test]
    fn offsets_that_do_not_cover_the_rows_are_refused() {
        let qkv = Tensor::zeros((4, 6), candle_core::DType::F32, &Device::Cpu).unwrap();
        for offsets in [vec![0, 5], vec![0, 3], vec![1, 4], vec![0, 3, 2, 4], vec![]] {
            assert!(attention(&qkv, &offsets.into(), 1).is_err());
        }
        assert!(attention(&qkv, &vec![0, 4].into(), 4).is_err());
    }
}
