//! Depthwise convolution, 3x3 or 5x5: each channel with a filter of its own.
//!
//! Computed directly, a vector of channels at a time: its filter stays in registers while it moves along a row of the
//! output. The sums over each row, which a squeeze-excite needs, fall out on the way.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Activation, Padding, padding::Axis};
use crate::{
    host::{self, Output, Shared},
    simd::{Level, Vector, dispatch},
};

/// A depthwise convolution: `activation(x * w + bias)`, each channel alone.
#[derive(Clone, Debug)]
pub struct Depthwise {
    /// `[k * k, c]`.
    weight: Tensor,
    /// `[c]`.
    bias: Tensor,
    kernel: usize,
    stride: usize,
    padding: Padding,
    activation: Activation,
}

/// How a depthwise convolution moves over the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Pixels from one output to the next, both ways.
    pub stride: usize,
    /// The zeros around the image.
    pub padding: Padding,
}

impl Depthwise {
    /// From a weight `[c, 1, k, k]`, with `k` 3 or 5, and a bias `[c]`.
    ///
    /// # Errors
    /// The shapes do not fit together, or the kernel has another size.
    pub fn new(
        weight: &Tensor,
        bias: &Tensor,
        window: Window,
        activation: Activation,
    ) -> Result<Self> {
        let (channels, one, kernel, width) = weight.dims4()?;
        if one != 1 || kernel != width || !matches!(kernel, 3 | 5) || window.stride == 0 {
            bail!(
                "depthwise: expected a weight [c, 1, 3, 3] or [c, 1, 5, 5], got {:?}",
                weight.dims()
            )
        }
        host::expect_shape("bias", bias, &[channels])?;
        Ok(Self {
            weight: weight
                .reshape((channels, kernel * kernel))?
                .t()?
                .contiguous()?,
            bias: bias.contiguous()?,
            kernel,
            stride: window.stride,
            padding: window.padding,
            activation,
        })
    }

    /// `[n, h, w, c]` -> `[n, oh, ow, c]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device has no such operator.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.forward_with_row_sums(x)?.0)
    }

    /// `[n, h, w, c]` -> `[n, oh, ow, c]`, and the sums over each row of it, `[n, oh, c]`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_with_row_sums(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (n, h, w, c) = x.dims4()?;
        host::expect_shape("depthwise bias", &self.bias, &[c])?;
        let (rows, columns) = self.axes(h, w)?;
        // An operator has one output: the sums lie behind the image.
        let both = x.apply_op1_no_bwd(self)?;
        let pixels = n * rows.out * columns.out * c;
        let sums = both.narrow(0, pixels, n * rows.out * c)?;
        Ok((
            both.narrow(0, 0, pixels)?
                .reshape((n, rows.out, columns.out, c))?,
            sums.reshape((n, rows.out, c))?,
        ))
    }

    fn axes(&self, height: usize, width: usize) -> Result<(Axis, Axis)> {
        let axis = |size| self.padding.axis(size, self.kernel, self.stride);
        match (axis(height), axis(width)) {
            (Some(rows), Some(columns)) => Ok((rows, columns)),
            _ => bail!(
                "an image of {height} by {width} is too small for a {0}x{0} kernel",
                self.kernel
            ),
        }
    }
}

impl CustomOp1 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = host::values(storage, layout)?;
        let (n, h, w, c) = layout.shape().dims4()?;
        let (rows, columns) = self.axes(h, w)?;
        let pixels = n * rows.out * columns.out * c;
        let total = pixels + n * rows.out * c;
        host::with(&self.weight, |weight| {
            host::with(&self.bias, |bias| {
                let mut output = Output::new(total);
                let convolution = Convolution {
                    x,
                    weight,
                    bias,
                    activation: self.activation,
                    channels: c,
                    rows,
                    columns,
                    output: output.shared(),
                    sums_at: pixels,
                };
                convolution.run(Level::detect(), self.kernel, n);
                // SAFETY: `run` writes every row of every image, and its sums.
                Ok(unsafe { output.finish(total) })
            })
        })
    }
}

struct Convolution<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    activation: Activation,
    channels: usize,
    rows: Axis,
    columns: Axis,
    output: Shared,
    /// Where the row sums begin in the output.
    sums_at: usize,
}

impl Convolution<'_> {
    fn run(&self, level: Level, kernel: usize, images: usize) {
        (0..images * self.rows.out).into_par_iter().for_each(|row| {
            // SAFETY: the level is this processor's, every slice has the length that its shape says, and no two
            // rows share an output.
            unsafe {
                match kernel {
                    3 => row_of_3(level, self, row),
                    _ => row_of_5(level, self, row),
                }
            }
        });
    }
}

dispatch!(fn row_of_3(convolution: &Convolution<'_>, row: usize) = row_kernel_3);
dispatch!(fn row_of_5(convolution: &Convolution<'_>, row: usize) = row_kernel_5);

#[inline(always)]
unsafe fn row_kernel_3<V: Vector>(convolution: &Convolution<'_>, row: usize) {
    // SAFETY: the caller's promise.
    unsafe { row_kernel::<V, 3>(convolution, row) }
}

#[inline(always)]
unsafe fn row_kernel_5<V: Vector>(convolution: &Convolution<'_>, row: usize) {
    // SAFETY: the caller's promise.
    unsafe { row_kernel::<V, 5>(convolution, row) }
}

/// One row of the output, `row` counted through all images.
#[inline(always)]
unsafe fn row_kernel<V: Vector, const K: usize>(convolution: &Convolution<'_>, row: usize) {
    let mut channel = 0;
    while channel < convolution.channels {
        let count = V::LEN.min(convolution.channels - channel);
        // SAFETY: `count` channels from `channel` on exist; a full vector is used only where it is full.
        unsafe {
            if count == V::LEN {
                channels_of_row::<V, K, false>(convolution, row, channel, count);
            } else {
                channels_of_row::<V, K, true>(convolution, row, channel, count);
            }
        }
        channel += V::LEN;
    }
}

/// One vector of channels of one row; with `PARTIAL` only its first `count` lanes exist.
#[inline(always)]
unsafe fn channels_of_row<V: Vector, const K: usize, const PARTIAL: bool>(
    convolution: &Convolution<'_>,
    row: usize,
    channel: usize,
    count: usize,
) {
    let Convolution {
        channels,
        rows,
        columns,
        activation,
        ..
    } = *convolution;
    let (first_ky, end_ky, y) = rows.taps(row % rows.out, K);
    let image = row / rows.out * rows.size * columns.size * channels;
    // SAFETY: `taps` keeps every pixel inside the image, and the lanes inside its channels.
    unsafe {
        let load = |from: *const f32| {
            if PARTIAL {
                V::load_first(from, count)
            } else {
                V::load(from)
            }
        };
        let store = |value: V, to: *mut f32| {
            if PARTIAL {
                value.store_first(to, count)
            } else {
                value.store(to)
            }
        };
        let bias = load(convolution.bias.as_ptr().add(channel));
        let mut weight = [[bias; K]; K];
        for (tap, weight) in weight.as_flattened_mut().iter_mut().enumerate() {
            *weight = load(convolution.weight.as_ptr().add(tap * channels + channel));
        }
        let x = convolution.x.as_ptr().add(image + channel);
        let line = columns.size * channels;
        let out = convolution
            .output
            .at((row * columns.out) * channels + channel);
        let mut total = V::splat(0.0);
        for ox in 0..columns.out {
            let (first_kx, end_kx, left) = columns.taps(ox, K);
            let window = x.add(y * line + left * channels);
            let mut sum = bias;
            if end_ky - first_ky == K && end_kx - first_kx == K {
                for (ky, weight) in weight.iter().enumerate() {
                    for (kx, weight) in weight.iter().enumerate() {
                        let pixel = window.add(ky * line + kx * channels);
                        sum = load(pixel).mul_add(*weight, sum);
                    }
                }
            } else {
                for ky in first_ky..end_ky {
                    for kx in first_kx..end_kx {
                        let pixel = (ky - first_ky) * line + (kx - first_kx) * channels;
                        let tap = (ky * K + kx) * channels + channel;
                        let weight = load(convolution.weight.as_ptr().add(tap));
                        sum = load(window.add(pixel)).mul_add(weight, sum);
                    }
                }
            }
            let value = activation.apply(sum);
            total = total.add(value);
            store(value, out.add(ox * channels));
        }
        store(
            total,
            convolution
                .output
                .at(convolution.sums_at + row * channels + channel),
        );
    }
}

/// A depthwise convolution with made-up weights, for timing.
pub(super) fn made_up(channels: usize, kernel: usize, stride: usize) -> Result<Depthwise> {
    let device = Device::Cpu;
    Depthwise::new(
        &Tensor::randn(0f32, 0.1, (channels, 1, kernel, kernel), &device)?,
        &Tensor::zeros(channels, candle_core::DType::F32, &device)?,
        Window {
            stride,
            padding: Padding::Same,
        },
        Activation::Silu,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{assert_close, flat, random};

    /// By candle's own operator, on an image padded by hand, channels first.
    fn candle(layer: (&Tensor, &Tensor), window: Window, x: &Tensor) -> Tensor {
        let (_, h, w, c) = x.dims4().unwrap();
        let k = layer.0.dim(2).unwrap();
        let (top, bottom) = window.padding.around(h, k, window.stride);
        let (left, right) = window.padding.around(w, k, window.stride);
        let x = x.permute((0, 3, 1, 2)).unwrap();
        let x = x.pad_with_zeros(2, top, bottom).unwrap();
        let x = x
            .pad_with_zeros(3, left, right)
            .unwrap()
            .contiguous()
            .unwrap();
        let y = x.conv2d(layer.0, 0, window.stride, 1, c).unwrap();
        let y = y
            .broadcast_add(&layer.1.reshape((1, c, 1, 1)).unwrap())
            .unwrap();
        y.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
    }

    #[test]
    fn equals_candles_convolution_on_odd_shapes() {
        let shapes = [
            [1, 1, 1, 1],
            [2, 5, 7, 8],
            [1, 9, 6, 19],
            [3, 2, 3, 33],
            [1, 16, 16, 48],
            [1, 4, 11, 70],
        ];
        for (seed, shape) in shapes.into_iter().enumerate() {
            for kernel in [3, 5] {
                for stride in [1, 2] {
                    for padding in [Padding::Symmetric(kernel / 2), Padding::Same] {
                        let window = Window { stride, padding };
                        let weight = random(&[shape[3], 1, kernel, kernel], seed as u32);
                        let bias = random(&[shape[3]], 50 + seed as u32);
                        let x = random(&shape, 100 + seed as u32);
                        let layer =
                            Depthwise::new(&weight, &bias, window, Activation::None).unwrap();
                        let (got, sums) = layer.forward_with_row_sums(&x).unwrap();
                        let expected = candle((&weight, &bias), window, &x);
                        let what = format!("{shape:?}, kernel {kernel}, {window:?}");
                        assert_close(&what, &got, &expected, 1e-5);
                        assert_close(&what, &sums, &expected.sum(2).unwrap(), 1e-4);
                    }
                }
            }
        }
    }

    #[test]
    fn activations_are_applied_and_summed() {
        let (weight, bias) = (random(&[20, 1, 3, 3], 1), random(&[20], 2));
        let window = Window {
            stride: 1,
            padding: Padding::Same,
        };
        let x = random(&[2, 6, 5, 20], 3);
        let plain = candle((&weight, &bias), window, &x);
        for activation in [Activation::Relu6, Activation::Silu] {
            let expected: Vec<f32> = flat(&plain).iter().map(|&x| activation.of(x)).collect();
            let expected = Tensor::from_vec(expected, plain.dims(), &Device::Cpu).unwrap();
            let layer = Depthwise::new(&weight, &bias, window, activation).unwrap();
            let (got, sums) = layer.forward_with_row_sums(&x).unwrap();
            assert_close("values", &got, &expected, 1e-5);
            assert_close("sums", &sums, &expected.sum(2).unwrap(), 1e-4);
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same() {
        let (weight, bias) = (random(&[37, 1, 5, 5], 1), random(&[37], 2));
        let x = random(&[1, 7, 6, 37], 3);
        let window = Window {
            stride: 2,
            padding: Padding::Symmetric(2),
        };
        let layer = Depthwise::new(&weight, &bias, window, Activation::Silu).unwrap();
        let expected = layer.forward(&x).unwrap();
        let (rows, columns) = layer.axes(7, 6).unwrap();
        let pixels = rows.out * columns.out * 37;
        for level in Level::all() {
            let mut output = Output::new(pixels + rows.out * 37);
            let (x, weight, bias) = (flat(&x), flat(&layer.weight), flat(&bias));
            Convolution {
                x: &x,
                weight: &weight,
                bias: &bias,
                activation: Activation::Silu,
                channels: 37,
                rows,
                columns,
                output: output.shared(),
                sums_at: pixels,
            }
            .run(level, 5, 1);
            // SAFETY: `run` writes every value.
            let (storage, _) = unsafe { output.finish(pixels + rows.out * 37) };
            let values = storage.as_slice::<f32>().unwrap()[..pixels].to_vec();
            let got = Tensor::from_vec(values, expected.dims(), &Device::Cpu).unwrap();
            assert_close(&format!("{level:?}"), &got, &expected, 1e-5);
        }
    }
}
