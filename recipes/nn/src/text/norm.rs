//! The end of a post-LN block in one pass: the layer's bias, the residual connection, and LayerNorm.

use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;

use super::TASK;
use crate::{
    host,
    simd::{Level, Vector, dispatch},
};

/// `LayerNorm(x + bias + residual)`, in place.
///
/// `x` and `residual` are `[rows, features]`; `parameters` is `[3, features]`: the bias of the layer that gave `x`,
/// then LayerNorm's weight and bias.
///
/// # Errors
/// The shapes do not fit, or a tensor is not contiguous f32.
pub fn residual_layer_norm(
    x: &Tensor,
    residual: &Tensor,
    parameters: &Tensor,
    eps: f32,
) -> Result<()> {
    let (rows, features) = x.dims2()?;
    let op = ResidualLayerNorm { eps };
    host::expect_shape(
        "residual_layer_norm: a residual",
        residual,
        &[rows, features],
    )?;
    host::expect_shape(
        "residual_layer_norm: parameters",
        parameters,
        &[3, features],
    )?;
    x.inplace_op3(residual, parameters, &op)
}

struct ResidualLayerNorm {
    eps: f32,
}

impl InplaceOp3 for ResidualLayerNorm {
    fn name(&self) -> &'static str {
        "residual_layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<()> {
        let residual = host::values(residual, residual_layout)?;
        let parameters = host::values(parameters, parameters_layout)?;
        let x = host::values_mut(x, x_layout)?;
        residual_layer_norm_cpu(x, residual, parameters, self.eps);
        Ok(())
    }
}

/// The kernel: rows of a third of `parameters`, shared out over rayon's threads.
pub(super) fn residual_layer_norm_cpu(
    x: &mut [f32],
    residual: &[f32],
    parameters: &[f32],
    eps: f32,
) {
    let features = (parameters.len() / 3).max(1);
    let task = (TASK / features).max(1) * features;
    let level = Level::detect();
    x.par_chunks_mut(task)
        .zip(residual.par_chunks(task))
        .for_each(|(x, residual)| {
            // SAFETY: the level is this processor's, and the kernel stays within its slices.
            unsafe { norm_rows(level, x, residual, parameters, eps) }
        });
}

dispatch! {
    fn norm_rows(x: &mut [f32], residual: &[f32], parameters: &[f32], eps: f32) = norm_rows_kernel
}

#[inline(always)]
unsafe fn norm_rows_kernel<V: Vector>(
    x: &mut [f32],
    residual: &[f32],
    parameters: &[f32],
    eps: f32,
) {
    let features = parameters.len() / 3;
    let (bias, norm) = parameters.split_at(features);
    for (x, residual) in x
        .chunks_exact_mut(features)
        .zip(residual.chunks_exact(features))
    {
        for ((x, r), b) in x.iter_mut().zip(residual).zip(bias) {
            *x += r + b;
        }
        // SAFETY: the caller vouches for the instruction set.
        unsafe { layer_norm_row::<V>(x, norm, eps) };
    }
}

/// LayerNorm of one row, in place; `norm` is weight then bias. The variance takes a second pass over the row, as the
/// one-pass formula loses digits.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(super) unsafe fn layer_norm_row<V: Vector>(row: &mut [f32], norm: &[f32], eps: f32) {
    let (weight, bias) = norm.split_at(row.len());
    let count = row.len() as f32;
    // SAFETY: as the caller's.
    let mean = unsafe { sum::<V, false>(row, 0.0) } / count;
    // SAFETY: as the caller's.
    let variance = unsafe { sum::<V, true>(row, mean) } / count;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * scale * w + b;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn matches_the_formula_in_f64() {
        let eps = 1e-5;
        for (rows, features) in [(1, 1), (3, 37), (500, 96)] {
            let x = Tensor::randn(1f32, 2.0, (rows, features), &Device::Cpu).unwrap();
            let residual = Tensor::randn(0f32, 1.0, (rows, features), &Device::Cpu).unwrap();
            let parameters = Tensor::randn(0f32, 1.0, (3, features), &Device::Cpu).unwrap();
            let [a, r, p] =
                [&x, &residual, &parameters].map(|t| t.to_dtype(candle_core::DType::F64).unwrap());
            let sum = (a + r).unwrap().broadcast_add(&p.get(0).unwrap()).unwrap();
            let centred = sum.broadcast_sub(&sum.mean_keepdim(1).unwrap()).unwrap();
            let variance = centred.sqr().unwrap().mean_keepdim(1).unwrap();
            let expected = centred
                .broadcast_div(&(variance + f64::from(eps)).unwrap().sqrt().unwrap())
                .unwrap()
                .broadcast_mul(&p.get(1).unwrap())
                .unwrap()
                .broadcast_add(&p.get(2).unwrap())
                .unwrap();
            residual_layer_norm(&x, &residual, &parameters, eps).unwrap();
            let error = super::super::tests::max_error(&x, &expected);
            assert!(error < 1e-5, "{rows}x{features}: {error}");
        }
    }
}
