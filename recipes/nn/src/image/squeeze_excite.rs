//! Squeeze-excite: a gate between 0 and 1 for each channel of an image, from the means of all its channels
//! (Hu et al., "Squeeze-and-Excitation Networks").
//!
//! Only the gates are computed here. Multiplying them in would be one more pass over the image, so the pointwise
//! convolution that follows takes them along ([`super::Extras`]).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::host;

/// The two small layers of a squeeze-excite: reduce with SiLU, expand with a sigmoid.
#[derive(Clone, Debug)]
pub struct SqueezeExcite {
    /// `[s, c]`.
    reduce: Tensor,
    /// `[s]`.
    reduce_bias: Tensor,
    /// `[s, c]`: the layer's weight, transposed.
    expand: Tensor,
    /// `[c]`.
    expand_bias: Tensor,
}

impl SqueezeExcite {
    /// From the reducing layer's weight `[s, c]` and bias `[s]`, and the expanding one's `[c, s]` and `[c]`; weights
    /// may also be those of 1x1 convolutions.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn new(reduce: (&Tensor, &Tensor), expand: (&Tensor, &Tensor)) -> Result<Self> {
        let weight = reduce.0.flatten_from(1)?;
        let (squeezed, channels) = weight.dims2()?;
        let back = expand.0.flatten_from(1)?;
        host::expect_shape(
            "squeeze-excite's expanding weight",
            &back,
            &[channels, squeezed],
        )?;
        host::expect_shape("squeeze-excite's reducing bias", reduce.1, &[squeezed])?;
        host::expect_shape("squeeze-excite's expanding bias", expand.1, &[channels])?;
        Ok(Self {
            reduce: weight.contiguous()?,
            reduce_bias: reduce.1.contiguous()?,
            expand: back.t()?.contiguous()?,
            expand_bias: expand.1.contiguous()?,
        })
    }

    /// The gates `[n, c]` of images of `pixels` pixels each, from the sums over their rows, `[n, rows, c]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device has no such operator.
    pub fn gates(&self, row_sums: &Tensor, pixels: usize) -> Result<Tensor> {
        let (n, rows, _) = row_sums.dims3()?;
        let channels = self.expand_bias.elem_count();
        host::expect_shape("squeeze-excite's sums", row_sums, &[n, rows, channels])?;
        row_sums.apply_op1_no_bwd(&Call {
            layer: self,
            pixels,
        })
    }
}

struct Call<'a> {
    layer: &'a SqueezeExcite,
    pixels: usize,
}

impl CustomOp1 for Call<'_> {
    fn name(&self) -> &'static str {
        "squeeze-excite"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let sums = host::values(storage, layout)?;
        let (n, rows, channels) = layout.shape().dims3()?;
        let layer = self.layer;
        let mut gates = vec![0.0; n * channels];
        host::with(&layer.reduce, |reduce| {
            host::with(&layer.reduce_bias, |reduce_bias| {
                host::with(&layer.expand, |expand| {
                    host::with(&layer.expand_bias, |expand_bias| {
                        let weights = Weights {
                            reduce,
                            reduce_bias,
                            expand,
                            expand_bias,
                        };
                        gates
                            .par_chunks_exact_mut(channels)
                            .zip(sums.par_chunks_exact(rows * channels))
                            .for_each(|(gates, sums)| weights.one(sums, self.pixels, gates));
                        Ok(())
                    })
                })
            })
        })?;
        Ok((CpuStorage::F32(gates), (n, channels).into()))
    }
}

struct Weights<'a> {
    reduce: &'a [f32],
    reduce_bias: &'a [f32],
    expand: &'a [f32],
    expand_bias: &'a [f32],
}

impl Weights<'_> {
    /// The gates of one image. A thousandth of the network's work: left to the compiler.
    fn one(&self, sums: &[f32], pixels: usize, gates: &mut [f32]) {
        let channels = gates.len();
        let mut means = vec![0.0f32; channels];
        for row in sums.chunks_exact(channels) {
            means
                .iter_mut()
                .zip(row)
                .for_each(|(mean, sum)| *mean += sum);
        }
        let share = 1.0 / pixels as f32;
        means.iter_mut().for_each(|mean| *mean *= share);
        gates.copy_from_slice(self.expand_bias);
        let rows = self
            .reduce
            .chunks_exact(channels)
            .zip(self.expand.chunks_exact(channels));
        for ((reduce, expand), bias) in rows.zip(self.reduce_bias) {
            let sum = dot(&means, reduce) + bias;
            let squeezed = sum / (1.0 + (-sum).exp());
            gates
                .iter_mut()
                .zip(expand)
                .for_each(|(gate, weight)| *gate += squeezed * weight);
        }
        gates
            .iter_mut()
            .for_each(|gate| *gate = 1.0 / (1.0 + (-*gate).exp()));
    }
}

/// In sixteen partial sums, which the compiler keeps in vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{assert_close, random};

    #[test]
    fn equals_mean_and_two_linear_layers() {
        for (n, h, w, c, s) in [(1, 1, 1, 1, 1), (2, 3, 5, 24, 4), (3, 2, 2, 37, 9)] {
            let x = random(&[n, h, w, c], 1);
            let (reduce, reduce_bias) = (random(&[s, c, 1, 1], 2), random(&[s], 3));
            let (expand, expand_bias) = (random(&[c, s, 1, 1], 4), random(&[c], 5));
            let layer =
                SqueezeExcite::new((&reduce, &reduce_bias), (&expand, &expand_bias)).unwrap();
            let got = layer.gates(&x.sum(2).unwrap(), h * w).unwrap();

            let means = x.mean((1, 2)).unwrap();
            let squeezed = means
                .matmul(&reduce.reshape((s, c)).unwrap().t().unwrap())
                .unwrap()
                .broadcast_add(&reduce_bias)
                .unwrap()
                .silu()
                .unwrap();
            let expanded = squeezed
                .matmul(&expand.reshape((c, s)).unwrap().t().unwrap())
                .unwrap()
                .broadcast_add(&expand_bias)
                .unwrap();
            let expected = candle_nn::ops::sigmoid(&expanded).unwrap();
            assert_close(&format!("{c} channels"), &got, &expected, 1e-5);
        }
    }
}
