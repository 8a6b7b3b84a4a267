//! LayerNorm over the features of rows, and its gradients.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use rayon::prelude::*;

use super::Onto;
use crate::simd::{Level, Vector, dispatch, load_up_to, store_up_to};

/// What a LayerNorm is made of.
#[derive(Clone, Copy)]
pub(crate) struct LayerNorm<'a> {
    /// `[features]`.
    pub(crate) weight: &'a [f32],
    /// `[features]`.
    pub(crate) bias: &'a [f32],
    /// What is added to the variance.
    pub(crate) eps: f32,
}

/// Rows of a task of the pass.
const ROWS: usize = 16;

/// The most parts in which rows are summed up: as many whatever the number of threads is, so that sums are the same.
const PARTS: usize = 32;

/// `y = (x - mean) / deviation * weight + bias` for rows of features, on rayon's pool. Of each row its mean and the reciprocal
/// of its deviation go to `kept`, `[rows, 2]`.
///
/// # Panics
/// The lengths do not fit each other.
pub(crate) fn forward(
    level: Level,
    x: &[f32],
    norm: LayerNorm<'_>,
    y: &mut [f32],
    kept: &mut [f32],
) {
    let features = norm.check(x.len(), y.len(), kept.len());
    let rows = ROWS * features;
    x.par_chunks(rows)
        .zip(y.par_chunks_mut(rows))
        .zip(kept.par_chunks_mut(2 * ROWS))
        .for_each(|((x, y), kept)| {
            // SAFETY: the level is the processor's, and the lengths were checked.
            unsafe { forward_rows(level, x, norm, y, kept) }
        });
}

/// The gradients of `x`, if it is wanted, and of weight and bias, which are written.
///
/// # Panics
/// As [`forward`].
pub(crate) fn backward(
    level: Level,
    (x, kept): (&[f32], &[f32]),
    norm: LayerNorm<'_>,
    dy: &[f32],
    dx: Option<(&mut [f32], Onto)>,
    [dweight, dbias]: [&mut [f32]; 2],
) {
    let features = norm.check(x.len(), dy.len(), kept.len());
    assert_eq!([dweight.len(), dbias.len()], [features; 2], "features");
    let rows = (x.len() / features).div_ceil(PARTS).max(ROWS);
    let (dx, onto) = match dx {
        Some((dx, onto)) => (dx, Some(onto)),
        None => (&mut [][..], None),
    };
    assert!(onto.is_none() || dx.len() == x.len(), "lengths");
    let parts = x.len().div_ceil(rows * features);
    let mut sums = vec![0.0; 2 * features * parts];
    let mut dx = dx.chunks_mut(rows * features);
    let tasks: Vec<_> = (x.chunks(rows * features).zip(dy.chunks(rows * features)))
        .zip(kept.chunks(2 * rows))
        .zip(sums.chunks_mut(2 * features))
        .map(|(((x, dy), kept), sums)| (Part { x, kept, dy }, dx.next().zip(onto), sums))
        .collect();
    tasks.into_par_iter().for_each(|(part, dx, sums)| {
        // SAFETY: as in `forward`.
        unsafe { backward_rows(level, &part, norm, dx, sums) }
    });
    for (i, sums) in sums.chunks_exact(2 * features).enumerate() {
        let onto = if i == 0 { Onto::Write } else { Onto::Add };
        let (weight, bias) = sums.split_at(features);
        for (to, sum) in dweight
            .iter_mut()
            .zip(weight)
            .chain(dbias.iter_mut().zip(bias))
        {
            onto.put(to, *sum);
        }
    }
}

impl LayerNorm<'_> {
    /// The features of a row.
    fn check(&self, x: usize, y: usize, kept: usize) -> usize {
        let features = self.weight.len();
        assert_eq!(self.bias.len(), features, "features");
        assert_eq!(x, y, "lengths");
        assert!(features > 0 && x.is_multiple_of(features), "whole rows");
        assert_eq!(kept, x / features * 2, "what is kept of rows");
        features
    }
}

/// Some rows on their way back.
struct Part<'a> {
    x: &'a [f32],
    kept: &'a [f32],
    dy: &'a [f32],
}

/// The mean of a row, and the reciprocal of its deviation. The variance takes a second pass over the row, as the one-pass
/// formula loses digits.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(crate) unsafe fn statistics<V: Vector>(row: &[f32], eps: f32) -> [f32; 2] {
    let count = row.len() as f32;
    // SAFETY: as the caller's.
    let mean = unsafe { sum::<V, false>(row, 0.0) } / count;
    // SAFETY: as the caller's.
    let variance = unsafe { sum::<V, true>(row, mean) } / count;
    [mean, 1.0 / (variance + eps).sqrt()]
}

/// The sum of `x - shift`, or of its squares.
#[inline(always)]
unsafe fn sum<V: Vector, const SQUARED: bool>(row: &[f32], shift: f32) -> f32 {
    let chunks = row.chunks_exact(V::LEN);
    let mut rest = 0f32;
    for x in chunks.remainder() {
        let x = x - shift;
        rest += if SQUARED { x * x } else { x };
    }
    // SAFETY: a chunk is a vector; the instruction set is the caller's to vouch for.
    unsafe {
        let mut sums = V::splat(0.0);
        for chunk in chunks {
            let x = V::load(chunk.as_ptr()).add(V::splat(-shift));
            sums = if SQUARED {
                x.mul_add(x, sums)
            } else {
                x.add(sums)
            };
        }
        sums.sum() + rest
    }
}

dispatch! {
    fn forward_rows(x: &[f32], norm: LayerNorm<'_>, y: &mut [f32], kept: &mut [f32]) = forward_kernel
}

#[inline(always)]
unsafe fn forward_kernel<V: Vector>(
    x: &[f32],
    norm: LayerNorm<'_>,
    y: &mut [f32],
    kept: &mut [f32],
) {
    let features = norm.weight.len();
    let rows = x.chunks_exact(features).zip(y.chunks_exact_mut(features));
    for ((x, y), kept) in rows.zip(kept.chunks_exact_mut(2)) {
        // SAFETY: the caller vouches for the instruction set; rows, weight and bias have `count` values from `first` on.
        unsafe {
            let [mean, scale] = statistics::<V>(x, norm.eps);
            kept.copy_from_slice(&[mean, scale]);
            for first in (0..features).step_by(V::LEN) {
                let count = (features - first).min(V::LEN);
                let x: V = load_up_to(x.as_ptr().add(first), count);
                let weight = load_up_to(norm.weight.as_ptr().add(first), count);
                let bias = load_up_to(norm.bias.as_ptr().add(first), count);
                let normal = x.add(V::splat(-mean)).mul(V::splat(scale));
                let result = normal.mul_add(weight, bias);
                store_up_to(result, y.as_mut_ptr().add(first), count);
            }
        }
    }
}

dispatch! {
    fn backward_rows(
        part: &Part<'_>,
        norm: LayerNorm<'_>,
        dx: Option<(&mut [f32], Onto)>,
        sums: &mut [f32],
    ) = backward_kernel
}

/// With `n = (x - mean) / deviation` and `g = dy * weight`, `dx = (g - mean(g) - n * mean(g * n)) / deviation`.
#[inline(always)]
unsafe fn backward_kernel<V: Vector>(
    part: &Part<'_>,
    norm: LayerNorm<'_>,
    mut dx: Option<(&mut [f32], Onto)>,
    sums: &mut [f32],
) {
    let features = norm.weight.len();
    let (dweight, dbias) = sums.split_at_mut(features);
    let rows = part
        .x
        .chunks_exact(features)
        .zip(part.dy.chunks_exact(features));
    for (row, ((x, dy), kept)) in rows.zip(part.kept.chunks_exact(2)).enumerate() {
        // SAFETY: the caller vouches for the instruction set; rows, weight and sums have `count` values from `first` on.
        unsafe {
            let (mean, scale) = (V::splat(-kept[0]), V::splat(kept[1]));
            let [mut plain, mut turned] = [V::splat(0.0); 2];
            for first in (0..features).step_by(V::LEN) {
                let count = (features - first).min(V::LEN);
                let x: V = load_up_to(x.as_ptr().add(first), count);
                let dy: V = load_up_to(dy.as_ptr().add(first), count);
                let normal = x.add(mean).mul(scale);
                for (to, term) in [
                    (dweight.as_mut_ptr().add(first), dy.mul(normal)),
                    (dbias.as_mut_ptr().add(first), dy),
                ] {
                    store_up_to(load_up_to::<V>(to, count).add(term), to, count);
                }
                // Zeros behind the last feature, as there are in `dy`.
                let gradient = dy.mul(load_up_to(norm.weight.as_ptr().add(first), count));
                plain = plain.add(gradient);
                turned = gradient.mul_add(normal, turned);
            }
            let Some((dx, onto)) = &mut dx else { continue };
            let share = 1.0 / features as f32;
            let plain = V::splat(-plain.sum() * share);
            let turned = V::splat(-turned.sum() * share);
            let dx = &mut dx[row * features..][..features];
            for first in (0..features).step_by(V::LEN) {
                let count = (features - first).min(V::LEN);
                let x: V = load_up_to(x.as_ptr().add(first), count);
                let dy: V = load_up_to(dy.as_ptr().add(first), count);
                let normal = x.add(mean).mul(scale);
                let gradient =
                    dy.mul_add(load_up_to(norm.weight.as_ptr().add(first), count), plain);
                let mut gradient = normal.mul_add(turned, gradient).mul(scale);
                let to = dx.as_mut_ptr().add(first);
                if *onto == Onto::Add {
                    gradient = gradient.add(load_up_to(to, count));
                }
                store_up_to(gradient, to, count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::tests::{flat, random},
        train::reference::sequences,
    };

    fn exact(values: &[f32]) -> Vec<f64> {
        values.iter().map(|x| f64::from(*x)).collect()
    }

    fn close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            let error = (f64::from(*got) - expected).abs();
            assert!(
                error < tolerance * (1.0 + expected.abs()),
                "{what}: value {i} is {got}, expected {expected}"
            );
        }
    }

    #[test]
    fn values_and_gradients_match_plain_loops() {
        // One part and several, and a mean that is large beside the deviation.
        for (rows, features, shift) in [(1, 1, 0.0), (3, 37, 0.0), (700, 16, 0.0), (20, 96, 300.0)]
        {
            let values = |count: usize, seed| flat(&random(&[count], seed));
            let mut x = values(rows * features, 1);
            x.iter_mut().for_each(|x| *x += shift);
            let (weight, bias) = (values(features, 2), values(features, 3));
            let dy = values(rows * features, 4);
            let before = values(rows * features, 5);
            let plain = sequences::LayerNorm {
                weight: &exact(&weight),
                bias: &exact(&bias),
                eps: 1e-5,
            };
            let expected = plain.forward(&exact(&x));
            let gradients = plain.backward(&exact(&x), &exact(&dy));
            let norm = LayerNorm {
                weight: &weight,
                bias: &bias,
                eps: 1e-5,
            };
            for level in Level::all() {
                let what = format!("{rows} x {features}, {level:?}");
                let mut y = vec![f32::NAN; x.len()];
                let mut kept = vec![f32::NAN; 2 * rows];
                forward(level, &x, norm, &mut y, &mut kept);
                let tolerance = if shift == 0.0 { 1e-5 } else { 3e-4 };
                close(&what, &y, &expected, tolerance);
                let mut dx = vec![f32::NAN; x.len()];
                let [mut dweight, mut dbias] = [(); 2].map(|()| vec![f32::NAN; features]);
                let mut back = |dx| {
                    let parameters = [&mut dweight[..], &mut dbias[..]];
                    backward(level, (&x, &kept), norm, &dy, dx, parameters);
                };
                back(Some((&mut dx, Onto::Write)));
                let mut added = before.clone();
                back(Some((&mut added, Onto::Add)));
                back(None);
                // One feature is its own mean: whatever comes back is divided by the root of eps.
                let tolerance = if features == 1 { 1e-3 } else { tolerance };
                close(&what, &dx, &gradients[0], tolerance);
                close(&what, &dweight, &gradients[1], 10.0 * tolerance);
                close(&what, &dbias, &gradients[2], 1e-4);
                let sums = dx.iter().zip(&before).map(|(x, y)| x + y);
                assert!(sums.eq(added), "{what}");
            }
        }
    }
}
