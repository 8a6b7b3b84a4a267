//! A linear layer over tokens, such as a classifier: small, and in f32 whatever the encoder computes in.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::{
    activation::Activation,
    host,
    matmul::{Matrix, Product},
    simd::{Level, Precision},
};

/// `activation(x W^T + b)`, in one pass.
#[derive(Clone, Debug)]
pub struct Linear {
    matrix: Matrix,
    bias: Vec<f32>,
}

impl Linear {
    /// From a state dict's weight `[out, in]` and bias `[out]`.
    ///
    /// # Errors
    /// The weight is no matrix, the bias does not fit it, or they are not on the CPU.
    pub fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let matrix = Matrix::new(weight, Precision::F32)?;
        host::expect_shape("linear: a bias", bias, &[matrix.outputs()])?;
        let bias = host::to_vec(bias)?;
        Ok(Self { matrix, bias })
    }

    /// `[rows, in]` to `[rows, out]`.
    ///
    /// # Errors
    /// `x` has another width, is not contiguous f32, or is on a device that has no such operator.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let (_, width) = x.dims2()?;
        if width != self.matrix.inputs() {
            bail!(
                "linear: expected [rows, {}], got {:?}",
                self.matrix.inputs(),
                x.dims()
            )
        }
        x.apply_op1_no_bwd(&Call {
            layer: self,
            activation,
        })
    }
}

struct Call<'a> {
    layer: &'a Linear,
    activation: Activation,
}

impl CustomOp1 for Call<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = host::values(storage, layout)?;
        let (rows, _) = layout.shape().dims2()?;
        let matrix = &self.layer.matrix;
        let product = Product {
            bias: Some(&self.layer.bias),
            activation: self.activation,
            ..Product::new(x, rows, matrix)
        };
        let values = product.compute(Level::detect());
        Ok((CpuStorage::F32(values), (rows, matrix.outputs()).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn bias_and_gelu_match_candle() {
        // More rows than one task takes, and widths that are no multiple of anything.
        let (rows, inputs, outputs) = (107, 23, 37);
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        let (x, weight, bias) = (
            random(&[rows, inputs]),
            random(&[outputs, inputs]),
            random(&[outputs]),
        );
        let linear = Linear::new(&weight, &bias).unwrap();
        let [x64, weight, bias] = [&x, &weight, &bias].map(|t| t.to_dtype(DType::F64).unwrap());
        let sum = (x64
            .matmul(&weight.t().unwrap())
            .unwrap()
            .broadcast_add(&bias))
        .unwrap();
        for (activation, expected) in [
            (Activation::None, sum.clone()),
            (Activation::Gelu, sum.gelu_erf().unwrap()),
        ] {
            let got = linear.forward(&x, activation).unwrap();
            let error = super::super::tests::max_error(&got, &expected);
            assert!(error < 1e-5, "{activation:?}: {error}");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        assert!(Linear::new(&zeros(&[4, 2]), &zeros(&[3])).is_err());
        assert!(Linear::new(&zeros(&[4]), &zeros(&[4])).is_err());
        let linear = Linear::new(&zeros(&[4, 2]), &zeros(&[4])).unwrap();
        assert!(linear.forward(&zeros(&[3, 3]), Activation::None).is_err());
        let transposed = zeros(&[2, 3]).t().unwrap();
        assert!(linear.forward(&transposed, Activation::None).is_err());
        let nothing = linear.forward(&zeros(&[0, 2]), Activation::Gelu).unwrap();
        assert_eq!(nothing.dims(), [0, 4]);
    }
}
