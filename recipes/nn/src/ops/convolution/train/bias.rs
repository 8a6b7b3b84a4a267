//! The gradient of a bias.

use rayon::prelude::*;

use crate::simd::{Level, Vector, dispatch, load_up_to, store_up_to};

/// Pixels that are summed in f32.
const PIXELS: usize = 256;

/// The sums over all pixels, on rayon's pool; parts of them are added up in f64.
pub(super) fn gradient(level: Level, dy: &[f32], dbias: &mut [f32]) {
    let channels = dbias.len();
    let parts = dy.par_chunks((PIXELS * channels).max(1)).map(|dy| {
        let mut sums = vec![0.0; channels];
        // SAFETY: the level is the processor's.
        unsafe { add_pixels(level, dy, &mut sums) };
        sums
    });
    let parts: Vec<Vec<f32>> = parts.collect();
    for (channel, dbias) in dbias.iter_mut().enumerate() {
        let sum: f64 = parts.iter().map(|part| f64::from(part[channel])).sum();
        *dbias = sum as f32;
    }
}

dispatch!(fn add_pixels(x: &[f32], sums: &mut [f32]) = add_pixels_kernel);

#[inline(always)]
unsafe fn add_pixels_kernel<V: Vector>(x: &[f32], sums: &mut [f32]) {
    let channels = sums.len();
    for channel in (0..channels).step_by(V::LEN) {
        let count = V::LEN.min(channels - channel);
        // SAFETY: each pixel has `count` channels from there on.
        unsafe {
            let mut sum = V::splat(0.0);
            for pixel in x.chunks_exact(channels) {
                sum = sum.add(load_up_to(pixel.as_ptr().add(channel), count));
            }
            store_up_to(sum, sums.as_mut_ptr().add(channel), count);
        }
    }
}
