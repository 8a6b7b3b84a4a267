//! The end of a block in one pass: its last layer's bias, the residual connection, and the LayerNorm that follows.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{TASK, config::Norm};
use crate::{
    host,
    ops::layer_norm::statistics,
    simd::{Level, Vector, dispatch},
};

/// What ends a block: the bias of its last layer, and a LayerNorm's parameters.
#[derive(Clone, Debug)]
pub(super) struct ResidualNorm {
    /// `[features]` of the bias, the LayerNorm's weight and its bias.
    parameters: Vec<f32>,
    eps: f32,
}

impl ResidualNorm {
    /// Of three tensors of one size.
    pub(super) fn new(
        bias: &Tensor,
        weight: &Tensor,
        norm_bias: &Tensor,
        eps: f32,
    ) -> Result<Self> {
        Ok(Self {
            parameters: host::to_vec(&Tensor::stack(&[bias, weight, norm_bias], 0)?)?,
            eps,
        })
    }
}

/// `LayerNorm(x + bias + residual)`, in place, for rows of as many features as `end` has; they are shared out over rayon's
/// threads. Where norms stand before blocks, the sum is what is added next, and takes the residual's place.
///
/// # Panics
/// `x` and `residual` are not of one length.
pub(super) fn residual_layer_norm(
    level: Level,
    x: &mut [f32],
    residual: &mut [f32],
    end: &ResidualNorm,
    norm: Norm,
) {
    assert_eq!(x.len(), residual.len(), "residual length");
    let features = (end.parameters.len() / 3).max(1);
    let task = (TASK / features).max(1) * features;
    x.par_chunks_mut(task)
        .zip(residual.par_chunks_mut(task))
        .for_each(|(x, residual)| {
            // SAFETY: the level is the caller's to vouch for, and the kernel stays within its slices.
            unsafe { norm_rows(level, x, residual, end, norm) }
        });
}

dispatch! {
    fn norm_rows(x: &mut [f32], residual: &mut [f32], end: &ResidualNorm, norm: Norm) = norm_rows_kernel
}

#[inline(always)]
unsafe fn norm_rows_kernel<V: Vector>(
    x: &mut [f32],
    residual: &mut [f32],
    end: &ResidualNorm,
    norm: Norm,
) {
    let features = end.parameters.len() / 3;
    let (bias, parameters) = end.parameters.split_at(features);
    for (x, residual) in x
        .chunks_exact_mut(features)
        .zip(residual.chunks_exact_mut(features))
    {
        for ((x, r), b) in x.iter_mut().zip(residual.iter()).zip(bias) {
            *x += r + b;
        }
        if norm == Norm::Pre {
            residual.copy_from_slice(x);
        }
        // SAFETY: the caller vouches for the instruction set.
        unsafe { layer_norm_row::<V>(x, parameters, end.eps) };
    }
}

/// LayerNorm of one row, in place; `norm` is weight then bias.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(super) unsafe fn layer_norm_row<V: Vector>(row: &mut [f32], norm: &[f32], eps: f32) {
    let (weight, bias) = norm.split_at(row.len());
    // SAFETY: as the caller's.
    let [mean, scale] = unsafe { statistics::<V>(row, eps) };
    for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * scale * w + b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{flat, random};

    #[test]
    fn matches_the_formula_in_f64() {
        for (rows, features) in [(1, 1), (3, 37), (500, 96)] {
            let values = |shape: &[usize], seed| random(shape, seed);
            let x = flat(&values(&[rows * features], 1));
            let residual = flat(&values(&[rows * features], 2));
            let parameters: [Tensor; 3] =
                std::array::from_fn(|i| values(&[features], 3 + i as u32));
            let [bias, weight, norm_bias] = &parameters;
            let end = ResidualNorm::new(bias, weight, norm_bias, 1e-5).unwrap();
            let [bias, weight, norm_bias] = parameters.map(|tensor| flat(&tensor));
            for level in Level::all() {
                let [mut got, mut sums] = [x.clone(), residual.clone()];
                residual_layer_norm(level, &mut got, &mut sums, &end, Norm::Pre);
                let [mut same, mut kept] = [x.clone(), residual.clone()];
                residual_layer_norm(level, &mut same, &mut kept, &end, Norm::Post);
                assert_eq!((&same, &kept), (&got, &residual));
                for (i, sum) in sums.iter().enumerate() {
                    assert_eq!(*sum, x[i] + (residual[i] + bias[i % features]));
                }
                for row in 0..rows {
                    let at = |i: usize| row * features + i;
                    let sum = |i: usize| {
                        f64::from(x[at(i)]) + f64::from(residual[at(i)]) + f64::from(bias[i])
                    };
                    let count = features as f64;
                    let mean = (0..features).map(sum).sum::<f64>() / count;
                    let square = |i: usize| (sum(i) - mean).powi(2);
                    let variance = (0..features).map(square).sum::<f64>() / count;
                    for i in 0..features {
                        let expected = (sum(i) - mean) / (variance + 1e-5).sqrt()
                            * f64::from(weight[i])
                            + f64::from(norm_bias[i]);
                        let error = (f64::from(got[at(i)]) - expected).abs();
                        assert!(error < 1e-5, "{rows}x{features}, {level:?}: {error}");
                    }
                }
            }
        }
    }
}
