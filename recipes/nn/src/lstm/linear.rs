//! A dense layer for the small products that follow an LSTM: rows of host memory, no tensors.

use candle_core::Result;
use candle_nn::VarBuilder;

use crate::{
    activation::Activation,
    host,
    matmul::{Matrix, Product},
    simd::{Level, Precision},
};

/// `x * weight^T + bias`.
pub struct Dense {
    matrix: Matrix,
    bias: Vec<f32>,
}

impl Dense {
    /// Reads `weight` `[outputs, inputs]` and `bias` `[outputs]`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(vb: &VarBuilder<'_>, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = host::to_vec(&vb.get((outputs, inputs), "weight")?)?;
        Ok(Self {
            matrix: Matrix::pack((inputs, outputs), Precision::F32, &weight, Some),
            bias: host::to_vec(&vb.get(outputs, "bias")?)?,
        })
    }

    /// Multiplies rows `[rows, inputs]`; gives `[rows, outputs]`.
    ///
    /// # Panics
    /// `x` does not hold whole rows.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        self.compute(x, Activation::None)
    }

    /// [`Dense::forward`], then tanh.
    ///
    /// # Panics
    /// As [`Dense::forward`].
    pub fn forward_tanh(&self, x: &[f32]) -> Vec<f32> {
        self.compute(x, Activation::Tanh)
    }

    fn compute(&self, x: &[f32], activation: Activation) -> Vec<f32> {
        assert_eq!(x.len() % self.matrix.inputs(), 0, "whole rows");
        let product = Product {
            bias: Some(&self.bias),
            activation,
            ..Product::new(x, x.len() / self.matrix.inputs(), &self.matrix)
        };
        product.compute(Level::detect())
    }
}
