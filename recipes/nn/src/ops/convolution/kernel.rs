//! The inner loops: tiles of some pixels of a line by one or two vectors of outputs, summed in registers.

use std::ops::Range;

use super::Pass;
use crate::{
    matmul::{MOST_ROWS, PANEL, tiles},
    simd::{Vector, dispatch, load_up_to, store_up_to},
};

/// Some lines by some strips of outputs.
pub(super) struct Task<'a> {
    pub(super) pass: &'a Pass<'a>,
    pub(super) lines: &'a [Line],
    pub(super) product: Product<'a>,
    /// Strips, counted through all blocks.
    pub(super) strips: Range<usize>,
}

/// Windows side by side.
#[derive(Clone, Copy)]
pub(super) struct Line {
    /// The first value under the first of them.
    pub(super) x: *const f32,
    /// The first one's pixel, counted through all images.
    pub(super) pixel: usize,
    pub(super) columns: usize,
}

/// The sums of a tile, `[rows][2 * LEN]`.
#[repr(align(64))]
struct Sums([f32; MOST_ROWS * PANEL]);

dispatch! {
    /// Computes a task.
    ///
    /// # Safety
    /// The processor has the level; the lines' windows can be read, the output's pixels and the task's strips of it are
    /// written by nobody else meanwhile, and are none of what is read.
    pub(super) fn run(task: &Task<'_>) = task_kernel
}

#[inline(always)]
unsafe fn task_kernel<V: Vector>(task: &Task<'_>) {
    let layer = task.pass.layer;
    let mut sums = Sums([0.0; MOST_ROWS * PANEL]);
    let sums = sums.0.as_mut_ptr();
    for index in task.strips.clone() {
        let (block, strip) = (index / layer.strips(), index % layer.strips());
        let outputs = layer.strip.min(layer.block.outputs - strip * layer.strip);
        let first = block * layer.block.outputs + strip * layer.strip;
        for column in (0..outputs).step_by(2 * V::LEN) {
            let weight = layer.weight.as_slice()[index * layer.strip_len() + column..].as_ptr();
            let finish = Finish {
                pass: task.pass,
                bias: layer.bias.as_slice()[index * layer.strip + column..].as_ptr(),
                first: first + column,
            };
            let count = outputs - column;
            for line in task.lines {
                let mut tiles = tiles::<V>(0..line.columns);
                while let Some(pixels) = tiles.next() {
                    let at = pixels.start * task.product.stride + block * layer.block.inputs;
                    // SAFETY: as the caller's: the tiles are the line's pixels, and the columns the strip's.
                    unsafe {
                        let x = line.x.add(at);
                        task.product
                            .sum::<V>(x, weight, [pixels.len(), count], sums);
                        finish.rows::<V>(line.pixel + pixels.start, [pixels.len(), count], sums);
                    }
                }
            }
        }
    }
}

/// Windows by strips: where their values are.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    /// Where the runs of a window begin, from its first value on.
    pub(super) runs: &'a [usize],
    /// Values of a run.
    pub(super) words: usize,
    /// Values from one window to the next.
    pub(super) stride: usize,
    /// Outputs of a strip.
    pub(super) pitch: usize,
}

/// Sums a tile whose height is a constant within.
macro_rules! sum_tile {
    ($vector:ty, $width:literal, $height:expr, $arguments:tt; $($constant:literal)*) => {
        match $height {
            // The others are not compiled, as no vector needs all.
            $($constant if const { $constant <= <$vector>::ROWS } => {
                sum::<$vector, $constant, $width> $arguments
            })*
            _ => unreachable!("a tile has at most V::ROWS rows"),
        }
    };
}

impl Product<'_> {
    /// Sums so many windows, at most `V::ROWS`, for up to two vectors of columns, to `[rows][2 * LEN]`; whole vectors are
    /// written.
    ///
    /// # Safety
    /// The instruction set is there; the runs of all windows can be read; the weights have two vectors of columns for each of
    /// their values, and `to` has room for all rows.
    #[inline(always)]
    pub(super) unsafe fn sum<V: Vector>(
        self,
        x: *const f32,
        weight: *const f32,
        [rows, columns]: [usize; 2],
        to: *mut f32,
    ) {
        // SAFETY: as the caller's.
        unsafe {
            if columns > V::LEN {
                sum_tile!(V, 2, rows, (self, x, weight, to); 1 2 3 4 5 6 7 8 9 10 11 12);
            } else {
                sum_tile!(V, 1, rows, (self, x, weight, to); 1 2 3 4 5 6 7 8 9 10 11 12);
            }
        }
    }
}

/// The sums of `R` windows for `N` vectors of outputs.
#[inline(always)]
unsafe fn sum<V: Vector, const R: usize, const N: usize>(
    product: Product<'_>,
    x: *const f32,
    mut weight: *const f32,
    to: *mut f32,
) {
    let Product { stride, pitch, .. } = product;
    // SAFETY: as `Product::sum`'s.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        for run in product.runs {
            let x = x.add(*run);
            for k in 0..product.words {
                let mut weights = [V::splat(0.0); N];
                for (n, vector) in weights.iter_mut().enumerate() {
                    *vector = V::load(weight.add(n * V::LEN));
                }
                weight = weight.add(pitch);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = V::splat(*x.add(r * stride + k));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = weights.mul_add(factor, *sum);
                    }
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

/// What follows the sums of some columns.
pub(super) struct Finish<'a> {
    pub(super) pass: &'a Pass<'a>,
    /// The first one's, in whole vectors.
    pub(super) bias: *const f32,
    /// The first one's channel of the output.
    pub(super) first: usize,
}

impl Finish<'_> {
    /// Sums `[rows][2 * LEN]` to as many pixels of the output, for up to two vectors of columns.
    ///
    /// # Safety
    /// As [`Self::store`].
    #[inline(always)]
    unsafe fn rows<V: Vector>(&self, pixel: usize, [rows, columns]: [usize; 2], sums: *const f32) {
        for (half, column) in (0..columns).step_by(V::LEN).take(2).enumerate() {
            let count = V::LEN.min(columns - column);
            for row in 0..rows {
                // SAFETY: as the caller's; `sums` holds these rows.
                unsafe {
                    let sum = V::load(sums.add((2 * row + half) * V::LEN));
                    self.store(sum, pixel + row, column, count);
                }
            }
        }
    }

    /// A sum of a pixel, for `count` channels from `column` on.
    ///
    /// # Safety
    /// The instruction set is there, and bias, residual and output have these channels; nobody else uses the output's.
    #[inline(always)]
    pub(super) unsafe fn store<V: Vector>(
        &self,
        sum: V,
        pixel: usize,
        column: usize,
        count: usize,
    ) {
        let Pass {
            layer,
            output,
            residual,
            after,
            ..
        } = self.pass;
        // SAFETY: as the caller's.
        unsafe {
            let bias = V::load(self.bias.add(column));
            let mut value: V = layer.activation.apply(sum.add(bias));
            if let Some(residual) = residual {
                let residual = residual.pixel(pixel).add(self.first + column);
                value = after.apply(value.add(load_up_to(residual, count)));
            }
            store_up_to(value, output.pixel(pixel).add(self.first + column), count);
        }
    }
}
