//! Self-attention over sequences packed end to end: no padding, hence no mask.
//!
//! A task is a head of a sequence, or a range of its queries where there are fewer heads than threads. It lays the
//! keys and values of its head out for the loop of [`crate::matmul`], in memory that its thread keeps: in place, their
//! rows are so far apart that they would compete for the same few sets of the first-level cache. Every sum runs in the
//! order of features or tokens, whatever the task: a query's result does not depend, to the bit, on how they are cut.
//!
//! Training keeps one number of each query, the logarithm of the sum that its softmax divides by; from that and the queries and
//! keys the backward pass makes a tile of weights after the other again (Dao et al., "FlashAttention", 2022).

mod backward;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;
#[cfg(test)]
mod gradient_tests;
mod kernel;
mod pack;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Onto,
    dropout::{Dropout, TOGETHER},
};
use crate::{
    host::{Shared, split},
    matmul::MOST_ROWS,
    simd::Level,
    workspace::with_thread_memory,
};
use backward::Gradients;
use kernel::{Head, Sink, Sizes};
use pack::Rows;

/// Multiply-adds below which a task is not worth a thread of its own.
const TASK: usize = 1 << 17;

/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 3;

/// The fewest queries for which keys and values are laid out again.
const QUERIES: usize = 48;

/// The tokens of a pass.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    /// Where each sequence starts, and at the end the number of tokens.
    pub(crate) offsets: &'a [usize],
    pub(crate) heads: usize,
    pub(crate) causal: bool,
}

/// What training wants of a pass besides.
pub(crate) struct Kept<'a> {
    /// The logarithm of the sum of each query's powers, `[heads, tokens]`.
    pub(crate) log_sums: &'a mut [f32],
    /// What of the weights is dropped.
    pub(crate) dropout: Option<Dropout>,
}

/// What the backward pass reads.
pub(crate) struct Backward<'a> {
    /// What the pass read.
    pub(crate) qkv: &'a [f32],
    /// What it gave.
    pub(crate) out: &'a [f32],
    /// What it kept.
    pub(crate) log_sums: &'a [f32],
    /// What it dropped.
    pub(crate) dropout: Option<Dropout>,
    /// The gradient of `out`.
    pub(crate) dout: &'a [f32],
}

/// Which weights of a head are dropped. Each query begins with the first of some numbers that the generator makes together.
#[derive(Clone, Copy)]
struct Dropped {
    dropout: Dropout,
    /// The first query's first numbers.
    first: u64,
    /// How many there are from one query to the next.
    step: u64,
}

/// Some queries of a head.
struct Task {
    /// The rows of the sequence.
    rows: Range<usize>,
    head: usize,
    /// The queries, counted from the sequence's first row.
    queries: Range<usize>,
}

/// `softmax(Q K^T / sqrt(dim)) V` for each sequence and head, on rayon's pool. Where it is causal, what is above the diagonal of
/// `Q K^T` is neither computed, but for what shares a tile with the diagonal, nor counted.
///
/// `qkv` is `[tokens, 3 * heads * dim]`: for each token its query, key and value, each of all heads side by side.
/// Sequence `i` is the rows `offsets[i]..offsets[i + 1]`. Writes `out`, `[tokens, heads * dim]`, and what training keeps.
///
/// # Panics
/// The lengths do not fit each other, or the offsets do not go from 0 to `tokens` in order.
pub(crate) fn forward(
    level: Level,
    qkv: &[f32],
    tokens: Tokens<'_>,
    kept: Option<Kept<'_>>,
    out: &mut [f32],
) {
    let Some(sizes) = Widths::of(&tokens, qkv.len(), out.len()) else {
        return;
    };
    let Widths { width, dim } = sizes;
    let Tokens { offsets, heads, .. } = tokens;
    let count = out.len() / width;
    let (log_sums, dropout) = match kept {
        Some(kept) => {
            assert_eq!(kept.log_sums.len(), heads * count, "logarithms' length");
            (Some(Shared::new(kept.log_sums)), kept.dropout)
        }
        None => (None, None),
    };
    let (tasks, work) = tasks(offsets, heads, dim, rayon::current_num_threads());
    let least = (TASK * tasks.len()).div_ceil(work.max(1));
    let out = Shared::new(out);
    tasks.par_iter().with_min_len(least).for_each(|task| {
        // Of a causal task, the keys up to its last query.
        let seen = if tokens.causal {
            task.queries.end
        } else {
            task.rows.len()
        };
        let head = sizes.head(&tokens, qkv, (task.rows.start, seen), (task.head, dropout));
        with_thread_memory(Sizes::new(&head).total(), |memory| {
            // SAFETY: `head` has rows of its sequence, of which the queries are some, and a column within their width; tasks are
            // disjoint in their (row, head), all of which `out` and the logarithms have.
            unsafe {
                let first = task.head * count + task.rows.start;
                let to = Sink {
                    out: out.at(task.rows.start * width + head.column),
                    log_sums: log_sums.map_or(std::ptr::null_mut(), |sums| sums.at(first)),
                };
                kernel::attend(level, &head, task.queries.clone(), memory, to);
            }
        });
    });
}

/// The gradient of `qkv`, `[tokens, 3 * heads * dim]`, written or added to `dqkv`, on rayon's pool.
///
/// # Panics
/// As [`forward`].
pub(crate) fn backward(
    level: Level,
    pass: &Backward<'_>,
    tokens: Tokens<'_>,
    (dqkv, onto): (&mut [f32], Onto),
) {
    let Some(sizes) = Widths::of(&tokens, pass.qkv.len(), pass.out.len()) else {
        return;
    };
    let Widths { width, dim } = sizes;
    let Tokens { offsets, heads, .. } = tokens;
    let count = pass.out.len() / width;
    assert_eq!(pass.log_sums.len(), heads * count, "logarithms' length");
    assert_eq!(pass.dout.len(), pass.out.len(), "lengths of gradients");
    assert_eq!(dqkv.len(), pass.qkv.len(), "lengths of gradients");
    let dqkv = Shared::new(dqkv);
    let sequences = offsets.len() - 1;
    // A head is a task.
    (0..sequences * heads).into_par_iter().for_each(|task| {
        let (sequence, index) = (task / heads, task % heads);
        let rows = offsets[sequence]..offsets[sequence + 1];
        if rows.is_empty() {
            return;
        }
        let place = (rows.start, rows.len());
        let head = sizes.head(&tokens, pass.qkv, place, (index, pass.dropout));
        let outputs = |values: &[f32]| Rows {
            start: values[rows.start * width + head.column..].as_ptr(),
            stride: width,
            count: rows.len(),
            dim,
        };
        let log_sums = &pass.log_sums[index * count + rows.start..][..rows.len()];
        let sizes = backward::Sizes::new(&head);
        with_thread_memory(sizes.total(), |memory| {
            // SAFETY: the rows are those of the head and its sequence, and so are the gradients', which are this task's alone.
            unsafe {
                let gradients = Gradients {
                    out: outputs(pass.out),
                    dout: outputs(pass.dout),
                    log_sums,
                    dqkv: dqkv.at(rows.start * 3 * width + head.column),
                    onto,
                };
                backward::run(level, &head, &gradients, &sizes, memory);
            }
        });
    });
}

/// The sizes of rows.
#[derive(Clone, Copy)]
struct Widths {
    /// Of all heads.
    width: usize,
    /// Of a head.
    dim: usize,
}

impl Widths {
    /// None where there are no values.
    ///
    /// # Panics
    /// The lengths do not fit each other, or the offsets do not go from 0 to `tokens` in order.
    fn of(tokens: &Tokens<'_>, qkv: usize, out: usize) -> Option<Self> {
        let Tokens { offsets, heads, .. } = *tokens;
        let count = offsets.last().copied().unwrap_or(0);
        let ordered = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        assert!(
            ordered && offsets.first().is_none_or(|&first| first == 0),
            "offsets from 0 in order"
        );
        assert_eq!(qkv, 3 * out, "lengths of input and output");
        if out == 0 {
            return None;
        }
        let width = out / count.max(1);
        assert_eq!(out, count * width, "whole rows");
        assert!(
            heads > 0 && width.is_multiple_of(heads),
            "rows of whole heads"
        );
        let dim = width / heads;
        Some(Self { width, dim })
    }

    /// A head of the sequence that begins with row `start`, as far as `count` of its tokens.
    fn head<'a>(
        self,
        tokens: &Tokens<'_>,
        qkv: &'a [f32],
        (start, count): (usize, usize),
        (index, dropout): (usize, Option<Dropout>),
    ) -> Head<'a> {
        let Self { width, dim } = self;
        let lengths = tokens.offsets.windows(2).map(|pair| pair[1] - pair[0]);
        let dropped = dropout.map(|dropout| {
            let each = lengths.max().unwrap_or(0).div_ceil(TOGETHER);
            Dropped {
                dropout,
                first: ((start * tokens.heads + index) * each) as u64,
                step: (tokens.heads * each) as u64,
            }
        });
        Head {
            qkv: &qkv[start * 3 * width..][..count * 3 * width],
            tokens: count,
            causal: tokens.causal,
            width,
            column: index * dim,
            dim,
            dropped,
        }
    }
}

impl Dropped {
    /// What a query's weights are multiplied by, of keys from `TOGETHER * place` on.
    #[inline(always)]
    fn factors(&self, query: usize, place: usize) -> [f32; TOGETHER] {
        let first = self.first + query as u64 * self.step;
        self.dropout.factors(first + place as u64)
    }
}

/// The tasks, and all of their multiply-adds.
fn tasks(offsets: &[usize], heads: usize, dim: usize, threads: usize) -> (Vec<Task>, usize) {
    let work = |rows: &Range<usize>| 2 * dim * rows.len() * rows.len();
    let sequences = || offsets.windows(2).map(|pair| pair[0]..pair[1]);
    let total = heads * sequences().map(|rows| work(&rows)).sum::<usize>();
    let share = (total / (threads * TASKS_PER_THREAD)).max(TASK);
    let mut tasks = Vec::with_capacity(heads * offsets.len());
    for rows in sequences() {
        let parts = (work(&rows) / share).min(rows.len() / QUERIES).max(1);
        let queries = split(rows.len(), MOST_ROWS, parts);
        for head in 0..heads {
            tasks.extend(queries.iter().map(|queries| Task {
                rows: rows.clone(),
                head,
                queries: queries.clone(),
            }));
        }
    }
    (tasks, total)
}
