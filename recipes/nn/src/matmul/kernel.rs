//! The inner loop of the product: tiles of a few rows by one or two vectors of outputs, summed in registers.

use std::ops::Range;

use super::{Gates, PANEL, Product};
use crate::{
    activation::Activation,
    host::Shared,
    simd::{Dot, Vector, dispatch, dispatch_product, load_up_to, store_up_to},
};

/// Words of a cache line.
const LINE: usize = 16;

/// Inputs that stay in the second-level cache, of 512 KiB at least, while all panels go past them.
const WORDS_AT_ONCE: usize = 96 << 10;

/// The most rows of a tile of any instruction set.
pub(crate) const MOST_ROWS: usize = 12;

/// Some rows by some panels.
pub(super) struct Task<'a> {
    pub(super) product: &'a Product<'a>,
    /// The rows of this task alone, as words, `[rows, words]`, gated if they are to be.
    pub(super) x: &'a [f32],
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
    pub(super) output: Shared,
}

/// What to fetch into the second-level cache meanwhile: the next weights, a little with each step of all tiles.
///
/// With few rows weights are used up in less time than memory takes to send the next. All at once they would stand in the
/// way of what the tiles read.
pub(crate) struct Ahead {
    next: *const f32,
    left: usize,
    /// How far each step goes; below a line, some steps ask for what has been asked for.
    step: usize,
}

impl Ahead {
    /// These weights, or none, within so many steps, if a line a step is enough for that.
    #[inline(always)]
    pub(crate) fn new(weights: &[f32], steps: usize) -> Self {
        Self {
            next: weights.as_ptr(),
            left: weights.len(),
            step: weights.len().div_ceil(steps.max(1)).min(LINE),
        }
    }

    /// Where a tile of so many steps starts fetching, and how far each step goes.
    #[inline(always)]
    pub(crate) fn next_tile(&mut self, steps: usize) -> (*const f32, usize) {
        let from = self.next;
        if self.left == 0 {
            return (from, 0);
        }
        let values = steps * self.step;
        self.left -= self.left.min(values);
        self.next = from.wrapping_add(values);
        (from, self.step)
    }
}

/// The sums of a tile, `[rows][2 * LEN]`.
#[repr(align(64))]
struct Sums([f32; MOST_ROWS * PANEL]);

dispatch_product! {
    /// Computes a task.
    ///
    /// # Safety
    /// The processor has the level; the precision is the matrix's; the product's slices have the lengths that it
    /// states, and `x` those rows of it that the task has; `output` has a place for each result, and nobody else uses
    /// those of this task meanwhile.
    pub(super) fn run(task: &Task<'_>) = task_kernel
}

dispatch! {
    /// What follows the sums of some rows for two vectors of columns, which are `[rows][2 * LEN]`.
    ///
    /// # Safety
    /// As [`run`]'s; the rows and columns are the task's, and `sums` has them.
    pub(super) fn finish_columns(task: &Task<'_>, rows: Range<usize>, column: usize, sums: *const f32)
        = finish
}

dispatch_product! {
    /// Turns rows of values into rows of words: `x` is `[rows, inputs]`, `to` `[rows, words]`; each row is multiplied by
    /// its gates, if there are any.
    ///
    /// # Safety
    /// The processor has the level; `to` has room for all rows, and there are gates for all.
    pub(super) fn pack_rows(x: &[f32], inputs: usize, gates: Option<RowGates<'_>>, to: &mut [f32])
        = pack_rows_kernel
}

/// The gates of rows of which the first is `first`.
#[derive(Clone, Copy)]
pub(super) struct RowGates<'a> {
    pub(super) gates: Gates<'a>,
    pub(super) first: usize,
}

#[inline(always)]
unsafe fn pack_rows_kernel<V: Vector, D: Dot<V>>(
    x: &[f32],
    inputs: usize,
    gates: Option<RowGates<'_>>,
    to: &mut [f32],
) {
    let words = inputs.div_ceil(D::VALUES);
    let rows = x.chunks_exact(inputs).zip(to.chunks_exact_mut(words));
    for (row, (x, to)) in rows.enumerate() {
        let gates = gates.map(|gates| gates.of(row, inputs).as_ptr());
        for (i, x) in x.chunks(2 * V::LEN).enumerate() {
            let (left, right) = (x.len().min(V::LEN), x.len().saturating_sub(V::LEN));
            // SAFETY: `left` and `right` values are there, of the gates too; their words go where the row's are.
            unsafe {
                let mut values: [V; 2] = [
                    load_up_to(x.as_ptr(), left),
                    load_up_to(x.as_ptr().add(left), right),
                ];
                if let Some(gates) = gates {
                    let gates = gates.add(i * 2 * V::LEN);
                    values[0] = values[0].mul(load_up_to(gates, left));
                    values[1] = values[1].mul(load_up_to(gates.add(left), right));
                }
                let at = i * 2 * V::LEN / D::VALUES;
                D::store(values, to.as_mut_ptr().add(at), x.len().div_ceil(D::VALUES));
            }
        }
    }
}

impl RowGates<'_> {
    #[inline(always)]
    fn of(&self, row: usize, inputs: usize) -> &[f32] {
        &self.gates.values[(self.first + row) / self.gates.rows * inputs..][..inputs]
    }
}

/// Sums a tile whose height is a constant within.
macro_rules! sum_tile {
    (<$vector:ty, $dot:ty, $width:literal>, $height:expr, $arguments:tt; $($constant:literal)*) => {
        match $height {
            // The others are not compiled, as no vector needs all.
            $($constant if const { $constant <= <$vector>::ROWS } => {
                sum::<$vector, $dot, $constant, $width> $arguments
            })*
            _ => unreachable!("a tile has at most V::ROWS rows"),
        }
    };
}

#[inline(always)]
unsafe fn task_kernel<V: Vector, D: Dot<V>>(task: &Task<'_>) {
    let (matrix, panels) = (task.product.matrix, &task.panels);
    let (words, strip) = (matrix.words(), matrix.strip());
    let columns = panels.start * PANEL..matrix.outputs.min(panels.end * PANEL);
    let parts = (task.rows.len() * words).div_ceil(WORDS_AT_ONCE).max(1);
    let part_len = words.div_ceil(parts).next_multiple_of(LINE).max(1);
    let mut sums = Sums([0.0; MOST_ROWS * PANEL]);
    let sums = sums.0.as_mut_ptr();
    for start in (0..words.max(1)).step_by(part_len) {
        let part = start..words.min(start + part_len);
        let weights = |column: usize| {
            let weights = &matrix.column(column)[part.start * strip..];
            &weights[..weights.len().min(part.len() * strip)]
        };
        for column in columns.clone().step_by(2 * V::LEN) {
            let next = column + 2 * V::LEN;
            let next = columns.contains(&next).then(|| weights(next));
            let mut tiles = tiles::<V>(task.rows.clone());
            let mut ahead = Ahead::new(next.unwrap_or_default(), tiles.count() * part.len());
            // SAFETY: `x` holds the tile's rows from there on; the column's weights are those of a strip, in which there are
            // two vectors from it on as 2 * LEN divides a strip; and rows and columns are the task's.
            unsafe {
                while let Some(rows) = tiles.next() {
                    let x = task.x.as_ptr().add((rows.start - task.rows.start) * words);
                    let tile = Tile {
                        x: x.add(part.start),
                        stride: words,
                        weight: weights(column).as_ptr(),
                        pitch: strip,
                        words: part.len(),
                        onto: part.start > 0,
                        ahead: ahead.next_tile(part.len()),
                    };
                    if tile.onto {
                        unfinished::<V>(task, rows.clone(), column, sums, Way::In);
                    }
                    tile.sum::<V, D>(rows.len(), matrix.outputs - column, sums);
                    if part.end < words {
                        unfinished::<V>(task, rows, column, sums, Way::Out);
                    } else {
                        finish::<V>(task, rows, column, sums);
                    }
                }
            }
        }
    }
}

/// Which way sums go that have more parts to come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In,
}

/// Keeps sums where the output will be, until their next part.
#[inline(always)]
unsafe fn unfinished<V: Vector>(
    task: &Task<'_>,
    rows: Range<usize>,
    column: usize,
    sums: *mut f32,
    way: Way,
) {
    let outputs = task.product.matrix.outputs;
    for (r, row) in rows.enumerate() {
        for half in 0..2 {
            let column = column + half * V::LEN;
            let count = V::LEN.min(outputs.saturating_sub(column));
            // SAFETY: `sums` has the rows, and the output `count` values of these from `column` on, if any.
            unsafe {
                let sums = sums.add((2 * r + half) * V::LEN);
                match way {
                    _ if count == 0 => (),
                    Way::Out => {
                        store_up_to(V::load(sums), task.output.at(row * outputs + column), count);
                    }
                    Way::In => {
                        let value: V = load_up_to(task.output.at(row * outputs + column), count);
                        value.store(sums);
                    }
                }
            }
        }
    }
}

/// Cuts rows into tiles of even heights: a last one of a row or two would leave the processor waiting for its sums.
#[inline(always)]
pub(crate) fn tiles<V: Vector>(rows: Range<usize>) -> Tiles {
    Tiles {
        rows,
        most: V::ROWS,
    }
}

/// See [`tiles`].
pub(crate) struct Tiles {
    rows: Range<usize>,
    most: usize,
}

impl Tiles {
    /// How many are left.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        self.rows.len().div_ceil(self.most)
    }

    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        let left = self.rows.len();
        if left == 0 {
            return None;
        }
        let height = left.div_ceil(self.count());
        let start = self.rows.start;
        self.rows.start += height;
        Some(start..start + height)
    }
}

/// Some rows of words against one or two vectors of a panel's columns.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// The first row.
    pub(crate) x: *const f32,
    /// Words from one row to the next.
    pub(crate) stride: usize,
    /// The first column's weight.
    pub(crate) weight: *const f32,
    /// How much further on the next words' weight is.
    pub(crate) pitch: usize,
    /// Words of a row to go through.
    pub(crate) words: usize,
    /// Whether the sums go on from those that are there.
    pub(crate) onto: bool,
    /// What to prefetch, and how many words further with each step.
    pub(crate) ahead: (*const f32, usize),
}

impl Tile {
    /// Sums the first `columns` columns, at most two vectors, of `rows` rows to `to`, `[rows][2 * LEN]`; whole vectors are written.
    ///
    /// # Safety
    /// The instruction set is there; there are `rows` rows, at most `V::ROWS`; the weights have two vectors of columns,
    /// and `to` room for all rows.
    #[inline(always)]
    pub(crate) unsafe fn sum<V: Vector, D: Dot<V>>(
        self,
        rows: usize,
        columns: usize,
        to: *mut f32,
    ) {
        // SAFETY: as the caller's.
        unsafe {
            if columns > V::LEN {
                sum_tile!(<V, D, 2>, rows, (self, to); 1 2 3 4 5 6 7 8 9 10 11 12);
            } else {
                sum_tile!(<V, D, 1>, rows, (self, to); 1 2 3 4 5 6 7 8 9 10 11 12);
            }
        }
    }
}

/// `x w` for `R` rows and `N` vectors of columns.
#[inline(always)]
unsafe fn sum<V: Vector, D: Dot<V>, const R: usize, const N: usize>(tile: Tile, to: *mut f32) {
    let (mut ahead, step) = tile.ahead;
    // SAFETY: as `Tile::sum`'s.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        if tile.onto {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(to.add((r * 2 + n) * V::LEN));
                }
            }
        }
        for k in 0..tile.words {
            let mut weight = [V::splat(0.0); N];
            for (n, weight) in weight.iter_mut().enumerate() {
                *weight = V::load(tile.weight.add(k * tile.pitch + n * V::LEN));
            }
            V::prefetch(ahead);
            ahead = ahead.wrapping_add(step);
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = V::splat(*tile.x.add(r * tile.stride + k));
                for (sum, weight) in sums.iter_mut().zip(weight) {
                    *sum = D::add(weight, factor, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                sum.store(to.add((r * 2 + n) * V::LEN));
            }
        }
    }
}

/// What follows the product, from the sums to the output.
#[inline(always)]
unsafe fn finish<V: Vector>(task: &Task<'_>, rows: Range<usize>, column: usize, sums: *const f32) {
    let product = task.product;
    let outputs = product.matrix.outputs;
    for half in 0..2 {
        let column = column + half * V::LEN;
        if column >= outputs {
            break;
        }
        let count = V::LEN.min(outputs - column);
        // SAFETY: `sums` holds these rows; bias, residual and output have `count` values from `column` on.
        unsafe {
            let bias = match product.bias {
                Some(bias) => load_up_to(bias.as_ptr().add(column), count),
                None => V::splat(0.0),
            };
            let plain = product.activation == Activation::None && product.residual.is_none();
            if plain && count == V::LEN {
                // Most of what is left to do for a matrix of few inputs, such as an LSTM's.
                for (r, row) in rows.clone().enumerate() {
                    let sum = V::load(sums.add((2 * r + half) * V::LEN));
                    sum.add(bias).store(task.output.at(row * outputs + column));
                }
                continue;
            }
            for (r, row) in rows.clone().enumerate() {
                let sum = V::load(sums.add((2 * r + half) * V::LEN));
                let mut value: V = product.activation.apply(sum.add(bias));
                let at = row * outputs + column;
                if let Some(residual) = product.residual {
                    value = value.add(load_up_to(residual.as_ptr().add(at), count));
                }
                store_up_to(value, task.output.at(at), count);
            }
        }
    }
}
