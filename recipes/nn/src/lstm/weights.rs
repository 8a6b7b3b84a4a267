//! An LSTM's weights as they are stored, before they are laid out for anything.

use candle_core::Result;
use candle_nn::VarBuilder;

use super::LstmConfig;
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
    /// Reads torch's tensors of a layer's direction: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, each with
    /// the layer's number, and with `suffix`: nothing, or `_reverse`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub(super) fn load(
        vb: &VarBuilder<'_>,
        layer: usize,
        suffix: &str,
        (input, hidden): (usize, usize),
    ) -> Result<Self> {
        let get = |name: &str, shape: &[usize]| {
            vb.get(shape, &format!("{name}_l{layer}{suffix}"))
                .and_then(|tensor| host::to_vec(&tensor))
        };
        let gates = 4 * hidden;
        let mut bias = get("bias_ih", &[gates])?;
        for (sum, bias) in bias.iter_mut().zip(get("bias_hh", &[gates])?) {
            *sum += bias;
        }
        Ok(Self {
            input: get("weight_ih", &[gates, input])?,
            recurrent: get("weight_hh", &[gates, hidden])?,
            bias,
        })
    }

    /// A layer of a stack, of one direction or both.
    ///
    /// # Errors
    /// As [`Self::load`].
    #[cfg_attr(
        not(any(test, feature = "cuda")),
        expect(dead_code, reason = "for devices")
    )]
    pub(super) fn of_layer(
        vb: &VarBuilder<'_>,
        layer: usize,
        config: LstmConfig,
    ) -> Result<Vec<Self>> {
        let input = if layer == 0 {
            config.input
        } else {
            config.outputs()
        };
        let directions = &["", "_reverse"][..config.directions()];
        (directions.iter())
            .map(|suffix| Self::load(vb, layer, suffix, (input, config.hidden)))
            .collect()
    }

    /// Both directions of a layer, forward and backward.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(super) fn both(
        vb: &VarBuilder<'_>,
        layer: usize,
        size: (usize, usize),
    ) -> Result<[Self; 2]> {
        let [forward, backward] =
            ["", "_reverse"].map(|suffix| Self::load(vb, layer, suffix, size));
        Ok([forward?, backward?])
    }
}
