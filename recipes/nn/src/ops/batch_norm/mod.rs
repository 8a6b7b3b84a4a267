//! BatchNorm by the batch's own statistics, with a sum and an activation after it, and its gradients.
//!
//! Values are `[images * pixels, channels]`, contiguous. Some pixels are a block, always as many of them, whose sums are f32
//! in registers; blocks are summed in f64, so that the result depends neither on how many pixels there are nor on the
//! threads. Forward, a block's sums are of distances from its own first pixel: where a mean is large beside the spread around
//! it, that spread would otherwise be what rounding left of it.
#![expect(
    clippy::too_many_arguments,
    reason = "what an operator reads and writes stands in one list"
)]

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;
mod kernel;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use self::kernel::{Backward, Forward};
use super::Onto;
use crate::{activation::Activation, host::Shared, simd::Level};

/// Values of a block, about: they stay in a near cache.
const NEAR: usize = 16 << 10;
/// Pixels of a block: as few as make adding blocks up cheap, as many as f32 sums well.
const PIXELS: [usize; 2] = [16, 256];
/// Channels over which a task adds blocks up.
const CHANNELS: usize = 64;

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
///
/// # Panics
/// A slice has another length than it should; the activation is not one of ReLU and ReLU6.
pub(crate) fn forward(
    level: Level,
    x: &[f32],
    channels: usize,
    scale: &[f32],
    shift: &[f32],
    eps: f64,
    residual: Option<&[f32]>,
    activation: Activation,
    y: &mut [f32],
) -> Statistics {
    assert_eq!((scale.len(), shift.len()), (channels, channels), "channels");
    assert_eq!((x.len(), x.len() % channels), (y.len(), 0), "values");
    assert!(
        residual.is_none_or(|residual| residual.len() == x.len()),
        "residual"
    );
    let len = block(channels);
    let sums = by_blocks(x.len(), channels, |values, sums| {
        // SAFETY: the level is the processor's; the block has whole pixels.
        unsafe { kernel::distances(level, &x[values], sums) };
    });
    let statistics = statistics(x, &sums, channels, eps);
    let factor: Vec<f32> = (scale.iter().zip(&statistics.reciprocal))
        .map(|(scale, reciprocal)| scale * reciprocal)
        .collect();
    y.par_chunks_mut(len).enumerate().for_each(|(index, y)| {
        let values = index * len..index * len + y.len();
        let block = Forward {
            x: &x[values.clone()],
            mean: &statistics.mean,
            factor: &factor,
            shift,
            residual: residual.map(|residual| &residual[values]),
            activation,
        };
        // SAFETY: the level is the processor's; the lengths were checked.
        unsafe { kernel::forward(level, &block, y) };
    });
    statistics
}

/// The gradients of all that `forward` read, by what it gave: where an activation cut, nothing comes back.
///
/// # Panics
/// As [`forward`].
pub(crate) fn backward(
    level: Level,
    x: &[f32],
    statistics: &Statistics,
    scale: &[f32],
    y: &[f32],
    activation: Activation,
    dy: &[f32],
    (dx, onto): (&mut [f32], Onto),
    residual: Option<(&mut [f32], Onto)>,
    dscale: &mut [f32],
    dshift: &mut [f32],
) {
    let channels = scale.len();
    let lengths = [y.len(), dy.len(), dx.len()];
    assert_eq!((lengths, x.len() % channels), ([x.len(); 3], 0), "values");
    assert_eq!(
        (dscale.len(), dshift.len()),
        (channels, channels),
        "channels"
    );
    let residual = residual.map(|(residual, onto)| {
        assert_eq!(residual.len(), x.len(), "residual");
        (Shared::new(residual), onto)
    });
    let block = |values: std::ops::Range<usize>| Backward {
        x: &x[values.clone()],
        y: &y[values.clone()],
        dy: &dy[values],
        mean: &statistics.mean,
        activation,
    };
    let sums = by_blocks(x.len(), channels, |values, sums| {
        // SAFETY: the level is the processor's; the lengths were checked.
        unsafe { kernel::products(level, &block(values), sums) };
    });
    let count = (x.len() / channels) as f64;
    // Factors of the gradient and of the distance, and a term.
    let mut factors = vec![0.0; 3 * channels];
    let (factor, rest) = factors.split_at_mut(channels);
    let (of_distance, term) = rest.split_at_mut(channels);
    for (channel, total) in totals(&sums, channels).into_iter().enumerate() {
        let reciprocal = f64::from(statistics.reciprocal[channel]);
        let (shift, scaled) = (total[0], total[1] * reciprocal);
        dshift[channel] = shift as f32;
        dscale[channel] = scaled as f32;
        let by = f64::from(scale[channel]) * reciprocal;
        factor[channel] = by as f32;
        of_distance[channel] = (-by * reciprocal * scaled / count) as f32;
        term[channel] = (-by * shift / count) as f32;
    }
    let len = self::block(channels);
    dx.par_chunks_mut(len).enumerate().for_each(|(index, dx)| {
        let first = index * len;
        let block = block(first..first + dx.len());
        let residual = residual.map(|(to, onto)| (to.from(first), onto));
        // SAFETY: as above; the block's part of the residual is this task's alone.
        unsafe { kernel::backward(level, &block, &factors, (dx, onto), residual) };
    });
}

/// Values of a block.
fn block(channels: usize) -> usize {
    let [least, most] = PIXELS;
    (NEAR / channels).clamp(least, most) * channels
}

/// Two sums for each channel over each block, `[blocks, 2, channels]`.
fn by_blocks(
    values: usize,
    channels: usize,
    sum: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let len = block(channels);
    let mut sums = vec![0.0; values.div_ceil(len) * 2 * channels];
    (sums.par_chunks_exact_mut(2 * channels).enumerate()).for_each(|(index, sums)| {
        sum(index * len..values.min((index + 1) * len), sums);
    });
    sums
}

/// Of all blocks, each of which has its sums of distances from its first pixel and of their squares.
fn statistics(x: &[f32], sums: &[f32], channels: usize, eps: f64) -> Statistics {
    let count = (x.len() / channels) as f64;
    // Of each channel: the mean, and the squared distances from it.
    let mut totals = vec![[0.0; 2]; channels];
    (totals.par_chunks_mut(CHANNELS).enumerate()).for_each(|(index, totals)| {
        let first = index * CHANNELS;
        // Of each block: its pixels, and of each channel its mean and the squared distances from that.
        let blocks = || {
            x.chunks(block(channels))
                .zip(sums.chunks_exact(2 * channels))
        };
        let moments = |(x, sums): (&[f32], &[f32]), channel: usize| {
            let pixels = (x.len() / channels) as f64;
            let [sum, squares] = [0, channels].map(|row| f64::from(sums[row + channel]));
            let mean = f64::from(x[channel]) + sum / pixels;
            [pixels, mean, squares - sum * sum / pixels]
        };
        for block in blocks() {
            for (channel, [mean, _]) in (first..).zip(&mut *totals) {
                let [pixels, of, _] = moments(block, channel);
                *mean += pixels * of / count;
            }
        }
        for block in blocks() {
            for (channel, [mean, total]) in (first..).zip(&mut *totals) {
                let [pixels, of, squares] = moments(block, channel);
                *total += squares + pixels * (of - *mean).powi(2);
            }
        }
    });
    let mut statistics = Statistics::default();
    for [mean, squares] in totals {
        // Rounding may leave less than nothing; not `max`, which hides what is no number.
        let variance = if squares < 0.0 { 0.0 } else { squares / count };
        statistics.mean.push(mean as f32);
        statistics.variance.push(variance as f32);
        let reciprocal = 1.0 / (variance + eps).sqrt();
        statistics.reciprocal.push(reciprocal as f32);
    }
    statistics
}

/// Both sums of all blocks.
fn totals(sums: &[f32], channels: usize) -> Vec<[f64; 2]> {
    let mut totals = vec![[0.0; 2]; channels];
    (totals.par_chunks_mut(CHANNELS).enumerate()).for_each(|(index, totals)| {
        let first = index * CHANNELS;
        for block in sums.chunks_exact(2 * channels) {
            for (channel, total) in (first..).zip(&mut *totals) {
                total[0] += f64::from(block[channel]);
                total[1] += f64::from(block[channels + channel]);
            }
        }
    });
    totals
}
