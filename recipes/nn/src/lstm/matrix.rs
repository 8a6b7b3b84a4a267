//! A weight matrix laid out for the kernels, with its bias.

use super::kernel::{self, Product};
use crate::simd::Level;

/// A cache line of values. Whole lines keep vectors from straddling two of them, which would double each load.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct Line([f32; 16]);

/// Values that begin on a cache line.
#[derive(Clone, Default)]
pub(super) struct Aligned(Vec<Line>);

impl Aligned {
    pub(super) fn zeros(len: usize) -> Self {
        Self(vec![Line::default(); len.div_ceil(16)])
    }

    /// Makes room for `len` values and keeps those that are there; the new ones are zero.
    pub(super) fn resize(&mut self, len: usize) {
        self.0.resize(len.div_ceil(16), Line::default());
    }

    pub(super) fn as_slice(&self) -> &[f32] {
        // SAFETY: a line is sixteen values and nothing else, so lines in a row are values in a row.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

/// A matrix `[inputs, columns]` in blocks of four vectors, `[block][input][4 * lanes]`, and a bias of the same blocks.
pub(super) struct Matrix {
    pub(super) level: Level,
    pub(super) inputs: usize,
    pub(super) blocks: usize,
    pub(super) weight: Aligned,
    bias: Aligned,
}

impl Matrix {
    /// Packs `weight` `[outputs, inputs]` and `bias` `[outputs]`: packed column `p` is output `columns[p]`, or zero.
    pub(super) fn pack(
        level: Level,
        inputs: usize,
        columns: &[Option<usize>],
        weight: &[f32],
        bias: &[f32],
    ) -> Self {
        let width = 4 * kernel::lanes(level);
        let blocks = columns.len().div_ceil(width);
        let mut packed = Self {
            level,
            inputs,
            blocks,
            weight: Aligned::zeros(blocks * inputs * width),
            bias: Aligned::zeros(blocks * width),
        };
        let (weights, biases) = (packed.weight.as_mut_slice(), packed.bias.as_mut_slice());
        for (p, column) in columns.iter().enumerate() {
            let Some(column) = *column else { continue };
            let (block, lane) = (p / width, p % width);
            biases[p] = bias[column];
            for k in 0..inputs {
                weights[(block * inputs + k) * width + lane] = weight[column * inputs + k];
            }
        }
        packed
    }

    /// Values of a packed output row.
    pub(super) fn width(&self) -> usize {
        self.blocks * 4 * kernel::lanes(self.level)
    }

    /// Multiplies rows of `inputs` values; `out` gets a packed row for each.
    ///
    /// # Panics
    /// A row or `out` has another size.
    pub(super) fn product(&self, x: &[&[f32]], out: &mut [f32]) {
        assert!(x.iter().all(|row| row.len() == self.inputs), "row length");
        assert_eq!(out.len(), x.len() * self.width(), "output length");
        let product = Product {
            x,
            weight: self.weight.as_slice().as_ptr(),
            bias: self.bias.as_slice().as_ptr(),
            inputs: self.inputs,
            blocks: self.blocks,
            out: out.as_mut_ptr(),
        };
        // SAFETY: the lengths were checked above, and `pack` made weight and bias of these sizes.
        unsafe { product.run(self.level) }
    }
}
