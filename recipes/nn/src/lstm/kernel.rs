//! The inner loop of the recurrence: one step, with the gates in registers.
//!
//! It works on tiles of a few rows by a *block*: the four gates of as many hidden units as a vector has lanes, or of those
//! that are left, so that the cell's arithmetic follows the product without a detour through memory. Each accumulator is summed
//! in the order of the inputs whatever the tile's height: a row's result does not depend, to the bit, on the rows
//! beside it.

use super::matrix::group;
use crate::simd::{Level, MAX_LEN, Vector, below_sigmoid, dispatch, tanh_fraction};

/// One step of some sequences: `h', c' = cell(gates + h * weight, c)`.
pub(super) struct Step<'a> {
    /// The input's part of the gates of each row, in the order of [`Columns`](super::matrix::Columns).
    pub(super) gates: &'a [*const f32],
    /// The recurrent matrix, as [`Recurrent`](super::matrix::Recurrent) has it.
    pub(super) weight: *const f32,
    pub(super) hidden: usize,
    /// The state before, `[rows][units]`, with the units padded to whole vectors.
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

/// Goes through a block's rows in tiles of even heights, up to twelve vectors' rows, which are a constant within.
macro_rules! for_each_tile {
    ($step:expr, $block:expr, <$vector:ty, $width:literal>; $($height:literal)*) => {
        let rows = $step.gates.len();
        // Sums of many rows of one vector hide the latency of one another as those of few rows of four do.
        let four = $width > 2 && group(<$vector>::LEN) > 2;
        let most = if four { <$vector>::ROWS / 2 } else { <$vector>::ROWS };
        let mut first = 0;
        while first < rows {
            let left = rows - first;
            let height = left.div_ceil(left.div_ceil(most));
            match height {
                // The others are not compiled, as no vector needs all.
                $($height if const { $height <= <$vector>::ROWS } => {
                    step_tile::<$vector, $height, $width>($step, $block, first);
                })*
                _ => unreachable!("a tile has at most V::ROWS rows"),
            }
            first += height;
        }
    };
}

#[inline(always)]
unsafe fn step_on<V: Vector>(step: &Step<'_>) {
    let (full, rest) = (step.hidden / V::LEN, step.hidden % V::LEN);
    let vectors_left = (4 * rest).div_ceil(V::LEN);
    // SAFETY: the caller's pointers have the stated shapes, and tiles and blocks stay within them.
    unsafe {
        for block in 0..full + usize::from(vectors_left == 4) {
            for_each_tile!(step, block, <V, 4>; 1 2 3 4 5 6);
        }
        match vectors_left {
            1 => {
                for_each_tile!(step, full, <V, 1>; 1 2 3 4 5 6 7 8 9 10 11 12);
            }
            2 => {
                for_each_tile!(step, full, <V, 2>; 1 2 3 4 5 6 7 8 9 10 11 12);
            }
            3 => {
                for_each_tile!(step, full, <V, 3>; 1 2 3 4 5 6);
            }
            _ => (),
        }
    }
}

/// `R` rows of a block whose gates fill `N` vectors.
#[inline(always)]
unsafe fn step_tile<V: Vector, const R: usize, const N: usize>(
    step: &Step<'_>,
    block: usize,
    first: usize,
) {
    let stride = step.hidden.next_multiple_of(V::LEN);
    let units = V::LEN.min(step.hidden - block * V::LEN);
    // SAFETY: rows `first..first + R` and this block lie within the caller's pointers.
    unsafe {
        let mut acc = [[V::splat(0.0); N]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            *acc = vectors(step.gates[first + r].add(block * 4 * V::LEN));
        }
        let h: [*const f32; R] = std::array::from_fn(|r| step.h.add((first + r) * stride));
        let weight = step.weight.add(block * step.hidden * 4 * V::LEN);
        let inputs = step.hidden;
        let group_len = inputs * 2 * V::LEN;
        if const { N <= group(V::LEN) } {
            let weights = std::array::from_fn(|n| weight.add(n * V::LEN));
            accumulate::<V, R, N, N>(&mut acc, 0, &h, weights, (N * V::LEN, inputs));
        } else if const { N == 4 && R <= 2 } {
            // So few sums would wait for themselves, and there is room for all.
            let weights = std::array::from_fn(|n| weight.add(n / 2 * group_len + n % 2 * V::LEN));
            accumulate::<V, R, N, N>(&mut acc, 0, &h, weights, (2 * V::LEN, inputs));
        } else {
            let pair =
                |weight: *const f32| std::array::from_fn(|n| weight.wrapping_add(n * V::LEN));
            let (first, second) = (pair(weight), pair(weight.add(group_len)));
            accumulate::<V, R, N, 2>(&mut acc, 0, &h, first, (2 * V::LEN, inputs));
            if const { N == 4 } {
                accumulate::<V, R, N, 2>(&mut acc, 2, &h, second, (2 * V::LEN, inputs));
            } else {
                accumulate::<V, R, N, 1>(&mut acc, 2, &h, [second[0]], (V::LEN, inputs));
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            let unit = (first + r) * stride + block * V::LEN;
            let (c, h) = cell(gates(acc, units), V::load(step.c.add(unit)));
            c.store(step.c.add(unit));
            h.store(step.next.add(unit));
        }
    }
}

/// A vector for each gate, of `units` units side by side; what is behind these is some finite number.
#[inline(always)]
unsafe fn gates<V: Vector, const N: usize>(acc: &[V; N], units: usize) -> [V; 4] {
    if N == 4 && units == V::LEN {
        return [acc[0], acc[1 % N], acc[2 % N], acc[3 % N]];
    }
    // The last gate's vector reaches up to a vector behind the sums.
    let mut values = [0.0f32; 5 * MAX_LEN];
    // SAFETY: N is at most 4 and `units` at most LEN, which is at most MAX_LEN.
    unsafe {
        for (n, acc) in acc.iter().enumerate() {
            acc.store(values.as_mut_ptr().add(n * V::LEN));
        }
        let mut gates = [V::splat(0.0); 4];
        for (gate, vector) in gates.iter_mut().enumerate() {
            *vector = V::load(values.as_ptr().add(gate * units));
        }
        gates
    }
}

/// Adds `x[r][k] * weight[k]` for all `k` to `G` of each row's vectors, from the one at `first` on. `weights` are where
/// those of each vector begin, and how far apart the inputs' are.
#[inline(always)]
unsafe fn accumulate<V: Vector, const R: usize, const N: usize, const G: usize>(
    acc: &mut [[V; N]; R],
    first: usize,
    x: &[*const f32; R],
    weights: [*const f32; G],
    (pitch, inputs): (usize, usize),
) {
    // SAFETY: the caller's rows have `inputs` values, and the weights as many vectors.
    unsafe {
        let mut sums = [[V::splat(0.0); G]; R];
        for (sums, acc) in sums.iter_mut().zip(acc.iter()) {
            sums.copy_from_slice(&acc[first..first + G]);
        }
        for k in 0..inputs {
            let mut weight = [V::splat(0.0); G];
            for (weight, from) in weight.iter_mut().zip(weights) {
                *weight = V::load(from.add(k * pitch));
            }
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = V::splat(*x.add(k));
                for (sum, weight) in sums.iter_mut().zip(weight) {
                    *sum = weight.mul_add(x, *sum);
                }
            }
        }
        for (acc, sums) in acc.iter_mut().zip(&sums) {
            acc[first..first + G].copy_from_slice(sums);
        }
    }
}

#[inline(always)]
unsafe fn vectors<V: Vector, const N: usize>(from: *const f32) -> [V; N] {
    // SAFETY: the caller's pointer has N vectors.
    unsafe {
        let mut vectors = [V::splat(0.0); N];
        for (n, vector) in vectors.iter_mut().enumerate() {
            *vector = V::load(from.add(n * V::LEN));
        }
        vectors
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
