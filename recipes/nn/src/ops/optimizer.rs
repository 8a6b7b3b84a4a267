//! What an optimizer does with all parameters in one pass.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use super::chunks;
use crate::{
    host::Shared,
    simd::{Level, Vector, dispatch, load_up_to, store_up_to},
};

/// A step of stochastic gradient descent, as PyTorch's `SGD`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sgd {
    pub(crate) lr: f32,
    pub(crate) momentum: f32,
    pub(crate) weight_decay: f32,
    pub(crate) nesterov: bool,
    /// Whether it is the first step, which begins the momentum with its gradient.
    pub(crate) first: bool,
}

/// A step of Adam with decoupled weight decay, as PyTorch's `AdamW`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AdamW {
    /// What parameters are multiplied by: `1 - lr * weight_decay`.
    pub(crate) keep: f32,
    pub(crate) betas: [f32; 2],
    /// `lr / (1 - beta1^step)`.
    pub(crate) step_size: f32,
    /// `1 / sqrt(1 - beta2^step)`.
    pub(crate) correction: f32,
    pub(crate) eps: f32,
}

/// Parameters, gradients and momentum, on rayon's pool. Without momentum the last may be empty.
///
/// # Panics
/// Lengths do not fit.
pub(crate) fn sgd(level: Level, with: &Sgd, x: &mut [f32], gradient: &[f32], momentum: &mut [f32]) {
    assert_eq!(x.len(), gradient.len(), "gradients");
    if with.momentum != 0.0 {
        assert_eq!(x.len(), momentum.len(), "momentum");
    }
    let len = x.len();
    let all = [
        Shared::new(x),
        Shared::reading(gradient),
        Shared::new(momentum),
    ];
    let kept = with.momentum != 0.0;
    chunks(len, |part| {
        let [x, gradient, momentum] = all;
        let momentum = if kept {
            momentum.from(part.start)
        } else {
            momentum
        };
        let values = [x.from(part.start), gradient.from(part.start), momentum];
        // SAFETY: the level is the processor's, and the part is this task's alone.
        unsafe { sgd_part(level, with, values, part.len()) }
    });
}

/// Parameters, gradients, and the means of gradients and of their squares, on rayon's pool.
///
/// # Panics
/// Lengths do not fit.
pub(crate) fn adam_w(
    level: Level,
    with: &AdamW,
    x: &mut [f32],
    gradient: &[f32],
    [mean, square]: [&mut [f32]; 2],
) {
    let len = x.len();
    assert_eq!(
        [gradient.len(), mean.len(), square.len()],
        [len; 3],
        "lengths"
    );
    let gradient = Shared::reading(gradient);
    let all = [
        Shared::new(x),
        gradient,
        Shared::new(mean),
        Shared::new(square),
    ];
    chunks(len, |part| {
        let values = all.map(|values| values.from(part.start));
        // SAFETY: the level is the processor's, and the part is this task's alone.
        unsafe { adam_w_part(level, with, values, part.len()) }
    });
}

dispatch!(fn sgd_part(with: &Sgd, values: [Shared; 3], len: usize) = sgd_kernel);
dispatch!(fn adam_w_part(with: &AdamW, values: [Shared; 4], len: usize) = adam_w_kernel);

#[inline(always)]
unsafe fn sgd_kernel<V: Vector>(with: &Sgd, [x, gradient, momentum]: [Shared; 3], len: usize) {
    for i in (0..len).step_by(V::LEN) {
        let count = V::LEN.min(len - i);
        // SAFETY: as the caller's: there are `count` values from there on.
        unsafe {
            let value: V = load_up_to(x.at(i), count);
            let gradient: V = load_up_to(gradient.at(i), count);
            let gradient = value.mul_add(V::splat(with.weight_decay), gradient);
            let mut step = gradient;
            if with.momentum != 0.0 {
                let factor = V::splat(with.momentum);
                if !with.first {
                    step = load_up_to::<V>(momentum.at(i), count).mul_add(factor, gradient);
                }
                store_up_to(step, momentum.at(i), count);
                if with.nesterov {
                    step = step.mul_add(factor, gradient);
                }
            }
            store_up_to(step.mul_add(V::splat(-with.lr), value), x.at(i), count);
        }
    }
}

#[inline(always)]
unsafe fn adam_w_kernel<V: Vector>(
    with: &AdamW,
    [x, gradient, mean, square]: [Shared; 4],
    len: usize,
) {
    let [first, second] = with.betas;
    for i in (0..len).step_by(V::LEN) {
        let count = V::LEN.min(len - i);
        // SAFETY: as the caller's: there are `count` values from there on.
        unsafe {
            let gradient: V = load_up_to(gradient.at(i), count);
            let m = load_up_to::<V>(mean.at(i), count).mul(V::splat(first));
            let m = gradient.mul_add(V::splat(1.0 - first), m);
            let v = load_up_to::<V>(square.at(i), count).mul(V::splat(second));
            let v = gradient.mul(gradient).mul_add(V::splat(1.0 - second), v);
            store_up_to(m, mean.at(i), count);
            store_up_to(v, square.at(i), count);
            let below = v
                .sqrt()
                .mul_add(V::splat(with.correction), V::splat(with.eps));
            let value = load_up_to::<V>(x.at(i), count).mul(V::splat(with.keep));
            let step = m.div(below);
            store_up_to(
                step.mul_add(V::splat(-with.step_size), value),
                x.at(i),
                count,
            );
        }
    }
}
