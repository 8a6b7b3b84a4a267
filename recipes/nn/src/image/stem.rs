//! The first convolution of a network: 3x3 with stride 2 over the three colours.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Activation, Padding, padding::Axis};
use crate::{
    host::{self, Output, Shared},
    simd::{Level, Vector, dispatch},
};

const KERNEL: usize = 3;
const COLOURS: usize = 3;
const STRIDE: usize = 2;
/// The inputs under one window.
const TAPS: usize = KERNEL * KERNEL * COLOURS;

/// A 3x3 convolution with stride 2 from three colours to any number of channels.
#[derive(Clone, Debug)]
pub struct Stem {
    /// `[TAPS, cout]`.
    weight: Tensor,
    /// `[cout]`.
    bias: Tensor,
    padding: Padding,
    activation: Activation,
}

impl Stem {
    /// From a weight `[cout, 3, 3, 3]` and a bias `[cout]`.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn new(
        weight: &Tensor,
        bias: &Tensor,
        padding: Padding,
        activation: Activation,
    ) -> Result<Self> {
        let cout = weight.dim(0)?;
        host::expect_shape("stem weight", weight, &[cout, COLOURS, KERNEL, KERNEL])?;
        host::expect_shape("stem bias", bias, &[cout])?;
        Ok(Self {
            weight: weight
                .permute((2, 3, 1, 0))?
                .reshape((TAPS, cout))?
                .contiguous()?,
            bias: bias.contiguous()?,
            padding,
            activation,
        })
    }

    /// `[n, h, w, 3]` -> `[n, oh, ow, cout]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device has no such operator.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }
}

impl CustomOp1 for Stem {
    fn name(&self) -> &'static str {
        "stem"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = host::values(storage, layout)?;
        let (n, h, w, colours) = layout.shape().dims4()?;
        if colours != COLOURS {
            bail!("stem: expected [n, h, w, 3], got {:?}", layout.dims())
        }
        let axis = |size| self.padding.axis(size, KERNEL, STRIDE);
        let (Some(rows), Some(columns)) = (axis(h), axis(w)) else {
            bail!("an image of {h} by {w} is too small for a 3x3 kernel")
        };
        host::with(&self.weight, |weight| {
            host::with(&self.bias, |bias| {
                let shape = (n, rows.out, columns.out, bias.len());
                let mut output = Output::new(n * rows.out * columns.out * bias.len());
                let convolution = Convolution {
                    x,
                    weight,
                    bias,
                    activation: self.activation,
                    rows,
                    columns,
                    output: output.shared(),
                };
                convolution.run(Level::detect(), n);
                // SAFETY: `run` writes every row of every image.
                Ok(unsafe { output.finish(shape) })
            })
        })
    }
}

struct Convolution<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    activation: Activation,
    rows: Axis,
    columns: Axis,
    output: Shared,
}

impl Convolution<'_> {
    fn run(&self, level: Level, images: usize) {
        (0..images * self.rows.out).into_par_iter().for_each(|row| {
            // SAFETY: the level is this processor's, and no two rows share an output.
            unsafe { run_row(level, self, row) };
        });
    }

    /// The inputs under the window of output `(row, ox)`, zeros outside the image.
    #[inline(always)]
    fn patch(&self, row: usize, ox: usize) -> [f32; TAPS] {
        let (first_ky, end_ky, y) = self.rows.taps(row % self.rows.out, KERNEL);
        let (first_kx, end_kx, x) = self.columns.taps(ox, KERNEL);
        let top = row / self.rows.out * self.rows.size + y;
        let mut patch = [0.0; TAPS];
        let width = (end_kx - first_kx) * COLOURS;
        for ky in first_ky..end_ky {
            let from = ((top + ky - first_ky) * self.columns.size + x) * COLOURS;
            let to = (ky * KERNEL + first_kx) * COLOURS;
            patch[to..to + width].copy_from_slice(&self.x[from..from + width]);
        }
        patch
    }
}

dispatch!(fn run_row(convolution: &Convolution<'_>, row: usize) = row_kernel);

/// Pixels computed together, so that a weight is loaded once for all of them.
const TILE: usize = 4;

#[inline(always)]
unsafe fn row_kernel<V: Vector>(convolution: &Convolution<'_>, row: usize) {
    let (columns, cout) = (convolution.columns.out, convolution.bias.len());
    let mut ox = 0;
    while ox < columns {
        // The last tile may go over the one before: the same values are written twice.
        let tile = TILE.min(columns);
        let start = ox.min(columns - tile);
        let mut patches = [[0.0; TAPS]; TILE];
        for (i, patch) in patches.iter_mut().enumerate().take(tile) {
            *patch = convolution.patch(row, start + i);
        }
        let mut channel = 0;
        while channel < cout {
            let count = V::LEN.min(cout - channel);
            // SAFETY: `count` channels from `channel` on exist in weight and bias, and in the output's pixels.
            unsafe {
                let mut sums = [V::load_first(convolution.bias.as_ptr().add(channel), count); TILE];
                for tap in 0..TAPS {
                    let weight = convolution.weight.as_ptr().add(tap * cout + channel);
                    let weight = if count == V::LEN {
                        V::load(weight)
                    } else {
                        V::load_first(weight, count)
                    };
                    for (sum, patch) in sums.iter_mut().zip(&patches) {
                        *sum = weight.mul_add(V::splat(patch[tap]), *sum);
                    }
                }
                for (i, sum) in sums.into_iter().enumerate().take(tile) {
                    let pixel = row * columns + start + i;
                    let to = convolution.output.at(pixel * cout + channel);
                    convolution.activation.apply(sum).store_first(to, count);
                }
            }
            channel += V::LEN;
        }
        ox += TILE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{assert_close, random};

    #[test]
    fn equals_candles_convolution_on_odd_shapes() {
        for (seed, shape) in [[1, 1, 1, 3], [2, 5, 8, 3], [1, 33, 18, 3], [1, 6, 40, 3]]
            .into_iter()
            .enumerate()
        {
            for cout in [1, 8, 19, 32] {
                for padding in [Padding::Symmetric(1), Padding::Same] {
                    let weight = random(&[cout, 3, 3, 3], seed as u32);
                    let bias = random(&[cout], 9 + seed as u32);
                    let x = random(&shape, 20 + seed as u32);
                    let stem = Stem::new(&weight, &bias, padding, Activation::None).unwrap();
                    let (top, bottom) = padding.around(shape[1], 3, 2);
                    let (left, right) = padding.around(shape[2], 3, 2);
                    let padded = x.permute((0, 3, 1, 2)).unwrap();
                    let padded = padded.pad_with_zeros(2, top, bottom).unwrap();
                    let padded = padded.pad_with_zeros(3, left, right).unwrap();
                    let expected = padded
                        .contiguous()
                        .unwrap()
                        .conv2d(&weight, 0, 2, 1, 1)
                        .unwrap();
                    let bias = bias.reshape((1, cout, 1, 1)).unwrap();
                    let expected = expected.broadcast_add(&bias).unwrap();
                    let expected = expected
                        .permute((0, 2, 3, 1))
                        .unwrap()
                        .contiguous()
                        .unwrap();
                    let what = format!("{shape:?} to {cout}, {padding:?}");
                    assert_close(&what, &stem.forward(&x).unwrap(), &expected, 1e-5);
                }
            }
        }
    }

    #[test]
    fn four_colours_are_refused() {
        let stem = Stem::new(
            &random(&[8, 3, 3, 3], 1),
            &random(&[8], 2),
            Padding::Same,
            Activation::Silu,
        )
        .unwrap();
        assert!(stem.forward(&random(&[1, 8, 8, 4], 3)).is_err());
    }
}
