//! A dense layer on the LSTM's kernels, for the small products that follow it: rows of host memory, no tensors.

use candle_core::Result;
use candle_nn::VarBuilder;

use super::{host, kernel, matrix::Matrix};
use crate::simd::Level;

/// `x * weight^T + bias`.
pub struct Dense {
    outputs: usize,
    matrix: Matrix,
}

impl Dense {
    /// Reads `weight` `[outputs, inputs]` and `bias` `[outputs]`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(vb: &VarBuilder<'_>, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = host(&vb.get((outputs, inputs), "weight")?)?;
        let bias = host(&vb.get(outputs, "bias")?)?;
        let columns: Vec<_> = (0..outputs).map(Some).collect();
        Ok(Self {
            outputs,
            matrix: Matrix::pack(Level::detect(), inputs, &columns, &weight, &bias),
        })
    }

    /// Multiplies rows `[rows, inputs]`; gives `[rows, outputs]`.
    ///
    /// # Panics
    /// `x` does not hold whole rows.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len() % self.matrix.inputs, 0, "whole rows");
        let rows: Vec<&[f32]> = x.chunks_exact(self.matrix.inputs).collect();
        let width = self.matrix.width();
        let mut packed = vec![0.0; rows.len() * width];
        self.matrix.product(&rows, &mut packed);
        let mut out = Vec::with_capacity(rows.len() * self.outputs);
        for row in packed.chunks_exact(width) {
            out.extend_from_slice(&row[..self.outputs]);
        }
        out
    }

    /// [`Dense::forward`], then tanh.
    ///
    /// # Panics
    /// As [`Dense::forward`].
    pub fn forward_tanh(&self, x: &[f32]) -> Vec<f32> {
        let mut out = self.forward(x);
        kernel::tanh_all(self.matrix.level, &mut out);
        out
    }
}
