//! BatchNorm by the batch's own statistics, with a sum and an activation after it, and its gradients.
//!
//! Values are `[images * pixels, channels]`, contiguous.
#![expect(
    clippy::too_many_arguments,
    reason = "what an operator reads and writes stands in one list"
)]

use super::Onto;
use crate::{activation::Activation, simd::Level};

/// What a batch is like, by channels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Statistics {
    pub(crate) mean: Vec<f32>,
    /// `1 / sqrt(variance + eps)`.
    pub(crate) reciprocal: Vec<f32>,
    /// The mean squared distance from the mean.
    pub(crate) variance: Vec<f32>,
}

/// `y = activation((x - mean) * reciprocal * scale + shift + residual)`.
pub(crate) fn forward(
    _: Level,
    x: &[f32],
    channels: usize,
    scale: &[f32],
    shift: &[f32],
    eps: f64,
    residual: Option<&[f32]>,
    activation: Activation,
    y: &mut [f32],
) -> Statistics {
    let count = (x.len() / channels) as f64;
    let mean = sums(x, channels, |_, x| f64::from(x)).map(|sum| sum / count);
    let mean: Vec<f64> = mean.collect();
    let squares = sums(x, channels, |channel, x| {
        (f64::from(x) - mean[channel]).powi(2)
    });
    let variance: Vec<f64> = squares.map(|sum| sum / count).collect();
    let statistics = Statistics {
        mean: mean.iter().map(|mean| *mean as f32).collect(),
        reciprocal: (variance.iter())
            .map(|variance| (1.0 / (variance + eps).sqrt()) as f32)
            .collect(),
        variance: variance.iter().map(|variance| *variance as f32).collect(),
    };
    for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
        let channel = i % channels;
        let normal = (x - statistics.mean[channel]) * statistics.reciprocal[channel];
        let sum = normal * scale[channel] + shift[channel];
        let sum = sum + residual.map_or(0.0, |residual| residual[i]);
        *y = match activation {
            Activation::None => sum,
            // Not `max`, which hides what is no number.
            Activation::Relu if sum <= 0.0 => 0.0,
            Activation::Relu => sum,
            Activation::Relu6 => sum.clamp(0.0, 6.0),
            other => unreachable!("{other:?} is a step of its own"),
        };
    }
    statistics
}

/// The gradients of all that `forward` read, by what it gave: where an activation cut, nothing comes back.
pub(crate) fn backward(
    _: Level,
    x: &[f32],
    statistics: &Statistics,
    scale: &[f32],
    y: &[f32],
    activation: Activation,
    dy: &[f32],
    (dx, onto): (&mut [f32], Onto),
    mut residual: Option<(&mut [f32], Onto)>,
    dscale: &mut [f32],
    dshift: &mut [f32],
) {
    let channels = scale.len();
    let count = (x.len() / channels) as f32;
    let passed = |i: usize| match activation {
        Activation::Relu if y[i] <= 0.0 => 0.0,
        Activation::Relu6 if y[i] <= 0.0 || y[i] >= 6.0 => 0.0,
        _ => dy[i],
    };
    let normal = |i: usize| {
        let channel = i % channels;
        (x[i] - statistics.mean[channel]) * statistics.reciprocal[channel]
    };
    let mut totals = vec![[0f64; 2]; channels];
    for i in 0..x.len() {
        let dy = f64::from(passed(i));
        totals[i % channels][0] += dy;
        totals[i % channels][1] += dy * f64::from(normal(i));
    }
    for (channel, [shift, scale]) in totals.iter().enumerate() {
        dshift[channel] = *shift as f32;
        dscale[channel] = *scale as f32;
    }
    for i in 0..x.len() {
        let (channel, dy) = (i % channels, passed(i));
        if let Some((residual, onto)) = &mut residual {
            onto.put(&mut residual[i], dy);
        }
        let rest = dy - (dshift[channel] + normal(i) * dscale[channel]) / count;
        let factor = scale[channel] * statistics.reciprocal[channel];
        onto.put(&mut dx[i], factor * rest);
    }
}

/// A sum for each channel.
fn sums(x: &[f32], channels: usize, of: impl Fn(usize, f32) -> f64) -> std::vec::IntoIter<f64> {
    let mut sums = vec![0.0; channels];
    for (i, x) in x.iter().enumerate() {
        sums[i % channels] += of(i % channels, *x);
    }
    sums.into_iter()
}
