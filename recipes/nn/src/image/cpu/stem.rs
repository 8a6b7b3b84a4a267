//! The first convolution: the pixels under each window side by side, and a matrix product of them, a line of the image at
//! a time so that they stay in the nearest cache.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Size, dense::Dense};
use crate::{
    host,
    image::{Activation, Convolution, Padding, padding::Axis},
    simd::{Level, Precision},
    workspace::with_thread_memory,
};

const KERNEL: usize = 3;
pub(super) const COLOURS: usize = 3;
const STRIDE: usize = 2;
/// A line of a window.
const LINE: usize = KERNEL * COLOURS;
/// All of a window.
const TAPS: usize = KERNEL * LINE;

#[derive(Debug)]
pub(super) struct Stem {
    dense: Dense,
    padding: Padding,
}

impl Stem {
    /// Always in f32: its inputs are few, and all that follows hangs on them.
    pub(super) fn new(
        layer: &Convolution,
        padding: Padding,
        activation: Activation,
    ) -> Result<Self> {
        let shape = [layer.weight.dim(0)?, COLOURS, KERNEL, KERNEL];
        host::expect_shape("stem's weight", &layer.weight, &shape)?;
        let weight: Tensor = layer.weight.permute((0, 2, 3, 1))?.contiguous()?;
        let layer = Convolution {
            weight,
            bias: layer.bias.clone(),
        };
        Ok(Self {
            dense: Dense::new(&layer, Some(TAPS), activation, Precision::F32)?,
            padding,
        })
    }

    pub(super) fn channels(&self) -> usize {
        self.dense.outputs()
    }

    pub(super) fn output(&self, size: Size) -> Result<Size> {
        let [rows, columns] = self.axes(size)?;
        Ok(Size {
            height: rows.out,
            width: columns.out,
        })
    }

    fn axes(&self, size: Size) -> Result<[Axis; 2]> {
        self.padding.axes(size, KERNEL, STRIDE)
    }

    /// `[images, height, width, 3]` -> `[images, out height, out width, channels]`.
    pub(super) fn forward(
        &self,
        level: Level,
        pixels: &[f32],
        (images, size): (usize, Size),
        out: &mut [f32],
    ) -> Result<()> {
        let [rows, columns] = self.axes(size)?;
        debug_assert_eq!(pixels.len(), images * size.pixels() * COLOURS);
        let line = columns.out * self.channels();
        out.par_chunks_exact_mut(line)
            .enumerate()
            .for_each(|(row, out)| {
                with_thread_memory(columns.out * TAPS, |windows| {
                    let image = &pixels[row / rows.out * size.pixels() * COLOURS..];
                    gather(image, (rows, row % rows.out), columns, windows);
                    self.dense
                        .product(windows, columns.out)
                        .compute_here(level, out);
                });
            });
        Ok(())
    }
}

/// The pixels under the windows of a line of the output, `[columns, TAPS]`, zeros outside the image.
fn gather(image: &[f32], (rows, row): (Axis, usize), columns: Axis, windows: &mut [f32]) {
    let (first_ky, end_ky, top) = rows.taps(row, KERNEL);
    if end_ky - first_ky < KERNEL {
        windows.fill(0.0);
    }
    for ky in first_ky..end_ky {
        let line = &image[(top + ky - first_ky) * columns.size * COLOURS..];
        let line = &line[..columns.size * COLOURS];
        for (ox, window) in windows.chunks_exact_mut(TAPS).enumerate() {
            let (first, end, x) = columns.taps(ox, KERNEL);
            let window = &mut window[ky * LINE..(ky + 1) * LINE];
            // A length that the compiler knows.
            let whole: Option<&[f32; LINE]> = line[x * COLOURS..].first_chunk();
            if let (KERNEL, Some(whole)) = (end - first, whole) {
                // A length that the compiler knows.
                window.copy_from_slice(whole);
            } else {
                window.fill(0.0);
                window[first * COLOURS..end * COLOURS]
                    .copy_from_slice(&line[x * COLOURS..(x + end - first) * COLOURS]);
            }
        }
    }
}
