//! What goes over pixels one by one: factors and terms, sums, gates, and channels from here and there.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use std::ops::Range;

use rayon::prelude::*;

use super::{Images, convolution::Before};
use crate::{
    activation::Activation,
    simd::{Level, Vector, dispatch, load_up_to, store_up_to},
};

/// What becomes of a pixel.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    /// Factors and terms, and an activation.
    Scale(&'a Before),
    /// The other's pixel is added, and an activation follows.
    Add(Images, Activation),
    /// Its image's gates are multiplied by.
    Gate(Images),
    /// None: it is copied.
    Copy,
}

/// Pixels of a task.
const TASK_PIXELS: usize = 64;

/// Computes it on rayon's pool.
///
/// # Safety
/// Nobody else uses the images meanwhile; the output is none of what is read.
pub(crate) unsafe fn run(level: Level, images: usize, [from, to]: [Images; 2], change: Change<'_>) {
    assert_eq!(from.channels, to.channels, "channels");
    assert_eq!(from.size, to.size, "sizes");
    let pixels = images * from.pixels();
    (0..pixels.div_ceil(TASK_PIXELS))
        .into_par_iter()
        .for_each(|task| {
            let first = task * TASK_PIXELS;
            let pixels = first..pixels.min(first + TASK_PIXELS);
            // SAFETY: the level is the processor's, and the pixels are this task's alone.
            unsafe { some(level, &from, &to, pixels, change) };
        });
}

dispatch!(fn some(from: &Images, to: &Images, pixels: Range<usize>, change: Change<'_>) = some_kernel);

#[inline(always)]
unsafe fn some_kernel<V: Vector>(
    from: &Images,
    to: &Images,
    pixels: Range<usize>,
    change: Change<'_>,
) {
    for pixel in pixels {
        // SAFETY: as the caller's.
        unsafe { one_kernel::<V>(from, to, pixel, change) };
    }
}

#[inline(always)]
unsafe fn one_kernel<V: Vector>(from: &Images, to: &Images, pixel: usize, change: Change<'_>) {
    for channel in (0..from.channels).step_by(V::LEN) {
        let count = V::LEN.min(from.channels - channel);
        // SAFETY: as the caller's: all of them have `count` channels from there on.
        unsafe {
            let x: V = load_up_to(from.pixel(pixel).add(channel), count);
            let value: V = match change {
                Change::Scale(before) => {
                    let scale = load_up_to(before.scale.as_ptr().add(channel), count);
                    let shift = load_up_to(before.shift.as_ptr().add(channel), count);
                    before.activation.apply(x.mul_add(scale, shift))
                }
                Change::Add(other, activation) => {
                    let other = load_up_to(other.pixel(pixel).add(channel), count);
                    activation.apply(x.add(other))
                }
                Change::Gate(gates) => {
                    let image = pixel / from.pixels();
                    x.mul(load_up_to(gates.pixel(image).add(channel), count))
                }
                Change::Copy => x,
            };
            store_up_to(value, to.pixel(pixel).add(channel), count);
        }
    }
}
