//! Attention of some queries of one head, a tile of queries at a time: scores, softmax and the weighted sum of the
//! values follow each other while they are in the first-level cache.

use std::ops::Range;

use super::{
    Dropped,
    pack::{Rows, copy_rows, pack_columns, pack_panels},
};
use crate::{
    matmul::{MOST_ROWS, PANEL, Tile, tiles},
    ops::dropout::TOGETHER,
    simd::{MAX_LEN, Single, Vector, dispatch, exp, store_up_to},
};

/// Values of a cache line.
pub(super) const LINE: usize = 16;

/// Below every score: its power is too small to change a sum that the largest score adds 1 to.
const NOTHING: f32 = f32::MIN;

/// Taken from the right place on, the bounds of a last vector of scores: none, and then nothing for lanes whose token there is
/// not, or is not seen.
static BOUNDS: [f32; 2 * MAX_LEN] = {
    let mut bounds = [NOTHING; 2 * MAX_LEN];
    let (none, _) = bounds.split_at_mut(MAX_LEN);
    let mut i = 0;
    while i < MAX_LEN {
        none[i] = f32::INFINITY;
        i += 1;
    }
    bounds
};

/// One head of one sequence.
pub(super) struct Head<'a> {
    /// The sequence's rows, `[tokens, 3 * width]`.
    pub(super) qkv: &'a [f32],
    pub(super) tokens: usize,
    /// Whether a query sees no key after it.
    pub(super) causal: bool,
    /// Values of a row of the output: of all heads.
    pub(super) width: usize,
    /// Where the head begins in a row of queries, keys, values or outputs.
    pub(super) column: usize,
    pub(super) dim: usize,
    /// Which weights are dropped.
    pub(super) dropped: Option<Dropped>,
}

impl Head<'_> {
    /// How many keys are seen from a tile of queries.
    fn seen(&self, queries: &Range<usize>) -> usize {
        if self.causal {
            queries.end
        } else {
            self.tokens
        }
    }

    /// The head's queries (0), keys (1) or values (2).
    pub(super) fn rows(&self, part: usize) -> Rows {
        Rows {
            start: self.qkv[part * self.width + self.column..].as_ptr(),
            stride: 3 * self.width,
            count: self.tokens,
            dim: self.dim,
        }
    }

    /// What scores are multiplied by.
    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

/// Where the results of some queries go.
#[derive(Clone, Copy)]
pub(super) struct Sink {
    /// The head's first row of outputs; the next is the head's width further on.
    pub(super) out: *mut f32,
    /// The head's first logarithm of a sum of powers, or null where nobody wants these.
    pub(super) log_sums: *mut f32,
}

/// How many values each part of a task's memory has, in whole lines.
pub(super) struct Sizes {
    keys: usize,
    values: usize,
    queries: usize,
    sums: usize,
    weights: usize,
    /// Weights from one row to the next: not a power of two, which would put the rows into the same sets of the cache.
    stride: usize,
}

impl Sizes {
    pub(super) fn new(head: &Head<'_>) -> Self {
        let padded = head.tokens.next_multiple_of(PANEL);
        let stride = padded + LINE;
        Self {
            keys: padded * head.dim,
            values: head.tokens * head.dim.next_multiple_of(PANEL),
            queries: (MOST_ROWS * head.dim).next_multiple_of(LINE),
            sums: MOST_ROWS * PANEL,
            weights: MOST_ROWS * stride,
            stride,
        }
    }

    pub(super) fn total(&self) -> usize {
        self.keys + self.values + self.queries + self.sums + self.weights
    }
}

/// A task's memory.
struct Memory {
    /// `[tokens / PANEL][dim][PANEL]`.
    keys: *mut f32,
    /// `[dim / PANEL][tokens][PANEL]`.
    values: *mut f32,
    /// A tile's queries, divided by the root of `dim`: `[rows][dim]`.
    queries: *mut f32,
    /// A tile's sums, `[rows][2 * LEN]`.
    sums: *mut f32,
    /// What the values weigh for a tile's queries, but for a factor of each row, and before that the scores:
    /// `[rows][stride]`.
    weights: *mut f32,
    stride: usize,
}

impl Memory {
    fn new(sizes: &Sizes, memory: &mut [f32]) -> Self {
        let [keys, values, queries, sums, weights] = cut(
            memory,
            [
                sizes.keys,
                sizes.values,
                sizes.queries,
                sizes.sums,
                sizes.weights,
            ],
        );
        Self {
            keys,
            values,
            queries,
            sums,
            weights,
            stride: sizes.stride,
        }
    }
}

/// Parts of these lengths.
///
/// # Panics
/// The memory is too short.
pub(super) fn cut<const N: usize>(memory: &mut [f32], lens: [usize; N]) -> [*mut f32; N] {
    let mut rest = memory;
    lens.map(|len| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        part.as_mut_ptr()
    })
}

dispatch! {
    /// Attends from some queries.
    ///
    /// # Safety
    /// The processor has the level; the head has the rows and columns that it states, and the queries are some of its
    /// rows; `to` has places for all rows, and nobody else uses those of the queries meanwhile.
    pub(super) fn attend(head: &Head<'_>, queries: Range<usize>, memory: &mut [f32], to: Sink)
        = attend_kernel
}

#[inline(always)]
unsafe fn attend_kernel<V: Vector>(
    head: &Head<'_>,
    queries: Range<usize>,
    memory: &mut [f32],
    to: Sink,
) {
    let memory = Memory::new(&Sizes::new(head), memory);
    let mut tiles = tiles::<V>(queries);
    // SAFETY: the memory has all that its fields state, a tile has at most MOST_ROWS rows, and all of them are the head's.
    unsafe {
        pack_columns(head.rows(1), memory.keys);
        pack_panels::<V>(head.rows(2), 1.0, memory.values);
        while let Some(rows) = tiles.next() {
            let queries = head.rows(0).part(rows.clone());
            copy_rows::<V>(queries, head.scale(), memory.queries);
            let largest = score::<V>(head, rows.clone(), &memory);
            let seen = head.seen(&rows);
            let factors = soften(head, rows.clone(), (&memory, &largest), to.log_sums);
            let out = to.out.add(rows.start * head.width);
            weigh::<V>(head, (rows.len(), seen), &memory, &factors, out);
        }
    }
}

/// Scores of the tokens that a tile's queries see, in place of the weights; gives lanes of each row's largest.
#[inline(always)]
unsafe fn score<V: Vector>(
    head: &Head<'_>,
    queries: Range<usize>,
    memory: &Memory,
) -> [V; MOST_ROWS] {
    let (dim, rows, seen) = (head.dim, queries.len(), head.seen(&queries));
    // SAFETY: the memory has the queries, two vectors of keys from each `token` on, and room for their scores; a vector
    // from any place of the first half of BOUNDS on is within it.
    unsafe {
        let mut largest = [V::splat(NOTHING); MOST_ROWS];
        for token in (0..seen).step_by(2 * V::LEN) {
            let tile = Tile {
                x: memory.queries,
                stride: dim,
                weight: memory.keys.add(token / PANEL * dim * PANEL + token % PANEL),
                pitch: PANEL,
                words: dim,
                onto: false,
                ahead: (memory.keys, 0),
            };
            tile.sum::<V, Single>(rows, seen - token, memory.sums);
            for half in 0..seen.min(token + 2 * V::LEN).div_ceil(V::LEN) - token / V::LEN {
                let token = token + half * V::LEN;
                let count = (seen - token).min(V::LEN);
                let mut bound = V::load(BOUNDS.as_ptr().add(MAX_LEN - count));
                for (r, largest) in largest[..rows].iter_mut().enumerate() {
                    if head.causal {
                        let own = (queries.start + r + 1).saturating_sub(token).min(V::LEN);
                        bound = V::load(BOUNDS.as_ptr().add(MAX_LEN - own));
                    }
                    let score = V::load(memory.sums.add((2 * r + half) * V::LEN)).min(bound);
                    score.store(memory.weights.add(r * memory.stride + token));
                    *largest = largest.max(score);
                }
            }
        }
        largest
    }
}

/// From scores, of which there are each row's largest, to weights; gives the factor that makes a row's weights add up to 1.
#[inline(always)]
unsafe fn soften<V: Vector>(
    head: &Head<'_>,
    rows: Range<usize>,
    (memory, scores): (&Memory, &[V; MOST_ROWS]),
    log_sums: *mut f32,
) -> [f32; MOST_ROWS] {
    let seen = head.seen(&rows);
    let mut factors = [0.0; MOST_ROWS];
    for (r, query) in rows.enumerate() {
        // SAFETY: the row has whole vectors of scores, and the query a place for its logarithm.
        unsafe {
            let row = memory.weights.add(r * memory.stride);
            let largest = largest(scores[r]);
            let shift = V::splat(-largest);
            let mut sum = V::splat(0.0);
            for token in (0..seen).step_by(V::LEN) {
                let weight = exp(V::load(row.add(token)).add(shift));
                weight.store(row.add(token));
                sum = sum.add(weight);
            }
            let sum = sum.sum();
            factors[r] = 1.0 / sum;
            if !log_sums.is_null() {
                *log_sums.add(query) = largest + sum.ln();
            }
            if let Some(dropped) = &head.dropped {
                for token in (0..seen).step_by(TOGETHER) {
                    let factors = dropped.factors(query, token / TOGETHER);
                    for (i, factor) in factors[..TOGETHER.min(seen - token)].iter().enumerate() {
                        *row.add(token + i) *= factor;
                    }
                }
            }
        }
    }
    factors
}

/// The largest value of a vector, found pairwise.
#[inline(always)]
unsafe fn largest<V: Vector>(vector: V) -> f32 {
    // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
    let mut lanes = unsafe { vector.to_array() };
    let mut width = V::LEN / 2;
    while width > 0 {
        for i in 0..width {
            let (a, b) = (lanes[i], lanes[i + width]);
            lanes[i] = if a > b { a } else { b };
        }
        width /= 2;
    }
    lanes[0]
}

/// The values of the tokens that a tile's queries see, weighed.
#[inline(always)]
unsafe fn weigh<V: Vector>(
    head: &Head<'_>,
    (rows, seen): (usize, usize),
    memory: &Memory,
    factors: &[f32; MOST_ROWS],
    out: *mut f32,
) {
    for column in (0..head.dim).step_by(2 * V::LEN) {
        // SAFETY: the memory has the weights, two vectors of values from `column` on, and room for their sums; the
        // output has the head's columns.
        unsafe {
            let tile = Tile {
                x: memory.weights,
                stride: memory.stride,
                weight: memory
                    .values
                    .add(column / PANEL * head.tokens * PANEL + column % PANEL),
                pitch: PANEL,
                words: seen,
                onto: false,
                ahead: (memory.values, 0),
            };
            tile.sum::<V, Single>(rows, head.dim - column, memory.sums);
            for (r, factor) in factors[..rows].iter().enumerate() {
                let factor = V::splat(*factor);
                let out = out.add(r * head.width);
                for column in (column..head.dim.min(column + 2 * V::LEN)).step_by(V::LEN) {
                    let at = r * 2 * V::LEN + column % (2 * V::LEN);
                    let sum = V::load(memory.sums.add(at)).mul(factor);
                    store_up_to(sum, out.add(column), (head.dim - column).min(V::LEN));
                }
            }
        }
    }
}
