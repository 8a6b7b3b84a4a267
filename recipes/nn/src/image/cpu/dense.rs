//! A 1x1 convolution, or a linear layer.

use candle_core::{Result, bail};

use crate::{
    activation::Activation,
    host,
    image::Convolution,
    matmul::{Matrix, Product},
    simd::Precision,
};

#[derive(Debug)]
pub(crate) struct Dense {
    pub(crate) matrix: Matrix,
    /// `[outputs]`.
    pub(crate) bias: Vec<f32>,
    pub(crate) activation: Activation,
}

impl Dense {
    /// From a weight `[outputs, inputs]` or `[outputs, inputs, 1, 1]`.
    pub(crate) fn new(
        layer: &Convolution,
        inputs: Option<usize>,
        activation: Activation,
        precision: Precision,
    ) -> Result<Self> {
        let weight = layer.weight.flatten_from(1)?;
        let (outputs, width) = weight.dims2()?;
        if inputs.is_some_and(|inputs| inputs != width) {
            bail!(
                "a weight is {:?}, but the layer before it gives {inputs:?} channels",
                layer.weight.dims()
            )
        }
        Ok(Self {
            matrix: Matrix::new(&weight, precision)?,
            bias: bias(layer, outputs)?,
            activation,
        })
    }

    pub(crate) fn inputs(&self) -> usize {
        self.matrix.inputs()
    }

    pub(crate) fn outputs(&self) -> usize {
        self.matrix.outputs()
    }

    /// Of `[rows, inputs]`; gates and a residual are for the caller to add.
    pub(crate) fn product<'a>(&'a self, x: &'a [f32], rows: usize) -> Product<'a> {
        Product {
            bias: Some(&self.bias),
            activation: self.activation,
            ..Product::new(x, rows, &self.matrix)
        }
    }
}

/// A layer's bias, `[outputs]`.
pub(crate) fn bias(layer: &Convolution, outputs: usize) -> Result<Vec<f32>> {
    host::expect_shape("bias", &layer.bias, &[outputs])?;
    host::with(&layer.bias.contiguous()?, |bias| Ok(bias.to_vec()))
}
