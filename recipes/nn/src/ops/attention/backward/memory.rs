//! The memory of a task.

use super::BLOCK;
use crate::{
    matmul::{MOST_ROWS, PANEL},
    ops::attention::kernel::{Head, LINE, cut},
};

/// How many values each part of a task's memory has.
pub(in super::super) struct Sizes {
    lens: [usize; 14],
    /// Weights from one key to the next: not a power of two.
    stride: usize,
}

impl Sizes {
    pub(in super::super) fn new(head: &Head<'_>) -> Self {
        let padded = head.tokens.next_multiple_of(PANEL);
        let (stride, wide) = (padded + LINE, head.dim.next_multiple_of(PANEL));
        let mask = if head.dropped.is_some() { stride } else { 0 };
        let columns = padded * head.dim;
        let panels = head.tokens * wide;
        let lens = [
            columns,
            panels,
            columns,
            panels,
            padded,
            padded,
            MOST_ROWS * head.dim,
            MOST_ROWS * stride,
            BLOCK * stride,
            BLOCK * mask,
            MOST_ROWS * PANEL,
            BLOCK * wide,
            padded * BLOCK,
            (head.tokens + MOST_ROWS) * wide,
        ];
        Self {
            lens: lens.map(|len| len.next_multiple_of(LINE)),
            stride,
        }
    }

    pub(in super::super) fn total(&self) -> usize {
        self.lens.iter().sum()
    }
}

/// A task's memory.
pub(super) struct Memory {
    /// Queries and the outputs' gradients, as columns and in panels.
    pub(super) query_columns: *mut f32,
    pub(super) queries: *mut f32,
    pub(super) dout_columns: *mut f32,
    pub(super) douts: *mut f32,
    /// Of each query, what to add to its scores and to its weights' gradients.
    pub(super) log_sums: *mut f32,
    pub(super) deltas: *mut f32,
    /// A tile's keys or values, `[rows][dim]`.
    pub(super) rows: *mut f32,
    /// A tile's weights but for what is dropped, `[rows][stride]`.
    pub(super) weights: *mut f32,
    /// A block's weights, and then the gradients of its scores, `[BLOCK][stride]`.
    pub(super) scores: *mut f32,
    /// What dropout multiplies a block's weights by, `[BLOCK][stride]`.
    pub(super) mask: *mut f32,
    /// A tile's sums, `[rows][2 * LEN]`.
    pub(super) sums: *mut f32,
    /// A block's keys in panels.
    pub(super) keys: *mut f32,
    /// That, and then the gradients of a block's scores, by queries, `[queries][BLOCK]`.
    pub(super) turned: *mut f32,
    /// The gradients of queries: of each tile of them and each two vectors of columns, sums.
    pub(super) dqueries: *mut f32,
    pub(super) stride: usize,
}

impl Memory {
    pub(super) fn new(sizes: &Sizes, memory: &mut [f32]) -> Self {
        let [
            query_columns,
            queries,
            dout_columns,
            douts,
            log_sums,
            deltas,
            rows,
            weights,
            scores,
            mask,
            sums,
            keys,
            turned,
            dqueries,
        ] = cut(memory, sizes.lens);
        Self {
            query_columns,
            queries,
            dout_columns,
            douts,
            log_sums,
            deltas,
            rows,
            weights,
            scores,
            mask,
            sums,
            keys,
            turned,
            dqueries,
            stride: sizes.stride,
        }
    }
}
