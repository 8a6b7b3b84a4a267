//! Lays the rows of a head out for the product's loop.

use crate::{
    matmul::PANEL,
    simd::{Vector, load_up_to, store_up_to},
};

/// Rows of a head.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// The first one.
    pub(super) start: *const f32,
    /// Values from one to the next.
    pub(super) stride: usize,
    pub(super) count: usize,
    /// Values of a row.
    pub(super) dim: usize,
}

impl Rows {
    /// Some of them.
    pub(super) fn part(self, rows: std::ops::Range<usize>) -> Self {
        Self {
            start: self.row(rows.start),
            count: rows.len(),
            ..self
        }
    }

    pub(super) fn row(self, index: usize) -> *const f32 {
        self.start.wrapping_add(index * self.stride)
    }
}

/// Lays rows out as columns, `[count / PANEL][dim][PANEL]`; what follows the last one is of no meaning.
#[inline(always)]
pub(super) unsafe fn pack_columns(rows: Rows, to: *mut f32) {
    let dim = rows.dim;
    for first in (0..rows.count).step_by(4) {
        let last = rows.count - 1;
        let four = [0, 1, 2, 3].map(|i| rows.row(last.min(first + i)));
        // SAFETY: the four rows have `dim` values; a panel has room for four from any multiple of four on.
        unsafe {
            let to = to.add(first / PANEL * dim * PANEL + first % PANEL);
            let whole = dim / 4 * 4;
            for d in (0..whole).step_by(4) {
                let four = four.map(|row| row.wrapping_add(d));
                transpose(four, to.add(d * PANEL), PANEL);
            }
            for d in whole..dim {
                for (i, row) in four.iter().enumerate() {
                    *to.add(d * PANEL + i) = *row.add(d);
                }
            }
        }
    }
}

/// Turns four rows of four values into columns, which are `pitch` apart.
#[inline(always)]
pub(super) unsafe fn transpose(rows: [*const f32; 4], to: *mut f32, pitch: usize) {
    // SAFETY: the caller has four values in each row, and room for four in each column; SSE is part of x86-64.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_TRANSPOSE4_PS, _mm_loadu_ps, _mm_storeu_ps};
        // The compiler would move the values one by one.
        let mut columns = rows.map(|row| _mm_loadu_ps(row));
        let [a, b, c, d] = &mut columns;
        _MM_TRANSPOSE4_PS(a, b, c, d);
        for (i, column) in columns.into_iter().enumerate() {
            _mm_storeu_ps(to.add(i * pitch), column);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (i, row) in rows.into_iter().enumerate() {
        for d in 0..4 {
            // SAFETY: as above.
            unsafe { *to.add(d * pitch + i) = *row.add(d) };
        }
    }
}

/// Lays rows out in panels, `[dim / PANEL][count][PANEL]`, each multiplied by `scale`, with zeros behind the last value.
#[inline(always)]
pub(super) unsafe fn pack_panels<V: Vector>(rows: Rows, scale: f32, to: *mut f32) {
    for first in (0..rows.dim).step_by(V::LEN) {
        let count = (rows.dim - first).min(V::LEN);
        // SAFETY: there are `count` values of each row from there on, and a panel has room for whole vectors.
        unsafe {
            let scale = V::splat(scale);
            let to = to.add(first / PANEL * rows.count * PANEL + first % PANEL);
            for row in 0..rows.count {
                let value: V = load_up_to(rows.row(row).add(first), count);
                value.mul(scale).store(to.add(row * PANEL));
            }
        }
    }
}

/// Copies rows side by side, `[count][dim]`, each multiplied by `scale`.
#[inline(always)]
pub(super) unsafe fn copy_rows<V: Vector>(rows: Rows, scale: f32, to: *mut f32) {
    let dim = rows.dim;
    for r in 0..rows.count {
        let from = rows.row(r);
        // SAFETY: `from` has `dim` values, and `to` as many for each row.
        unsafe {
            let scale = V::splat(scale);
            for first in (0..dim).step_by(V::LEN) {
                let count = (dim - first).min(V::LEN);
                let value: V = load_up_to(from.add(first), count);
                store_up_to(value.mul(scale), to.add(r * dim + first), count);
            }
        }
    }
}
