//! Lays out what a head is made of for the product's loop.

use std::ops::Range;

use super::kernel::Head;
use crate::{
    matmul::PANEL,
    simd::{Vector, load_up_to, store_up_to},
};

/// Lays the keys out, `[tokens / PANEL][dim][PANEL]`; what follows the last one is of no meaning.
#[inline(always)]
pub(super) unsafe fn pack_keys(head: &Head<'_>, to: *mut f32) {
    let dim = head.dim;
    for token in (0..head.tokens).step_by(4) {
        let last = head.tokens - 1;
        let rows = [0, 1, 2, 3].map(|i| head.part(1, last.min(token + i)));
        // SAFETY: the four keys have `dim` values; a panel has room for four from any multiple of four on.
        unsafe {
            let to = to.add(token / PANEL * dim * PANEL + token % PANEL);
            let whole = dim / 4 * 4;
            for d in (0..whole).step_by(4) {
                transpose(rows.map(|row| row.wrapping_add(d)), to.add(d * PANEL));
            }
            for d in whole..dim {
                for (i, row) in rows.iter().enumerate() {
                    *to.add(d * PANEL + i) = *row.add(d);
                }
            }
        }
    }
}

/// Turns four rows of four values into columns, which are PANEL apart.
#[inline(always)]
unsafe fn transpose(rows: [*const f32; 4], to: *mut f32) {
    // SAFETY: the caller has four values in each row, and room for four in each column; SSE is part of x86-64.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_TRANSPOSE4_PS, _mm_loadu_ps, _mm_storeu_ps};
        // The compiler would move the values one by one.
        let mut columns = rows.map(|row| _mm_loadu_ps(row));
        let [a, b, c, d] = &mut columns;
        _MM_TRANSPOSE4_PS(a, b, c, d);
        for (i, column) in columns.into_iter().enumerate() {
            _mm_storeu_ps(to.add(i * PANEL), column);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (i, row) in rows.into_iter().enumerate() {
        for d in 0..4 {
            // SAFETY: as above.
            unsafe { *to.add(d * PANEL + i) = *row.add(d) };
        }
    }
}

/// Lays the values out, `[dim / PANEL][tokens][PANEL]`, with zeros behind the last feature.
#[inline(always)]
pub(super) unsafe fn pack_values<V: Vector>(head: &Head<'_>, to: *mut f32) {
    for first in (0..head.dim).step_by(V::LEN) {
        let count = (head.dim - first).min(V::LEN);
        // SAFETY: there are `count` values of each token from there on, and a panel has room for whole vectors.
        unsafe {
            let from = head.part(2, 0).add(first);
            let to = to.add(first / PANEL * head.tokens * PANEL + first % PANEL);
            for token in 0..head.tokens {
                let value: V = load_up_to(from.add(token * 3 * head.width), count);
                value.store(to.add(token * PANEL));
            }
        }
    }
}

/// Copies a tile's queries, `[rows][dim]`, and scales them.
#[inline(always)]
pub(super) unsafe fn pack_queries<V: Vector>(head: &Head<'_>, rows: Range<usize>, to: *mut f32) {
    let dim = head.dim;
    for (r, row) in rows.enumerate() {
        let from = head.part(0, row);
        // SAFETY: `from` has `dim` values, and `to` as many for each row.
        unsafe {
            let scale = V::splat(1.0 / (dim as f32).sqrt());
            for first in (0..dim).step_by(V::LEN) {
                let count = (dim - first).min(V::LEN);
                let query: V = load_up_to(from.add(first), count);
                store_up_to(query.mul(scale), to.add(r * dim + first), count);
            }
        }
    }
}
