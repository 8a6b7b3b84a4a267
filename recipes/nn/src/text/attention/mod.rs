//! Self-attention over sequences packed end to end: no padding, hence no mask.
//!
//! A task is a head of a sequence, or a range of its queries where there are fewer heads than threads. It lays the
//! keys and values of its head out for the loop of [`crate::matmul`], in memory that its thread keeps: in place, their
//! rows are so far apart that they would compete for the same few sets of the first-level cache. Every sum runs in the
//! order of features or tokens, whatever the task: a query's result does not depend, to the bit, on how they are cut.

mod kernel;
mod pack;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

use super::layer::Tokens;
use crate::{
    host::{Shared, split},
    matmul::MOST_ROWS,
    simd::Level,
    workspace::with_thread_memory,
};
use kernel::{Head, Sizes};

/// Multiply-adds below which a task is not worth a thread of its own.
const TASK: usize = 1 << 17;

/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 3;

/// The fewest queries for which keys and values are laid out again.
const QUERIES: usize = 48;

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
/// Sequence `i` is the rows `offsets[i]..offsets[i + 1]`. Writes `out`, `[tokens, heads * dim]`.
///
/// # Panics
/// The lengths do not fit each other, or the offsets do not go from 0 to `tokens` in order.
pub(super) fn attention_cpu(
    level: Level,
    qkv: &[f32],
    Tokens {
        offsets,
        heads,
        causal,
    }: Tokens<'_>,
    out: &mut [f32],
) {
    let tokens = offsets.last().copied().unwrap_or(0);
    let ordered = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    assert!(
        ordered && offsets.first().is_none_or(|&first| first == 0),
        "offsets from 0 in order"
    );
    assert_eq!(qkv.len(), 3 * out.len(), "lengths of input and output");
    if out.is_empty() {
        return;
    }
    let width = out.len() / tokens.max(1);
    assert_eq!(out.len(), tokens * width, "whole rows");
    assert!(
        heads > 0 && width.is_multiple_of(heads),
        "rows of whole heads"
    );
    let dim = width / heads;
    let (tasks, work) = tasks(offsets, heads, dim, rayon::current_num_threads());
    let least = (TASK * tasks.len()).div_ceil(work.max(1));
    let out = Shared::new(out);
    tasks.par_iter().with_min_len(least).for_each(|task| {
        // Of a causal task, the keys up to its last query.
        let tokens = if causal {
            task.queries.end
        } else {
            task.rows.len()
        };
        let head = Head {
            qkv: &qkv[task.rows.start * 3 * width..][..tokens * 3 * width],
            tokens,
            causal,
            width,
            column: task.head * dim,
            dim,
        };
        with_thread_memory(Sizes::new(&head).total(), |memory| {
            // SAFETY: `head` has rows of its sequence, of which the queries are some, and a column within their width; tasks are disjoint in their (row, head), all of which `out` has.
            unsafe {
                let out = out.at(task.rows.start * width + head.column);
                kernel::attend(level, &head, task.queries.clone(), memory, out);
            }
        });
    });
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
