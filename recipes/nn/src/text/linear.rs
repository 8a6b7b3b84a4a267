//! A linear layer whose weight is laid out once, when it is loaded.

use candle_core::{Result, Tensor};

use super::activation::{Activation, bias_activation};

/// `x W^T + b`, with the bias and an activation in one pass.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Tensor,
}

/// A linear layer's weight without the bias, for where a later operator adds that.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    /// `[in, out]`, laid out so: the product reads it a fifth to a third faster than a view of the stored `[out, in]`.
    transposed: Tensor,
}

impl Weight {
    /// From a state dict's `[out, in]`.
    pub(super) fn new(weight: &Tensor) -> Result<Self> {
        Ok(Self {
            transposed: weight.t()?.contiguous()?,
        })
    }

    /// `[rows, in]` to `[rows, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.transposed)
    }
}

impl Linear {
    /// From a state dict's weight `[out, in]` and bias `[out]`.
    ///
    /// # Errors
    /// The weight is no matrix.
    pub fn new(weight: &Tensor, bias: Tensor) -> Result<Self> {
        Ok(Self {
            weight: Weight::new(weight)?,
            bias,
        })
    }

    /// `[rows, in]` to `[rows, out]`.
    ///
    /// # Errors
    /// `x` has another width, or another dtype or device than the weights.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        bias_activation(&y, &self.bias, activation)?;
        Ok(y)
    }
}
