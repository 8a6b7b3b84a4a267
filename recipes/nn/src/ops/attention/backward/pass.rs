//! The steps of a task, a tile of keys at a time.

use std::ops::Range;

use super::{BLOCK, BOUNDS, Gradients, memory::Memory};
use crate::{
    matmul::{PANEL, Tile},
    ops::{
        Onto,
        attention::{
            Dropped,
            kernel::Head,
            pack::{copy_rows, pack_panels, transpose},
        },
        dropout::TOGETHER,
    },
    simd::{MAX_LEN, Single, Vector, exp, load_up_to, store_up_to},
};

/// A head on its way.
pub(super) struct Pass<'a> {
    pub(super) head: &'a Head<'a>,
    pub(super) gradients: &'a Gradients<'a>,
    pub(super) memory: &'a Memory,
}

impl Pass<'_> {
    /// What is added to scores and gradients.
    #[inline(always)]
    pub(super) unsafe fn prepare<V: Vector>(&self) {
        let (dim, memory) = (self.head.dim, self.memory);
        for (query, log_sum) in self.gradients.log_sums.iter().enumerate() {
            let rows = [self.gradients.out, self.gradients.dout].map(|rows| rows.row(query));
            // SAFETY: both rows have `dim` values, and there is a place for each query.
            unsafe {
                let mut sum = V::splat(0.0);
                for first in (0..dim).step_by(V::LEN) {
                    let count = (dim - first).min(V::LEN);
                    let out: V = load_up_to(rows[0].add(first), count);
                    sum = out.mul_add(load_up_to(rows[1].add(first), count), sum);
                }
                *memory.deltas.add(query) = -sum.sum();
                *memory.log_sums.add(query) = -log_sum;
            }
        }
        for query in self.head.tokens..self.head.tokens.next_multiple_of(PANEL) {
            // SAFETY: there are places for whole panels.
            unsafe {
                *memory.deltas.add(query) = 0.0;
                *memory.log_sums.add(query) = 0.0;
            }
        }
    }

    /// A tile's weights by queries from `first` on: what they were, and what was left of them.
    #[inline(always)]
    pub(super) unsafe fn weigh<V: Vector>(&self, keys: Range<usize>, row: usize, first: usize) {
        let (head, memory) = (self.head, self.memory);
        // SAFETY: the keys are the head's, and the memory has whole vectors of all queries.
        unsafe {
            copy_rows::<V>(head.rows(1).part(keys.clone()), head.scale(), memory.rows);
            for query in (first..head.tokens).step_by(2 * V::LEN) {
                self.products::<V>(memory.query_columns, keys.len(), query);
                for half in 0..self.vectors::<V>(query) {
                    let query = query + half * V::LEN;
                    let log_sum = V::load(memory.log_sums.add(query));
                    for (r, key) in keys.clone().enumerate() {
                        let score = V::load(memory.sums.add((2 * r + half) * V::LEN));
                        let mut weight = exp(score.add(log_sum));
                        if head.causal {
                            let unseen = key.saturating_sub(query).min(V::LEN);
                            weight = weight.min(V::load(BOUNDS.as_ptr().add(MAX_LEN - unseen)));
                        }
                        let at = r * memory.stride + query;
                        weight.store(memory.scores.add(row * memory.stride + at));
                        if head.dropped.is_some() {
                            let mask = memory.mask.add(row * memory.stride + at);
                            weight = weight.mul(V::load(mask));
                        }
                        weight.store(memory.weights.add(at));
                    }
                }
            }
        }
    }

    /// What dropout multiplies a block's weights by.
    #[inline(always)]
    pub(super) unsafe fn mask(&self, dropped: &Dropped, block: Range<usize>, first: usize) {
        let memory = self.memory;
        for query in first..self.head.tokens {
            for place in block.start / TOGETHER..block.end.div_ceil(TOGETHER) {
                let factors = dropped.factors(query, place);
                let start = block.start.max(place * TOGETHER);
                let end = block.end.min((place + 1) * TOGETHER);
                // SAFETY: the query has a place for each key of a block, and the numbers made together have these keys.
                unsafe {
                    let from = factors.as_ptr().add(start % TOGETHER);
                    let to = memory.turned.add(query * BLOCK + start - block.start);
                    std::ptr::copy_nonoverlapping(from, to, end - start);
                }
            }
        }
        for query in (first..self.head.tokens).step_by(4) {
            for key in (0..block.len()).step_by(4) {
                let rows = [0, 1, 2, 3].map(|i| (query + i).min(self.head.tokens - 1) * BLOCK);
                // SAFETY: a block has room for whole squares.
                unsafe {
                    let rows = rows.map(|row| memory.turned.add(row + key).cast_const());
                    let to = memory.mask.add(key * memory.stride + query);
                    transpose(rows, to, memory.stride);
                }
            }
        }
    }

    /// A tile's rows by two vectors of columns.
    #[inline(always)]
    unsafe fn products<V: Vector>(&self, columns: *const f32, rows: usize, column: usize) {
        let dim = self.head.dim;
        // SAFETY: the memory has the rows, and the columns have two vectors from this one on.
        unsafe {
            let tile = Tile {
                x: self.memory.rows,
                stride: dim,
                weight: columns.add(column / PANEL * dim * PANEL + column % PANEL),
                pitch: PANEL,
                words: dim,
                onto: false,
                ahead: (columns, 0),
            };
            tile.sum::<V, Single>(rows, self.head.tokens - column, self.memory.sums);
        }
    }

    /// How many of the two vectors from a query on there are.
    #[inline(always)]
    fn vectors<V: Vector>(&self, query: usize) -> usize {
        (self.head.tokens - query).div_ceil(V::LEN).min(2)
    }

    /// The gradients of a tile's values.
    #[inline(always)]
    pub(super) unsafe fn values<V: Vector>(&self, keys: Range<usize>, first: usize) {
        let memory = self.memory;
        // SAFETY: the tile has its weights.
        unsafe { self.gather::<V>((2, 1.0), keys, (memory.weights, memory.douts), first) }
    }

    /// From a tile's weights to the gradients of its scores.
    #[inline(always)]
    pub(super) unsafe fn scores<V: Vector>(&self, keys: Range<usize>, row: usize, first: usize) {
        let (head, memory) = (self.head, self.memory);
        // SAFETY: as in `weigh`.
        unsafe {
            copy_rows::<V>(head.rows(2).part(keys.clone()), 1.0, memory.rows);
            for query in (first..head.tokens).step_by(2 * V::LEN) {
                self.products::<V>(memory.dout_columns, keys.len(), query);
                for half in 0..self.vectors::<V>(query) {
                    let query = query + half * V::LEN;
                    let delta = V::load(memory.deltas.add(query));
                    for r in 0..keys.len() {
                        let gradient = V::load(memory.sums.add((2 * r + half) * V::LEN));
                        let at = r * memory.stride + query;
                        let left = V::load(memory.weights.add(at));
                        let to = memory.scores.add(row * memory.stride + at);
                        let weight = V::load(to);
                        weight.mul_add(delta, left.mul(gradient)).store(to);
                    }
                }
            }
        }
    }

    /// The gradients of a tile's keys.
    #[inline(always)]
    pub(super) unsafe fn keys<V: Vector>(&self, keys: Range<usize>, row: usize, first: usize) {
        let memory = self.memory;
        // SAFETY: the tile has the gradients of its scores.
        unsafe {
            let scores = memory.scores.add(row * memory.stride);
            let scale = self.head.scale();
            self.gather::<V>((1, scale), keys, (scores, memory.queries), first);
        }
    }

    /// What a tile's keys get of all queries from `first` on, each by its weight: the gradients of this part of theirs.
    #[inline(always)]
    unsafe fn gather<V: Vector>(
        &self,
        (part, scale): (usize, f32),
        keys: Range<usize>,
        (weights, panels): (*const f32, *const f32),
        first: usize,
    ) {
        let (head, memory) = (self.head, self.memory);
        for column in (0..head.dim).step_by(2 * V::LEN) {
            let start = column / PANEL * head.tokens * PANEL + first * PANEL;
            // SAFETY: there is a weight for each query and each key, and two vectors of each query from the column on.
            unsafe {
                let tile = Tile {
                    x: weights.add(first),
                    stride: memory.stride,
                    weight: panels.add(start + column % PANEL),
                    pitch: PANEL,
                    words: head.tokens - first,
                    onto: false,
                    ahead: (panels, 0),
                };
                tile.sum::<V, Single>(keys.len(), head.dim - column, memory.sums);
                self.put::<V>(part, keys.clone(), column, (memory.sums, scale));
            }
        }
    }

    /// Two vectors of sums to where the gradients of these tokens' queries (0), keys (1) or values (2) are.
    #[inline(always)]
    unsafe fn put<V: Vector>(
        &self,
        part: usize,
        tokens: Range<usize>,
        column: usize,
        (sums, scale): (*const f32, f32),
    ) {
        let Head { width, dim, .. } = *self.head;
        for (r, token) in tokens.enumerate() {
            for first in (column..dim.min(column + 2 * V::LEN)).step_by(V::LEN) {
                let count = (dim - first).min(V::LEN);
                // SAFETY: the token has `count` values from there on.
                unsafe {
                    let to = self.gradients.dqkv.add((3 * token + part) * width + first);
                    let sum = V::load(sums.add(r * 2 * V::LEN + first - column));
                    let mut gradient = sum.mul(V::splat(scale));
                    if self.gradients.onto == Onto::Add {
                        gradient = gradient.add(load_up_to(to, count));
                    }
                    store_up_to(gradient, to, count);
                }
            }
        }
    }

    /// Adds a block's keys to the gradients of queries.
    #[inline(always)]
    pub(super) unsafe fn queries<V: Vector>(&self, block: Range<usize>, first: usize) {
        let (head, memory) = (self.head, self.memory);
        let (keys, len) = (head.rows(1).part(block.clone()), block.len());
        // SAFETY: the memory has a block of keys, and the gradients of scores of the queries that see them.
        unsafe {
            pack_panels::<V>(keys, head.scale(), memory.keys);
            for key in (0..len).step_by(4) {
                let rows = [0, 1, 2, 3].map(|i| (key + i).min(len - 1) * memory.stride);
                for query in (first..head.tokens).step_by(4) {
                    let rows = rows.map(|row| memory.scores.add(row + query).cast_const());
                    transpose(rows, memory.turned.add(query * BLOCK + key), BLOCK);
                }
            }
            let start = if head.causal { block.start } else { 0 };
            for query in (start..head.tokens).step_by(V::ROWS) {
                let count = (head.tokens - query).min(V::ROWS);
                for column in (0..head.dim).step_by(2 * V::LEN) {
                    let tile = Tile {
                        x: memory.turned.add(query * BLOCK),
                        stride: BLOCK,
                        weight: memory
                            .keys
                            .add(column / PANEL * len * PANEL + column % PANEL),
                        pitch: PANEL,
                        words: len,
                        onto: block.start > 0,
                        ahead: (memory.keys, 0),
                    };
                    let to = self.query_sums::<V>(query, column);
                    tile.sum::<V, Single>(count, head.dim - column, to);
                }
            }
        }
    }

    /// Where the gradients of a tile of queries are summed.
    #[inline(always)]
    unsafe fn query_sums<V: Vector>(&self, query: usize, column: usize) -> *mut f32 {
        let columns = self.head.dim.next_multiple_of(PANEL);
        // SAFETY: there is a place for whole tiles.
        unsafe {
            let tile = self.memory.dqueries.add(query * columns);
            tile.add(column * V::ROWS)
        }
    }

    #[inline(always)]
    pub(super) unsafe fn put_queries<V: Vector>(&self) {
        for query in (0..self.head.tokens).step_by(V::ROWS) {
            let tokens = query..self.head.tokens.min(query + V::ROWS);
            for column in (0..self.head.dim).step_by(2 * V::LEN) {
                // SAFETY: all keys have been added.
                unsafe {
                    let sums = self.query_sums::<V>(query, column);
                    self.put::<V>(0, tokens.clone(), column, (sums, 1.0));
                }
            }
        }
    }
}
