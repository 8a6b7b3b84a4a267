//! The inner loop of the product: tiles of a few rows by two vectors of outputs, summed in registers.

use std::ops::Range;

use super::{PANEL, Product, TILE_ROWS};
use crate::{
    activation::Activation,
    host::Shared,
    simd::{Vector, dispatch, load_up_to, store_up_to},
};

/// Values of a cache line.
const LINE: usize = 16;

/// Some rows by some panels.
pub(super) struct Task<'a> {
    pub(super) product: &'a Product<'a>,
    /// The rows of this task alone, gated if they are to be.
    pub(super) x: &'a [f32],
    /// All of the matrix.
    pub(super) panels_of_matrix: &'a [f32],
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
    pub(super) output: Shared,
}

/// What to fetch into the second-level cache meanwhile: the task's next panel, a line with each step of the first tiles.
///
/// With few rows a panel is used up in less time than memory takes to send the next.
struct Ahead {
    next: *const f32,
    lines: usize,
}

impl Ahead {
    #[inline(always)]
    fn new(task: &Task<'_>, panel: usize, column: usize) -> Self {
        let len = task.product.matrix.inputs * PANEL;
        let wanted = panel + 1 < task.panels.end && column == panel * PANEL;
        Self {
            next: task
                .panels_of_matrix
                .as_ptr()
                .wrapping_add((panel + usize::from(wanted)) * len),
            lines: if wanted { len / LINE } else { 0 },
        }
    }

    /// Where a tile of `inputs` steps starts fetching, and how far each step goes.
    #[inline(always)]
    fn next_tile(&mut self, inputs: usize) -> (*const f32, usize) {
        let from = self.next;
        if self.lines == 0 {
            return (from, 0);
        }
        self.lines -= self.lines.min(inputs);
        self.next = from.wrapping_add(inputs * LINE);
        (from, LINE)
    }
}

/// The sums of a tile, `[rows][2 * LEN]`.
#[repr(align(64))]
struct Sums([f32; TILE_ROWS * PANEL]);

dispatch! {
    /// Computes a task.
    ///
    /// # Safety
    /// The processor has the level; the product's slices have the lengths that it states, and `x` those rows of it that
    /// the task has; `output` has a place for each result, and nobody else uses those of this task meanwhile.
    pub(super) fn run(task: &Task<'_>) = task_kernel
}

/// Sums a tile whose height is a constant within.
macro_rules! sum_tile {
    ($vector:ty, $height:expr, $arguments:tt; $($constant:literal)*) => {
        match $height {
            $($constant => sum::<$vector, $constant> $arguments,)*
            _ => unreachable!("a tile has at most TILE_ROWS rows"),
        }
    };
}

#[inline(always)]
unsafe fn task_kernel<V: Vector>(task: &Task<'_>) {
    let matrix = task.product.matrix;
    let inputs = matrix.inputs;
    let mut sums = Sums([0.0; TILE_ROWS * PANEL]);
    for panel in task.panels.clone() {
        for column in (panel * PANEL..matrix.outputs.min((panel + 1) * PANEL)).step_by(2 * V::LEN) {
            let mut row = task.rows.start;
            let mut ahead = Ahead::new(task, panel, column);
            while row < task.rows.end {
                // Even heights: a last tile of a row or two would leave the processor waiting for its sums.
                let left = task.rows.end - row;
                let height = left.div_ceil(left.div_ceil(V::ROWS));
                // SAFETY: `x` holds `height` rows from there on; the panel `inputs` rows of PANEL, of which the two
                // vectors from `column` on are a part as 2 * LEN divides PANEL; and rows and columns are the task's.
                unsafe {
                    let x = task.x.as_ptr().add((row - task.rows.start) * inputs);
                    let weight = task.panels_of_matrix.as_ptr();
                    let weight = weight.add(panel * inputs * PANEL + column % PANEL);
                    let to = sums.0.as_mut_ptr();
                    let reach = ahead.next_tile(inputs);
                    sum_tile!(V, height, (x, weight, inputs, to, reach); 1 2 3 4 5 6 7 8 9 10 11 12);
                    finish::<V>(task, row..row + height, column, &sums);
                }
                row += height;
            }
        }
    }
}

/// `x w` for `R` rows and two vectors of columns, to `[R][2 * LEN]`.
#[inline(always)]
unsafe fn sum<V: Vector, const R: usize>(
    x: *const f32,
    weight: *const f32,
    inputs: usize,
    to: *mut f32,
    (mut ahead, step): (*const f32, usize),
) {
    // SAFETY: the caller has R rows of `inputs` values, and as many rows of PANEL weights.
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; R];
        for k in 0..inputs {
            let left = V::load(weight.add(k * PANEL));
            let right = V::load(weight.add(k * PANEL + V::LEN));
            V::prefetch(ahead);
            ahead = ahead.wrapping_add(step);
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = V::splat(*x.add(r * inputs + k));
                sums[0] = left.mul_add(factor, sums[0]);
                sums[1] = right.mul_add(factor, sums[1]);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            sums[0].store(to.add(r * 2 * V::LEN));
            sums[1].store(to.add(r * 2 * V::LEN + V::LEN));
        }
    }
}

/// What follows the product, from the sums to the output.
#[inline(always)]
unsafe fn finish<V: Vector>(task: &Task<'_>, rows: Range<usize>, column: usize, sums: &Sums) {
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
                    let sum = V::load(sums.0.as_ptr().add((2 * r + half) * V::LEN));
                    sum.add(bias).store(task.output.at(row * outputs + column));
                }
                continue;
            }
            for (r, row) in rows.clone().enumerate() {
                let sum = V::load(sums.0.as_ptr().add((2 * r + half) * V::LEN));
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
