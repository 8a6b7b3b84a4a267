//! An LSTM's weights as they are stored, before they are laid out for anything.

use candle_core::Result;
use candle_nn::VarBuilder;

use crate::host;

/// The weights of one direction, on the host. Gates are in torch's order: input, forget, cell, output.
pub(super) struct DirectionWeights {
    /// `[4 * hidden, input]`.
    pub(super) input: Vec<f32>,
    /// `[4 * hidden, hidden]`.
    pub(super) recurrent: Vec<f32>,
    /// `[4 * hidden]`, the sum of torch's two.
    pub(super) bias: Vec<f32>,
}

impl DirectionWeights {
    /// Reads torch's tensors of both directions, forward and backward: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`,
    /// `bias_hh_l0`, and each with `_reverse`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub(super) fn load(vb: &VarBuilder<'_>, input: usize, hidden: usize) -> Result<[Self; 2]> {
        let direction = |suffix: &str| {
            let get = |name: &str, shape: &[usize]| {
                vb.get(shape, &format!("{name}_l0{suffix}"))
                    .and_then(|tensor| host::to_vec(&tensor))
            };
            let gates = 4 * hidden;
            let mut bias = get("bias_ih", &[gates])?;
            for (sum, bias) in bias.iter_mut().zip(get("bias_hh", &[gates])?) {
                *sum += bias;
            }
            Result::Ok(Self {
                input: get("weight_ih", &[gates, input])?,
                recurrent: get("weight_hh", &[gates, hidden])?,
                bias,
            })
        };
        Ok([direction("")?, direction("_reverse")?])
    }
}
