//! The gradients of channels that were multiplied by their image's gates.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use rayon::prelude::*;

use super::Onto;

/// `dx = dy * gates`, on rayon's pool. Values are `[images, pixels, channels]`, gates `[images, channels]`.
pub(crate) fn backward_input(gates: &[f32], values: usize, dy: &[f32], dx: &mut [f32], onto: Onto) {
    let channels = gates.len() / (dx.len() / values).max(1);
    let images = dx
        .par_chunks_exact_mut(values)
        .zip(dy.par_chunks_exact(values));
    images
        .zip(gates.par_chunks_exact(channels))
        .for_each(|((dx, dy), gates)| {
            let pixels = dx.chunks_exact_mut(channels).zip(dy.chunks_exact(channels));
            for (dx, dy) in pixels {
                for ((dx, dy), gate) in dx.iter_mut().zip(dy).zip(gates) {
                    onto.put(dx, dy * gate);
                }
            }
        });
}

/// `dgates`, the sums of `x * dy` over an image's pixels.
pub(crate) fn backward_gates(x: &[f32], values: usize, dy: &[f32], dgates: &mut [f32], onto: Onto) {
    let channels = dgates.len() / (x.len() / values).max(1);
    let images = x.par_chunks_exact(values).zip(dy.par_chunks_exact(values));
    images
        .zip(dgates.par_chunks_exact_mut(channels))
        .for_each(|((x, dy), dgates)| {
            let mut sums = vec![0f32; channels];
            for (x, dy) in x.chunks_exact(channels).zip(dy.chunks_exact(channels)) {
                for ((sum, x), dy) in sums.iter_mut().zip(x).zip(dy) {
                    *sum += x * dy;
                }
            }
            for (dgate, sum) in dgates.iter_mut().zip(sums) {
                onto.put(dgate, sum);
            }
        });
}
