//! Pointwise (1x1) convolution: one matrix product over all pixels ([`crate::matmul`]), with the squeeze-excite's gates
//! before it and bias, activation and residual behind.

use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Result, Shape, Tensor, bail};

use super::Activation;
use crate::{
    host,
    matmul::{Gates, Matrix, Product},
    simd::Level,
};

/// A pointwise convolution, or a linear layer: `activation(x w + bias)`.
#[derive(Clone, Debug)]
pub struct Pointwise {
    matrix: Matrix,
    /// `[cout]`.
    bias: Tensor,
    activation: Activation,
}

/// What else a pointwise convolution takes in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// `[n, cin]`: multiplies each image's input channels (a squeeze-excite's gates).
    pub gates: Option<&'a Tensor>,
    /// Of the output's shape: added last.
    pub residual: Option<&'a Tensor>,
}

impl Pointwise {
    /// From a weight `[cout, cin]` (or `[cout, cin, 1, 1]`) and a bias `[cout]`.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn new(weight: &Tensor, bias: &Tensor, activation: Activation) -> Result<Self> {
        let weight = weight.flatten_from(1)?;
        let (cout, _) = weight.dims2()?;
        host::expect_shape("bias", bias, &[cout])?;
        Ok(Self {
            matrix: Matrix::new(&weight)?,
            bias: bias.contiguous()?,
            activation,
        })
    }

    /// `[n, .., cin]` -> `[n, .., cout]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device has no such operator.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Extras::default())
    }

    /// As [`Self::forward`], with gates and a residual.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_with(&self, x: &Tensor, extras: Extras<'_>) -> Result<Tensor> {
        let cin = self.matrix.inputs();
        if x.rank() < 2 || x.dim(D::Minus1)? != cin {
            bail!("pointwise: expected [n, .., {cin}], got {:?}", x.dims())
        }
        if let Some(gates) = extras.gates {
            host::expect_shape("gates", gates, &[x.dim(0)?, cin])?;
        }
        if let Some(residual) = extras.residual {
            host::expect_shape("residual", residual, &self.output_shape(x.dims()))?;
        }
        x.apply_op1_no_bwd(&Call {
            layer: self,
            extras,
        })
    }

    fn output_shape(&self, input: &[usize]) -> Vec<usize> {
        let mut shape = input.to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.matrix.outputs();
        }
        shape
    }
}

struct Call<'a> {
    layer: &'a Pointwise,
    extras: Extras<'a>,
}

impl CustomOp1 for Call<'_> {
    fn name(&self) -> &'static str {
        "pointwise"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let layer = self.layer;
        let x = host::values(storage, layout)?;
        let shape = layer.output_shape(layout.dims()).into();
        let dims = layout.dims();
        let rows = dims[..dims.len() - 1].iter().product();
        let rows_of_image = dims[1..dims.len() - 1].iter().product();
        host::with(&layer.bias, |bias| {
            host::with_option(self.extras.gates, |gates| {
                host::with_option(self.extras.residual, |residual| {
                    let product = Product {
                        bias: Some(bias),
                        activation: layer.activation,
                        gates: gates.map(|values| Gates {
                            values,
                            rows: rows_of_image,
                        }),
                        residual,
                        ..Product::new(x, rows, &layer.matrix)
                    };
                    Ok((CpuStorage::F32(product.compute(Level::detect())), shape))
                })
            })
        })
    }
}

/// A pointwise convolution with made-up weights, for timing.
pub(super) fn made_up(cin: usize, cout: usize, activation: Activation) -> Result<Pointwise> {
    let device = Device::Cpu;
    Pointwise::new(
        &Tensor::randn(0f32, 0.1, (cout, cin), &device)?,
        &Tensor::zeros(cout, candle_core::DType::F32, &device)?,
        activation,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{assert_close, flat, random};

    fn naive(layer: (&Tensor, &Tensor, Activation), x: &Tensor, extras: Extras<'_>) -> Tensor {
        let (cout, cin) = layer.0.dims2().unwrap();
        let n = x.dim(0).unwrap();
        let x = match extras.gates {
            Some(gates) => x
                .broadcast_mul(&gates.reshape((n, 1, 1, cin)).unwrap())
                .unwrap(),
            None => x.clone(),
        };
        let rows: Vec<f32> = flat(&x);
        let (weight, bias) = (flat(layer.0), flat(layer.1));
        let mut out = Vec::new();
        for row in rows.chunks_exact(cin) {
            for (weight, bias) in weight.chunks_exact(cin).zip(&bias) {
                let sum: f32 = row.iter().zip(weight).map(|(a, b)| a * b).sum();
                out.push(layer.2.of(sum + bias));
            }
        }
        let mut shape = x.dims().to_vec();
        shape[3] = cout;
        let out = Tensor::from_vec(out, shape, &Device::Cpu).unwrap();
        match extras.residual {
            Some(residual) => (out + residual).unwrap(),
            None => out,
        }
    }

    #[test]
    fn equals_the_naive_product_on_odd_shapes() {
        let shapes = [
            ([1, 1, 1, 1], 1),
            ([2, 3, 5, 7], 9),
            ([1, 9, 9, 24], 88),
            ([3, 4, 4, 17], 33),
            ([1, 13, 11, 40], 144),
            ([2, 7, 7, 96], 65),
        ];
        for (seed, (shape, cout)) in shapes.into_iter().enumerate() {
            for activation in [Activation::None, Activation::Relu6, Activation::Silu] {
                let seed = seed as u32 * 10;
                let (weight, bias) = (random(&[cout, shape[3]], seed), random(&[cout], seed + 1));
                let x = random(&shape, seed + 2);
                let gates = random(&[shape[0], shape[3]], seed + 3);
                let residual = random(&[shape[0], shape[1], shape[2], cout], seed + 4);
                let layer = Pointwise::new(&weight, &bias, activation).unwrap();
                for extras in [
                    Extras::default(),
                    Extras {
                        gates: Some(&gates),
                        residual: Some(&residual),
                    },
                ] {
                    let got = layer.forward_with(&x, extras).unwrap();
                    let expected = naive((&weight, &bias, activation), &x, extras);
                    let what = format!("{shape:?} to {cout}, {activation:?}");
                    assert_close(&what, &got, &expected, 1e-4);
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let layer = made_up(4, 6, Activation::None).unwrap();
        assert!(layer.forward(&random(&[1, 2, 2, 5], 1)).is_err());
        let gates = random(&[2, 4], 1);
        let extras = Extras {
            gates: Some(&gates),
            residual: None,
        };
        assert!(
            layer
                .forward_with(&random(&[1, 2, 2, 4], 1), extras)
                .is_err()
        );
    }
}
