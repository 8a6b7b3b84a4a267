//! The inner loop of the recurrence: one step, with the gates in registers.
//!
//! It works on tiles of a few rows by a *block* of four vectors: the four gates of as many hidden units as a vector has
//! lanes, so that the cell's arithmetic follows the product without a detour through memory. Each accumulator is summed
//! in the order of the inputs whatever the tile's height: a row's result does not depend, to the bit, on the rows
//! beside it.

use crate::simd::{Level, Vector, below_sigmoid, dispatch, tanh_fraction};

/// One step of some sequences: `h', c' = cell(gates + h * weight, c)`.
pub(super) struct Step<'a> {
    /// The input's part of the gates of each row, `[block][4 * lanes]`.
    pub(super) gates: &'a [*const f32],
    /// The recurrent matrix, `[block][unit][4 * lanes]`.
    pub(super) weight: *const f32,
    pub(super) hidden: usize,
    pub(super) blocks: usize,
    /// The state before, `[rows][block * lanes]`.
    pub(super) h: *const f32,
    /// The state after, of the same shape and apart from `h`.
    pub(super) next: *mut f32,
    /// The cell, of the same shape, updated in place.
    pub(super) c: *mut f32,
}

dispatch!(fn step_at(step: &Step<'_>) = step_on);

impl Step<'_> {
    /// Runs it.
    ///
    /// # Safety
    /// The processor has the level, and the pointers have the shapes that the fields state, with its lanes.
    pub(super) unsafe fn run(&self, level: Level) {
        // SAFETY: as the caller's.
        unsafe { step_at(level, self) }
    }
}

/// Calls a tile function for every tile of a block, the tile's height being a constant within it.
macro_rules! for_each_tile {
    ($rows:expr, $vector:ty, |$first:ident| $tile:ident($($argument:expr),*)) => {
        let rows = $rows;
        let mut $first = 0;
        while $first < rows {
            let height = (rows - $first).min(<$vector>::ROWS / 2);
            match height {
                1 => $tile::<$vector, 1>($($argument),*),
                2 => $tile::<$vector, 2>($($argument),*),
                3 => $tile::<$vector, 3>($($argument),*),
                4 => $tile::<$vector, 4>($($argument),*),
                5 => $tile::<$vector, 5>($($argument),*),
                _ => $tile::<$vector, 6>($($argument),*),
            }
            $first += height;
        }
    };
}

#[inline(always)]
unsafe fn step_on<V: Vector>(step: &Step<'_>) {
    for block in 0..step.blocks {
        // SAFETY: the caller's pointers have the stated shapes, and tiles and blocks stay within them.
        unsafe {
            for_each_tile!(step.gates.len(), V, |first| step_tile(step, block, first));
        }
    }
}

#[inline(always)]
unsafe fn step_tile<V: Vector, const R: usize>(step: &Step<'_>, block: usize, first: usize) {
    let (width, stride) = (4 * V::LEN, step.blocks * V::LEN);
    // SAFETY: rows `first..first + R` and this block lie within the caller's pointers.
    unsafe {
        let mut acc = [[V::splat(0.0); 4]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            *acc = four(step.gates[first + r].add(block * width));
        }
        let h: [*const f32; R] = std::array::from_fn(|r| step.h.add((first + r) * stride));
        let weight = step.weight.add(block * step.hidden * width);
        accumulate(&mut acc, &h, weight, step.hidden);
        for (r, [i, f, g, o]) in acc.into_iter().enumerate() {
            let unit = (first + r) * stride + block * V::LEN;
            let (c, h) = cell([i, f, g, o], V::load(step.c.add(unit)));
            c.store(step.c.add(unit));
            h.store(step.next.add(unit));
        }
    }
}

/// Adds `x[r][k] * weight[k]` for all `k` to each row's four vectors.
#[inline(always)]
unsafe fn accumulate<V: Vector, const R: usize>(
    acc: &mut [[V; 4]; R],
    x: &[*const f32; R],
    weight: *const f32,
    inputs: usize,
) {
    for k in 0..inputs {
        // SAFETY: the caller's rows have `inputs` values and the weight `inputs` times four vectors.
        unsafe {
            let weight = four::<V>(weight.add(k * 4 * V::LEN));
            for (acc, x) in acc.iter_mut().zip(x) {
                let x = V::splat(*x.add(k));
                for (acc, weight) in acc.iter_mut().zip(weight) {
                    *acc = weight.mul_add(x, *acc);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn four<V: Vector>(from: *const f32) -> [V; 4] {
    // SAFETY: the caller's pointer has four vectors.
    unsafe {
        [
            V::load(from),
            V::load(from.add(V::LEN)),
            V::load(from.add(2 * V::LEN)),
            V::load(from.add(3 * V::LEN)),
        ]
    }
}

/// `c' = sigmoid(f) c + sigmoid(i) tanh(g)` and `h' = sigmoid(o) tanh(c')`, exact to about 1e-7 (absolutely).
///
/// With `sigmoid(x) = 1 / (1 + e^-x)` and `tanh(x) = (e^2x - 1) / (e^2x + 1)` brought to a common denominator, two
/// divisions do the work of five, which would take as long as a quarter of the product.
#[inline(always)]
unsafe fn cell<V: Vector>([i, f, g, o]: [V; 4], c: V) -> (V, V) {
    // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
    unsafe {
        let (i, f, o) = (below_sigmoid(i), below_sigmoid(f), below_sigmoid(o));
        let (above, below) = tanh_fraction(g);
        let input = i.mul(below);
        let c = c.mul_add(input, above.mul(f)).div(input.mul(f));
        let (above, below) = tanh_fraction(c);
        (c, above.div(o.mul(below)))
    }
}
