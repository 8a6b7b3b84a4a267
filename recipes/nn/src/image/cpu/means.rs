//! Means over the rows of a matrix: of an image's pixels, or of the sums that a depthwise convolution leaves.

use rayon::prelude::*;

use crate::simd::{Level, Vector, dispatch, load_up_to, store_up_to};

/// `[images, rows, channels]`, rows of all pixels or their sums by line -> `[images, channels]`, each sum divided by
/// `pixels`.
pub(super) fn of_rows(level: Level, x: &[f32], channels: usize, pixels: usize, means: &mut [f32]) {
    let images = means.len() / channels;
    let share = 1.0 / pixels as f32;
    means
        .par_chunks_exact_mut(channels)
        .zip(x.par_chunks_exact(x.len() / images.max(1)))
        .for_each(|(means, image)| {
            // SAFETY: the level is this processor's, and an image has rows as wide as its means.
            unsafe { sum_rows(level, image, share, means) };
        });
}

dispatch!(fn sum_rows(x: &[f32], share: f32, sums: &mut [f32]) = sum_rows_kernel);

#[inline(always)]
unsafe fn sum_rows_kernel<V: Vector>(x: &[f32], share: f32, sums: &mut [f32]) {
    let channels = sums.len();
    for channel in (0..channels).step_by(V::LEN) {
        let count = V::LEN.min(channels - channel);
        // SAFETY: each row has `count` values from `channel` on.
        unsafe {
            let mut sum = V::splat(0.0);
            for row in x.chunks_exact(channels) {
                sum = sum.add(load_up_to(row.as_ptr().add(channel), count));
            }
            store_up_to(
                sum.mul(V::splat(share)),
                sums.as_mut_ptr().add(channel),
                count,
            );
        }
    }
}
