//! Weights as the kernels want them: channels padded to whole vectors, matrices turned around.
//!
//! Channels that are not there have weights and biases of zero. So they are zero in every image, for the activations that
//! these networks have keep zero as it is.

use candle_core::{Result, bail};

use crate::{
    cuda::{Span, Weights},
    host,
    image::Convolution,
    matmul::cuda::Dense,
};

/// Channels of which every image on the device has a multiple: a vector of f16.
const VECTOR: usize = 8;

/// Channels as they lie on the device.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(VECTOR)
}

/// A 1x1 convolution, from a weight `[outputs, inputs]` or `[outputs, inputs, 1, 1]`; also its outputs before they were
/// padded.
///
/// # Errors
/// It takes another number of channels than `inputs`.
pub(super) fn dense(
    weights: &mut Weights,
    layer: &Convolution,
    inputs: usize,
) -> Result<(Dense, usize)> {
    let weight = layer.weight.flatten_from(1)?;
    let (outputs, width) = weight.dims2()?;
    if width != inputs {
        bail!(
            "a weight is {:?}, but the layer before it gives {inputs} channels",
            layer.weight.dims()
        )
    }
    host::expect_shape("bias", &layer.bias, &[outputs])?;
    let more = padded(outputs) - outputs;
    let weight =
        weight
            .pad_with_zeros(0, 0, more)?
            .pad_with_zeros(1, 0, padded(inputs) - inputs)?;
    let bias = layer.bias.pad_with_zeros(0, 0, more)?;
    Ok((Dense::new(weights, &weight, &bias)?, outputs))
}

/// A bias of so many channels, in f32 and padded.
///
/// # Errors
/// It is another number.
pub(super) fn bias(weights: &mut Weights, layer: &Convolution, channels: usize) -> Result<Span> {
    host::expect_shape("bias", &layer.bias, &[channels])?;
    let mut bias = host::to_vec(&layer.bias)?;
    bias.resize(padded(channels), 0.0);
    Ok(weights.floats(&bias))
}

/// `[channels, columns]` -> `[columns, padded channels]`.
pub(super) fn turned(values: &[f32], columns: usize) -> Vec<f32> {
    let channels = padded(values.len() / columns);
    let mut turned = vec![0.0; columns * channels];
    for (channel, row) in values.chunks_exact(columns).enumerate() {
        for (column, value) in row.iter().enumerate() {
            turned[column * channels + channel] = *value;
        }
    }
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_matrix_has_zeros_for_channels_that_are_not_there() {
        let turned = turned(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2);
        let first = [1.0, 3.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let second = [2.0, 4.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(turned, [first, second].concat());
    }
}
