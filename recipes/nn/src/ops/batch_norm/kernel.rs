//! What is done with a block of pixels.

use super::Onto;
use crate::{
    activation::Activation,
    host::Shared,
    simd::{Vector, dispatch, load_up_to, store_up_to},
};

/// Vectors of channels that are summed side by side.
const WIDTH: usize = 4;

/// Some pixels to be normalised.
pub(super) struct Forward<'a> {
    pub(super) x: &'a [f32],
    pub(super) mean: &'a [f32],
    /// What the distance from the mean is multiplied by.
    pub(super) factor: &'a [f32],
    pub(super) shift: &'a [f32],
    pub(super) residual: Option<&'a [f32]>,
    pub(super) activation: Activation,
}

/// Some pixels, and the gradient of what became of them.
pub(super) struct Backward<'a> {
    pub(super) x: &'a [f32],
    pub(super) y: &'a [f32],
    pub(super) dy: &'a [f32],
    pub(super) mean: &'a [f32],
    pub(super) activation: Activation,
}

/// Runs a function for all channels: for `WIDTH` vectors at a time, and what is left vector by vector.
macro_rules! by_channels {
    ($channels:expr, $sum:ident::<$vector:ty>($($arg:expr),*)) => {{
        let mut channel = 0;
        while channel < $channels {
            if channel + WIDTH * <$vector>::LEN <= $channels {
                $sum::<$vector, WIDTH>(channel, $($arg),*);
                channel += WIDTH * <$vector>::LEN;
            } else {
                $sum::<$vector, 1>(channel, $($arg),*);
                channel += <$vector>::LEN;
            }
        }
    }};
}

dispatch! {
    /// The sums of distances from the first pixel, and of their squares: `[2, channels]`.
    pub(super) fn distances(x: &[f32], sums: &mut [f32]) = distances_kernel
}

#[inline(always)]
unsafe fn distances_kernel<V: Vector>(x: &[f32], sums: &mut [f32]) {
    // SAFETY: as the caller's.
    unsafe { by_channels!(sums.len() / 2, distances_of::<V>(x, sums)) }
}

#[inline(always)]
unsafe fn distances_of<V: Vector, const N: usize>(channel: usize, x: &[f32], sums: &mut [f32]) {
    let channels = sums.len() / 2;
    let count = V::LEN.min(channels - channel);
    // SAFETY: each pixel has `N` vectors of channels from there on, or `count` channels.
    unsafe {
        let mut first = [V::splat(0.0); N];
        for (n, first) in first.iter_mut().enumerate() {
            let x: V = load_up_to(x.as_ptr().add(channel + n * V::LEN), count);
            *first = x.mul(V::splat(-1.0));
        }
        let mut sum = [V::splat(0.0); N];
        let mut squares = [V::splat(0.0); N];
        for pixel in x.chunks_exact(channels) {
            for n in 0..N {
                let x: V = load_up_to(pixel.as_ptr().add(channel + n * V::LEN), count);
                let distance = x.add(first[n]);
                sum[n] = sum[n].add(distance);
                squares[n] = distance.mul_add(distance, squares[n]);
            }
        }
        store_rows([sum, squares], channel, count, sums);
    }
}

/// Stores both sums of some channels.
#[inline(always)]
unsafe fn store_rows<V: Vector, const N: usize>(
    rows: [[V; N]; 2],
    channel: usize,
    count: usize,
    sums: &mut [f32],
) {
    let channels = sums.len() / 2;
    for (row, values) in rows.into_iter().enumerate() {
        for (n, value) in values.into_iter().enumerate() {
            let at = row * channels + channel + n * V::LEN;
            // SAFETY: each row has `count` channels from there on.
            unsafe { store_up_to(value, sums.as_mut_ptr().add(at), count) };
        }
    }
}

dispatch! {
    /// Normalises a block's pixels to `y`.
    pub(super) fn forward(block: &Forward<'_>, y: &mut [f32]) = forward_kernel
}

#[inline(always)]
unsafe fn forward_kernel<V: Vector>(block: &Forward<'_>, y: &mut [f32]) {
    let channels = block.mean.len();
    for first in (0..y.len()).step_by(channels) {
        for channel in (0..channels).step_by(V::LEN) {
            let count = V::LEN.min(channels - channel);
            let at = first + channel;
            // SAFETY: there are `count` channels from there on.
            unsafe {
                let of = |values: &[f32]| values.as_ptr().wrapping_add(channel);
                let x: V = load_up_to(block.x.as_ptr().add(at), count);
                let mean: V = load_up_to(of(block.mean), count);
                let factor = load_up_to(of(block.factor), count);
                let distance = mean.mul_add(V::splat(-1.0), x);
                let mut value = distance.mul_add(factor, load_up_to(of(block.shift), count));
                if let Some(residual) = block.residual {
                    value = value.add(load_up_to(residual.as_ptr().add(at), count));
                }
                let value: V = block.activation.apply(value);
                store_up_to(value, y.as_mut_ptr().add(at), count);
            }
        }
    }
}

impl Backward<'_> {
    /// The gradient of some channels before the activation.
    #[inline(always)]
    unsafe fn passed<V: Vector>(&self, at: usize, count: usize) -> V {
        // SAFETY: as the caller's: there are `count` values from there on.
        unsafe {
            let dy: V = load_up_to(self.dy.as_ptr().add(at), count);
            let most = match self.activation {
                Activation::None => return dy,
                Activation::Relu => f32::INFINITY,
                Activation::Relu6 => 6.0,
                other => unreachable!("{other:?} is a step of its own"),
            };
            let y = load_up_to(self.y.as_ptr().add(at), count);
            dy.where_between(y, V::splat(0.0), V::splat(most))
        }
    }

    /// How far some channels are from their means.
    #[inline(always)]
    unsafe fn distance<V: Vector>(&self, at: usize, channel: usize, count: usize) -> V {
        // SAFETY: as the caller's: there are `count` values from there on.
        unsafe {
            let x: V = load_up_to(self.x.as_ptr().add(at), count);
            let mean: V = load_up_to(self.mean.as_ptr().add(channel), count);
            mean.mul_add(V::splat(-1.0), x)
        }
    }
}

dispatch! {
    /// The sums of the gradient, and of its products with the distances from the means: `[2, channels]`.
    pub(super) fn products(block: &Backward<'_>, sums: &mut [f32]) = products_kernel
}

#[inline(always)]
unsafe fn products_kernel<V: Vector>(block: &Backward<'_>, sums: &mut [f32]) {
    // SAFETY: as the caller's.
    unsafe { by_channels!(block.mean.len(), products_of::<V>(block, sums)) }
}

#[inline(always)]
unsafe fn products_of<V: Vector, const N: usize>(
    channel: usize,
    block: &Backward<'_>,
    sums: &mut [f32],
) {
    let channels = block.mean.len();
    let count = V::LEN.min(channels - channel);
    // SAFETY: each pixel has `N` vectors of channels from there on, or `count` channels.
    unsafe {
        let mut sum = [V::splat(0.0); N];
        let mut products = [V::splat(0.0); N];
        for pixel in (0..block.x.len()).step_by(channels) {
            for n in 0..N {
                let channel = channel + n * V::LEN;
                let dy = block.passed::<V>(pixel + channel, count);
                let distance = block.distance::<V>(pixel + channel, channel, count);
                sum[n] = sum[n].add(dy);
                products[n] = distance.mul_add(dy, products[n]);
            }
        }
        store_rows([sum, products], channel, count, sums);
    }
}

dispatch! {
    /// The gradients of a block's pixels and of what was added to them; `factors` are `[3, channels]`: of the gradient, of the
    /// distances, and a term.
    pub(super) fn backward(
        block: &Backward<'_>,
        factors: &[f32],
        dx: (&mut [f32], Onto),
        residual: Option<(Shared, Onto)>,
    ) = backward_kernel
}

#[inline(always)]
unsafe fn backward_kernel<V: Vector>(
    block: &Backward<'_>,
    factors: &[f32],
    (dx, onto): (&mut [f32], Onto),
    residual: Option<(Shared, Onto)>,
) {
    let channels = block.mean.len();
    for first in (0..dx.len()).step_by(channels) {
        for channel in (0..channels).step_by(V::LEN) {
            let count = V::LEN.min(channels - channel);
            let at = first + channel;
            // SAFETY: there are `count` channels from there on.
            unsafe {
                let dy = block.passed::<V>(at, count);
                if let Some((to, onto)) = residual {
                    put(dy, to.at(at), count, onto);
                }
                let factors = factors.as_ptr().add(channel);
                let factor = load_up_to(factors, count);
                let of_distance = load_up_to(factors.add(channels), count);
                let value = dy.mul_add(factor, load_up_to(factors.add(2 * channels), count));
                let value = block
                    .distance::<V>(at, channel, count)
                    .mul_add(of_distance, value);
                put(value, dx.as_mut_ptr().add(at), count, onto);
            }
        }
    }
}

/// Writes or adds some channels.
#[inline(always)]
unsafe fn put<V: Vector>(mut value: V, to: *mut f32, count: usize, onto: Onto) {
    // SAFETY: as the caller's: there are `count` values.
    unsafe {
        if onto == Onto::Add {
            value = value.add(load_up_to(to, count));
        }
        store_up_to(value, to, count);
    }
}
