//! A linear layer's bias and its activation, in one pass over the product.
//!
//! The GELU is the exact one, `x/2 (1 + erf(x / sqrt 2))`. `erf` is the rational approximation that Eigen and others
//! use for f32: an odd polynomial over an even one on `[-4, 4]`, past which `erf` is ±1 to within f32. It has no
//! branch, so that it vectorises.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use super::{
    simd::{TASK, dispatch, mul_add},
    storage::{check, slice, slice_mut},
};

/// What follows a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// The exact GELU, by the error function.
    Gelu,
}

/// Adds `bias` `[features]` to `x` `[rows, features]` and applies `activation`, in place.
///
/// # Errors
/// The shapes do not fit, or a tensor is not contiguous f32.
pub fn bias_activation(x: &Tensor, bias: &Tensor, activation: Activation) -> Result<()> {
    let (_, features) = x.dims2()?;
    check("bias_activation", "a bias", bias, &[features])?;
    x.inplace_op2(bias, &BiasActivation(activation))
}

struct BiasActivation(Activation);

impl InplaceOp2 for BiasActivation {
    fn name(&self) -> &'static str {
        "bias_activation"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let bias = slice(self.name(), bias, bias_layout)?;
        let x = slice_mut(self.name(), x, x_layout)?;
        bias_activation_cpu(x, bias, self.0);
        Ok(())
    }
}

/// The kernel: rows of `bias.len()` elements, shared out over rayon's threads.
pub(super) fn bias_activation_cpu(x: &mut [f32], bias: &[f32], activation: Activation) {
    let rows = (TASK / bias.len().max(1)).max(1);
    let add: fn(&mut [f32], &[f32]) = match activation {
        Activation::Identity => add_bias,
        Activation::Gelu => add_bias_gelu,
    };
    x.par_chunks_mut(rows * bias.len().max(1))
        .for_each(|rows| add(rows, bias));
}

dispatch! { fn add_bias(rows: &mut [f32], bias: &[f32]) = add_bias_kernel }
dispatch! { fn add_bias_gelu(rows: &mut [f32], bias: &[f32]) = add_bias_gelu_kernel }

#[inline(always)]
fn add_bias_kernel<const FMA: bool>(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (x, b) in row.iter_mut().zip(bias) {
            *x += b;
        }
    }
}

#[inline(always)]
fn add_bias_gelu_kernel<const FMA: bool>(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (x, b) in row.iter_mut().zip(bias) {
            *x = gelu::<FMA>(*x + b);
        }
    }
}

#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    let half = 0.5 * x;
    mul_add::<FMA>(half, erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    const NUMERATOR: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const DENOMINATOR: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_5e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ];
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut above = NUMERATOR[0];
    for coefficient in &NUMERATOR[1..] {
        above = mul_add::<FMA>(above, square, *coefficient);
    }
    let mut below = DENOMINATOR[0];
    for coefficient in &DENOMINATOR[1..] {
        below = mul_add::<FMA>(below, square, *coefficient);
    }
    x * above / below
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    /// `erf` by its Maclaurin series in f64, which converges fast enough up to 5.
    fn exact_erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        (sum * 2.0 / std::f64::consts::PI.sqrt()).clamp(-1.0, 1.0)
    }

    #[test]
    fn erf_is_within_a_millionth() {
        for i in -50_000..=50_000 {
            let x = i as f32 * 1e-4;
            let exact = exact_erf(f64::from(x));
            for got in [erf::<true>(x), erf::<false>(x)] {
                assert!((f64::from(got) - exact).abs() < 1e-6, "{x}: {got} {exact}");
            }
        }
        assert_eq!(erf::<true>(1e9), -erf::<true>(-1e9));
    }

    #[test]
    fn bias_and_gelu_match_candle() {
        // More rows than one task takes, and a width that is no multiple of the vector length.
        let (rows, width) = (700, 37);
        let x = Tensor::randn(0f32, 3.0, (rows, width), &Device::Cpu).unwrap();
        let bias = Tensor::randn(0f32, 1.0, width, &Device::Cpu).unwrap();
        for activation in [Activation::Identity, Activation::Gelu] {
            let sum = x.broadcast_add(&bias).unwrap();
            let expected = match activation {
                Activation::Identity => sum,
                Activation::Gelu => sum.to_dtype(DType::F64).unwrap().gelu_erf().unwrap(),
            };
            let got = x.copy().unwrap();
            bias_activation(&got, &bias, activation).unwrap();
            let error = super::super::tests::max_error(&got, &expected);
            assert!(error < 2e-6, "{activation:?}: {error}");
        }
    }

    #[test]
    fn a_bias_of_another_width_is_refused() {
        let x = Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
        let bias = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        assert!(bias_activation(&x, &bias, Activation::Gelu).is_err());
    }
}
