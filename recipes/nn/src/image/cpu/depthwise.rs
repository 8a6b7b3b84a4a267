//! Depthwise convolution, 3x3 or 5x5: each channel with a filter of its own.
//!
//! The kernel computes a line of the output for a vector of channels, some pixels at a time: their sums stay in registers,
//! and are enough to keep the processor from waiting for any of them.

use candle_core::Result;

use super::dense;
use crate::{
    activation::Activation,
    aligned::Aligned,
    host,
    image::{Convolution, Window},
    matmul::PANEL,
    simd::{Level, Vector, dispatch, store_up_to},
};

#[derive(Debug)]
pub(crate) struct Depthwise {
    /// `[panels, k * k, PANEL]`, with zeros where the last panel is not full.
    weight: Aligned,
    /// `[panels, PANEL]`.
    bias: Aligned,
    channels: usize,
    pub(crate) kernel: usize,
    pub(crate) window: Window,
    pub(crate) activation: Activation,
}

impl Depthwise {
    /// From a weight `[c, 1, k, k]`, with `k` 3 or 5.
    pub(crate) fn new(layer: &Convolution, window: Window, activation: Activation) -> Result<Self> {
        let [channels, kernel] = layer.depthwise(window)?;
        let (panels, taps) = (channels.div_ceil(PANEL), kernel * kernel);
        let mut packed = Aligned::zeros(panels * taps * PANEL);
        host::with(&layer.weight.contiguous()?, |weight| {
            for (channel, filter) in weight.chunks_exact(taps).enumerate() {
                let panel = &mut packed.as_mut_slice()[channel / PANEL * taps * PANEL..];
                for (tap, weight) in filter.iter().enumerate() {
                    panel[tap * PANEL + channel % PANEL] = *weight;
                }
            }
            Ok(())
        })?;
        let mut bias = Aligned::zeros(panels * PANEL);
        bias.as_mut_slice()[..channels].copy_from_slice(&dense::bias(layer, channels)?);
        Ok(Self {
            weight: packed,
            bias,
            channels,
            kernel,
            window,
            activation,
        })
    }

    pub(crate) fn channels(&self) -> usize {
        self.channels
    }
}

/// A line of the output, and what it is computed from.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    pub(crate) layer: &'a Depthwise,
    /// The panel of channels.
    pub(crate) panel: usize,
    /// `[k][padded width][PANEL]`, the lines in any order: see `line_of`.
    pub(crate) ring: *const f32,
    /// Pixels of a line of the ring.
    pub(crate) width: usize,
    /// The taps, down, that lie inside the image.
    pub(crate) taps: (usize, usize),
    /// Where in the ring the line under the first of them is.
    pub(crate) first: usize,
    /// The output's first pixel, first channel of the panel.
    pub(crate) out: *mut f32,
    /// Its pixels.
    pub(crate) columns: usize,
    /// The output's sums over the line, for the panel's channels.
    pub(crate) sums: *mut f32,
}

impl Line<'_> {
    /// Computes it for the panel's channels.
    ///
    /// # Safety
    /// The processor has the level; the ring holds the lines, as wide as the windows of all columns reach; `out` and `sums`
    /// have room, and are nobody else's.
    pub(crate) unsafe fn compute(self, level: Level) {
        // SAFETY: as the caller's.
        unsafe {
            match (self.layer.kernel, self.layer.window.stride) {
                (3, 1) => line_3(level, self),
                (3, 2) => line_3_by_2(level, self),
                (5, 1) => line_5(level, self),
                (5, 2) => line_5_by_2(level, self),
                _ => unreachable!("kernel and stride were checked when the layer was made"),
            }
        }
    }

    /// Computes it with a kernel of `K` and a stride of `S`.
    #[inline(always)]
    unsafe fn all_channels<V: Vector, const K: usize, const S: usize>(&self) {
        let channels = PANEL.min(self.layer.channels - self.panel * PANEL);
        for column in (0..channels).step_by(V::LEN) {
            // SAFETY: as the caller's.
            unsafe { self.channels::<V, K, S>(column, V::LEN.min(channels - column)) };
        }
    }

    /// Computes it for a vector of channels, of which `count` are wanted.
    #[inline(always)]
    unsafe fn channels<V: Vector, const K: usize, const S: usize>(
        &self,
        column: usize,
        count: usize,
    ) {
        // SAFETY: as the caller's: the tiles are the line's pixels, each once.
        unsafe {
            let mut total = V::splat(0.0);
            let mut pixel = 0;
            while pixel + 6 <= self.columns {
                total = self.tile::<V, K, S, 6>((pixel, column, count), total);
                pixel += 6;
            }
            while pixel + 3 <= self.columns {
                total = self.tile::<V, K, S, 3>((pixel, column, count), total);
                pixel += 3;
            }
            while pixel < self.columns {
                total = self.tile::<V, K, S, 1>((pixel, column, count), total);
                pixel += 1;
            }
            store_up_to(total, self.sums.add(column), count);
        }
    }

    /// Computes `T` pixels, and adds them to the line's sums.
    #[inline(always)]
    unsafe fn tile<V: Vector, const K: usize, const S: usize, const T: usize>(
        &self,
        (pixel, column, count): (usize, usize, usize),
        mut total: V,
    ) -> V {
        let layer = self.layer;
        // SAFETY: as the caller's: line and weights hold the windows of these pixels.
        unsafe {
            let bias = V::load(
                layer
                    .bias
                    .as_slice()
                    .as_ptr()
                    .add(self.panel * PANEL + column),
            );
            let weight = layer.weight.as_slice().as_ptr();
            let weight = weight.add(self.panel * K * K * PANEL + column);
            let mut sums = [bias; T];
            let (first, end) = self.taps;
            for ky in first..end {
                let line = (self.first + ky - first) % K * self.width + pixel * S;
                let x = self.ring.add(line * PANEL + column);
                for kx in 0..K {
                    let weight = V::load(weight.add((ky * K + kx) * PANEL));
                    for (t, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(x.add((t * S + kx) * PANEL)).mul_add(weight, *sum);
                    }
                }
            }
            let out = self.out.add(pixel * layer.channels + column);
            for (t, sum) in sums.into_iter().enumerate() {
                let value: V = layer.activation.apply(sum);
                total = total.add(value);
                store_up_to(value, out.add(t * layer.channels), count);
            }
            total
        }
    }
}

macro_rules! kernels {
    ($($name:ident, $kernel:ident: $k:literal, $s:literal;)*) => {$(
        dispatch!(fn $name(line: Line<'_>) = $kernel);

        #[inline(always)]
        unsafe fn $kernel<V: Vector>(line: Line<'_>) {
            // SAFETY: as the caller's.
            unsafe { line.all_channels::<V, $k, $s>() }
        }
    )*};
}

kernels! {
    line_3, kernel_3: 3, 1;
    line_3_by_2, kernel_3_by_2: 3, 2;
    line_5, kernel_5: 5, 1;
    line_5_by_2, kernel_5_by_2: 5, 2;
}
