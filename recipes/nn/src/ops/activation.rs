//! Activations that are no part of another operator, and their gradients.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use super::{Onto, chunks};
use crate::{
    activation::Activation,
    host::Shared,
    simd::{
        Level, Vector, below_sigmoid, dispatch, gelu_slope, gelu_tanh_slope, load_up_to,
        store_up_to,
    },
};

/// `y = activation(x)`, value by value, on rayon's pool; `y` may be `x`.
///
/// # Safety
/// Both have `len` values, which nobody else uses meanwhile.
pub(crate) unsafe fn forward(
    level: Level,
    activation: Activation,
    [x, y]: [Shared; 2],
    len: usize,
) {
    chunks(len, |part| {
        // SAFETY: the level is the processor's, and the part is this task's alone.
        unsafe {
            forward_part(
                level,
                activation,
                x.at(part.start),
                y.at(part.start),
                part.len(),
            )
        }
    });
}

/// `dx = dy * activation'`, on rayon's pool; `dx` may be `dy`. The slope is that at `known`: what the activation gave of those
/// of the first kind (None, ReLU, ReLU6, sigmoid and tanh), and what it read of SiLU and both GELUs.
///
/// # Safety
/// All have `len` values, which nobody else uses meanwhile.
pub(crate) unsafe fn backward(
    level: Level,
    activation: Activation,
    [known, dy, dx]: [Shared; 3],
    onto: Onto,
    len: usize,
) {
    chunks(len, |part| {
        let [known, dy, dx] = [known, dy, dx].map(|values| values.from(part.start));
        // SAFETY: as for `forward`.
        unsafe { backward_part(level, activation, [known, dy, dx], onto, part.len()) }
    });
}

dispatch!(fn forward_part(activation: Activation, x: *const f32, y: *mut f32, len: usize) = forward_kernel);
dispatch!(fn backward_part(activation: Activation, values: [Shared; 3], onto: Onto, len: usize) = backward_kernel);

#[inline(always)]
unsafe fn forward_kernel<V: Vector>(
    activation: Activation,
    x: *const f32,
    y: *mut f32,
    len: usize,
) {
    for i in (0..len).step_by(V::LEN) {
        let count = V::LEN.min(len - i);
        // SAFETY: as the caller's: there are `count` values from there on.
        unsafe {
            let value: V = activation.apply(load_up_to::<V>(x.add(i), count));
            store_up_to(value, y.add(i), count);
        }
    }
}

#[inline(always)]
unsafe fn backward_kernel<V: Vector>(
    activation: Activation,
    [known, dy, dx]: [Shared; 3],
    onto: Onto,
    len: usize,
) {
    for i in (0..len).step_by(V::LEN) {
        let count = V::LEN.min(len - i);
        // SAFETY: as the caller's: there are `count` values from there on.
        unsafe {
            let known: V = load_up_to(known.at(i), count);
            let dy: V = load_up_to(dy.at(i), count);
            let mut value = slope(activation, known, dy);
            if onto == Onto::Add {
                value = value.add(load_up_to(dx.at(i), count));
            }
            store_up_to(value, dx.at(i), count);
        }
    }
}

/// `dy` times the slope at what is known.
#[inline(always)]
pub(crate) unsafe fn slope<V: Vector>(activation: Activation, known: V, dy: V) -> V {
    // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
    unsafe {
        let less_than = |end: f32, x: V| x.mul_add(V::splat(-1.0), V::splat(end));
        match activation {
            Activation::None => dy,
            Activation::Relu => dy.where_between(known, V::splat(0.0), V::splat(f32::INFINITY)),
            Activation::Relu6 => dy.where_between(known, V::splat(0.0), V::splat(6.0)),
            Activation::Sigmoid => dy.mul(known.mul(less_than(1.0, known))),
            Activation::Tanh => dy.mul(less_than(1.0, known.mul(known))),
            Activation::Silu => {
                let gate = V::splat(1.0).div(below_sigmoid(known));
                let slope = known.mul(less_than(1.0, gate)).mul_add(gate, gate);
                dy.mul(slope)
            }
            Activation::Gelu => dy.mul(gelu_slope(known)),
            Activation::GeluTanh => dy.mul(gelu_tanh_slope(known)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{flat, random};

    /// There, and back onto what another gave.
    fn run(level: Level, activation: Activation) -> [Vec<f32>; 2] {
        let len = 2 * super::super::CHUNK + 37;
        let mut x = flat(&random(&[len], 5));
        x.iter_mut().for_each(|x| *x *= 4.0);
        let mut dy = flat(&random(&[len], 6));
        let [mut y, mut dx] = [x.clone(), flat(&random(&[len], 7))];
        // SAFETY: the memory is there, and nobody else uses it.
        unsafe {
            let in_place = [Shared::new(&mut y); 2];
            forward(level, activation, in_place, len);
            let known = if activation == Activation::Silu {
                &mut x
            } else {
                &mut y
            };
            let values = [known, &mut dy, &mut dx].map(|values| Shared::new(values));
            backward(level, activation, values, Onto::Add, len);
        }
        [y, dx]
    }

    #[test]
    fn levels_agree() {
        for activation in [
            Activation::Relu,
            Activation::Relu6,
            Activation::Sigmoid,
            Activation::Tanh,
            Activation::Silu,
        ] {
            let expected = run(Level::Portable, activation);
            for level in Level::all() {
                let pairs = run(level, activation).into_iter().zip(&expected);
                for (got, expected) in
                    pairs.flat_map(|(got, expected)| got.into_iter().zip(expected))
                {
                    let off = (got - expected).abs();
                    assert!(
                        off < 1e-5,
                        "{level:?}, {activation:?}: {got}, expected {expected}"
                    );
                }
            }
        }
    }

    /// A network that has run away is to be seen to have done so.
    #[test]
    fn what_is_no_number_stays_so() {
        for activation in [Activation::Relu, Activation::Relu6] {
            for level in Level::all() {
                let mut x = [f32::NAN; 20];
                let values = [Shared::new(&mut x); 2];
                // SAFETY: the memory is there, and nobody else uses it.
                unsafe { forward(level, activation, values, 20) };
                assert!(
                    x.iter().all(|x| x.is_nan()),
                    "{level:?}, {activation:?}: {x:?}"
                );
            }
        }
    }
}
