//! The innermost loop of all products: some rows of values by one or two vectors, summed in registers.
//!
//! Forward and back, rows are pixels, steps go through a window, and vectors are weights. For the gradient of weights, rows are
//! channels of the input, steps go through pixels, and vectors are the output's gradient.

use crate::{
    matmul::MOST_ROWS,
    simd::{Vector, load_up_to, store_up_to},
};

/// What is summed.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// The first row's first value.
    pub(super) x: *const f32,
    /// Where runs of steps begin, from there on.
    pub(super) runs: &'a [usize],
    /// Steps of a run.
    pub(super) steps: usize,
    /// Values from one step to the next.
    pub(super) step: usize,
    /// Values from one row to the next.
    pub(super) row: usize,
    /// The first step's vectors.
    pub(super) weight: *const f32,
    /// Values from one step's to the next's.
    pub(super) pitch: usize,
    /// What to bring near meanwhile, if there is something: where it begins, and how much further each step goes.
    pub(super) ahead: Option<[(*const f32, usize); 2]>,
}

/// Where sums go, and what becomes of them on the way.
#[derive(Clone, Copy)]
pub(super) struct Sink {
    /// The first row's.
    pub(super) to: *mut f32,
    /// Values from one row to the next.
    pub(super) pitch: usize,
    /// Columns that there are from there on; at most two vectors are written.
    pub(super) columns: usize,
    /// What sums begin with, if not with zero.
    pub(super) bias: Option<*const f32>,
    /// What they are bounded by, if by something.
    pub(super) bounds: Option<[f32; 2]>,
    /// What is added then, and the values from one row of it to the next. It may be what is there.
    pub(super) residual: Option<(*const f32, usize)>,
    /// What they are bounded by after that.
    pub(super) after: Option<[f32; 2]>,
}

impl Sink {
    /// Takes sums as they are, or adds them to what is there.
    pub(super) fn plain(to: *mut f32, pitch: usize, columns: usize, add: bool) -> Self {
        Self {
            to,
            pitch,
            columns,
            bias: None,
            bounds: None,
            residual: add.then_some((to.cast_const(), pitch)),
            after: None,
        }
    }
}

/// Sums a tile whose height is a constant within.
macro_rules! sum_tile {
    (<$vector:ty, $width:literal, $whole:literal>, $height:expr, $arguments:tt; $($constant:literal)*) => {
        match $height {
            // The others are not compiled, as no vector needs all.
            $($constant if const { $constant <= <$vector>::ROWS } => {
                sum::<$vector, $constant, $width, $whole> $arguments
            })*
            _ => unreachable!("a tile has at most V::ROWS rows"),
        }
    };
}

impl Tile<'_> {
    /// Sums so many rows, at most `V::ROWS`.
    ///
    /// # Safety
    /// The instruction set is there; the runs of all rows can be read; there are two vectors of weights for each step;
    /// and the sink's rows are written by nobody else meanwhile, and are none of what is read.
    #[inline(always)]
    pub(super) unsafe fn sum<V: Vector>(self, rows: usize, sink: Sink) {
        // SAFETY: as the caller's.
        unsafe {
            if sink.columns > V::LEN {
                sum_tile!(<V, 2, true>, rows, (self, sink); 1 2 3 4 5 6 7 8 9 10 11 12);
            } else {
                sum_tile!(<V, 1, true>, rows, (self, sink); 1 2 3 4 5 6 7 8 9 10 11 12);
            }
        }
    }

    /// As [`Self::sum`], where weights have no more columns than the sink.
    ///
    /// # Safety
    /// As [`Self::sum`]'s.
    #[inline(always)]
    pub(super) unsafe fn sum_of<V: Vector>(self, rows: usize, sink: Sink) {
        // SAFETY: as the caller's.
        unsafe {
            if sink.columns >= 2 * V::LEN {
                sum_tile!(<V, 2, true>, rows, (self, sink); 1 2 3 4 5 6 7 8 9 10 11 12);
            } else if sink.columns > V::LEN {
                sum_tile!(<V, 2, false>, rows, (self, sink); 1 2 3 4 5 6 7 8 9 10 11 12);
            } else {
                sum_tile!(<V, 1, false>, rows, (self, sink); 1 2 3 4 5 6 7 8 9 10 11 12);
            }
        }
    }
}

/// The sums of `R` rows for `N` vectors, which are there whole or as far as the sink has columns.
#[inline(always)]
unsafe fn sum<V: Vector, const R: usize, const N: usize, const WHOLE: bool>(
    tile: Tile<'_>,
    sink: Sink,
) {
    // SAFETY: as `Tile::sum`'s.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        if let Some(bias) = sink.bias {
            for n in 0..N {
                let bias = load_up_to(bias.add(n * V::LEN), sink.count::<V>(n));
                sums.iter_mut().for_each(|sums| sums[n] = bias);
            }
        }
        let mut weight = tile.weight;
        let [mut first, mut second] = tile.ahead.unwrap_or([(tile.x, 0); 2]);
        for run in tile.runs {
            // An address for each four rows, from which the processor reaches all of them by itself.
            let mut fours = [tile.x.add(*run); MOST_ROWS.div_ceil(4)];
            for (i, four) in fours.iter_mut().enumerate() {
                *four = four.wrapping_add(4 * i * tile.row);
            }
            for _ in 0..tile.steps {
                let mut weights = [V::splat(0.0); N];
                for (n, vector) in weights.iter_mut().enumerate() {
                    let weight = weight.add(n * V::LEN);
                    *vector = if WHOLE {
                        V::load(weight)
                    } else {
                        load_up_to(weight, sink.count::<V>(n))
                    };
                }
                // Beyond the last ones there may be nothing.
                weight = weight.wrapping_add(tile.pitch);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = V::splat(*fours[r / 4].add(r % 4 * tile.row));
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = weight.mul_add(factor, *sum);
                    }
                }
                for four in &mut fours {
                    *four = four.wrapping_add(tile.step);
                }
                if tile.ahead.is_some() {
                    V::prefetch(first.0);
                    V::prefetch(second.0);
                    first.0 = first.0.wrapping_add(first.1);
                    second.0 = second.0.wrapping_add(second.1);
                }
            }
        }
        if let Some(bounds) = sink.bounds {
            bound(&mut sums, bounds);
        }
        if let Some((residual, pitch)) = sink.residual {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (n, sum) in sums.iter_mut().enumerate() {
                    let residual = residual.add(r * pitch + n * V::LEN);
                    *sum = sum.add(load_up_to(residual, sink.count::<V>(n)));
                }
            }
            if let Some(bounds) = sink.after {
                bound(&mut sums, bounds);
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                let to = sink.to.add(r * sink.pitch + n * V::LEN);
                store_up_to(sum, to, sink.count::<V>(n));
            }
        }
    }
}

/// Bounds sums; what is no number stays so.
#[inline(always)]
unsafe fn bound<V: Vector, const R: usize, const N: usize>(
    sums: &mut [[V; N]; R],
    [low, high]: [f32; 2],
) {
    // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
    unsafe {
        let (low, high) = (V::splat(low), V::splat(high));
        // No iterator over both: sums would leave their registers.
        for sums in sums.iter_mut() {
            for sum in sums.iter_mut() {
                *sum = high.min(low.max(*sum));
            }
        }
    }
}

impl Sink {
    /// Columns of a vector.
    #[inline(always)]
    fn count<V: Vector>(&self, vector: usize) -> usize {
        V::LEN.min(self.columns - vector * V::LEN)
    }
}
