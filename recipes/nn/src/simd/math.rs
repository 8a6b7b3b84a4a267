//! The elementary functions on vectors, good to a few units in the last place, without branches.

use super::Vector;

/// `e^x`, with inputs beyond -87 and 88 taken as these: Cephes' `expf`, good to 2 units in the last place.
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: V) -> V {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
    unsafe {
        let x = x.min(V::splat(88.0)).max(V::splat(-87.0));
        let power = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        let rest = power.mul_add(V::splat(-LN2_HIGH), x);
        let rest = power.mul_add(V::splat(-LN2_LOW), rest);
        let sum = polynomial(rest, &POLYNOMIAL)
            .mul_add(rest.mul(rest), rest)
            .add(V::splat(1.0));
        sum.scale(power)
    }
}

/// `1 + e^-x`, what a sigmoid divides by; the bound changes the sigmoid by less than 2e-11.
#[inline(always)]
pub(crate) unsafe fn below_sigmoid<V: Vector>(x: V) -> V {
    // SAFETY: as for `exp`.
    unsafe { exp(bounded(x, 25.0).mul(V::splat(-1.0))).add(V::splat(1.0)) }
}

/// `e^2x - 1` and `e^2x + 1`, of which tanh is the quotient; the bound changes it by less than 5e-9.
#[inline(always)]
pub(crate) unsafe fn tanh_fraction<V: Vector>(x: V) -> (V, V) {
    // SAFETY: as for `exp`.
    unsafe {
        let e = exp(bounded(x.add(x), 20.0));
        (e.add(V::splat(-1.0)), e.add(V::splat(1.0)))
    }
}

#[inline(always)]
unsafe fn bounded<V: Vector>(x: V, bound: f32) -> V {
    // SAFETY: as for `exp`.
    unsafe { x.min(V::splat(bound)).max(V::splat(-bound)) }
}

/// tanh, exact to about 1e-7 absolutely (not relatively).
#[inline(always)]
pub(crate) unsafe fn tanh<V: Vector>(x: V) -> V {
    // SAFETY: as for `exp`.
    unsafe {
        let (above, below) = tanh_fraction(x);
        above.div(below)
    }
}

/// `x / (1 + e^-x)`, also called swish: off by less than 5e-7 of itself and 5e-9.
///
/// An image network computes one for each of its pixels' channels. So it is shorter than [`exp`] and a division: a power of
/// two, whose exponent need be exact only absolutely, for where it is large the result is small.
#[inline(always)]
pub(crate) unsafe fn silu<V: Vector>(x: V) -> V {
    /// `2^f` for `f` of -1/2 to 1/2, to 2e-7 of itself.
    const POLYNOMIAL: [f32; 6] = [
        1.327_647_3e-3,
        9.675_541e-3,
        5.550_713e-2,
        2.402_212e-1,
        6.931_469_4e-1,
        1.0,
    ];
    // SAFETY: as for `exp`.
    unsafe {
        let exponent = bounded(x.mul(V::splat(-std::f32::consts::LOG2_E)), 126.0);
        let power = exponent.round();
        let rest = power.mul_add(V::splat(-1.0), exponent);
        let below = polynomial(rest, &POLYNOMIAL)
            .scale(power)
            .add(V::splat(1.0));
        x.div_closely(below)
    }
}

/// The exact GELU, `x/2 (1 + erf(x / sqrt 2))`.
#[inline(always)]
pub(crate) unsafe fn gelu<V: Vector>(x: V) -> V {
    // SAFETY: as for `exp`.
    unsafe {
        let half = x.mul(V::splat(0.5));
        half.mul_add(erf(x.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2))), half)
    }
}

/// Of `2u`, below: `2 sqrt(2 / pi)`, and that times 0.044715.
const LINEAR: f32 = 1.595_769_2;
const CUBE: f32 = 0.044_715 * LINEAR;

/// The GELU by way of tanh, `x/2 (1 + tanh(u))` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`: that is `x` by the sigmoid of `2u`.
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<V: Vector>(x: V) -> V {
    // SAFETY: as for `exp`.
    unsafe {
        let inner = x.mul(x).mul_add(V::splat(CUBE), V::splat(LINEAR));
        x.div(below_sigmoid(x.mul(inner)))
    }
}

/// The derivative of [`gelu`]: the normal distribution's function, and `x` times its density.
#[inline(always)]
pub(crate) unsafe fn gelu_slope<V: Vector>(x: V) -> V {
    /// `1 / sqrt(2 pi)`.
    const PEAK: f32 = 0.398_942_3;
    // SAFETY: as for `exp`.
    unsafe {
        let half = V::splat(0.5);
        let below = erf(x.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2))).mul_add(half, half);
        let density = exp(x.mul(x).mul(V::splat(-0.5))).mul(V::splat(PEAK));
        x.mul_add(density, below)
    }
}

/// The derivative of [`gelu_tanh`].
#[inline(always)]
pub(crate) unsafe fn gelu_tanh_slope<V: Vector>(x: V) -> V {
    // SAFETY: as for `exp`.
    unsafe {
        let (square, one) = (x.mul(x), V::splat(1.0));
        let inner = square.mul_add(V::splat(CUBE), V::splat(LINEAR));
        let slope = square.mul_add(V::splat(3.0 * CUBE), V::splat(LINEAR));
        let sigmoid = one.div(below_sigmoid(x.mul(inner)));
        let rest = sigmoid.mul_add(V::splat(-1.0), one);
        x.mul_add(sigmoid.mul(rest).mul(slope), sigmoid)
    }
}

/// The error function: the rational approximation that Eigen and others use for f32, an odd polynomial over an even one
/// on `[-4, 4]`, past which it is ±1 to within f32.
#[inline(always)]
unsafe fn erf<V: Vector>(x: V) -> V {
    const NUMERATOR: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const DENOMINATOR: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_5e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ];
    // SAFETY: as for `exp`.
    unsafe {
        let x = bounded(x, 4.0);
        let square = x.mul(x);
        x.mul(polynomial(square, &NUMERATOR))
            .div(polynomial(square, &DENOMINATOR))
    }
}

/// A polynomial of these coefficients, that of the highest power first.
#[inline(always)]
unsafe fn polynomial<V: Vector>(x: V, coefficients: &[f32]) -> V {
    // SAFETY: as for `exp`.
    unsafe {
        let mut sum = V::splat(coefficients[0]);
        for coefficient in &coefficients[1..] {
            sum = sum.mul_add(x, V::splat(*coefficient));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Level, dispatch, load_up_to},
        *,
    };

    macro_rules! of_all {
        ($at:ident, $all:ident = $function:ident) => {
            #[inline(always)]
            unsafe fn $all<V: Vector>(values: &mut [f32]) {
                for chunk in values.chunks_mut(V::LEN) {
                    // SAFETY: `chunk` holds as many values as are read and written.
                    unsafe {
                        let x: V = load_up_to(chunk.as_ptr(), chunk.len());
                        $function(x).store_first(chunk.as_mut_ptr(), chunk.len());
                    }
                }
            }
            dispatch!(fn $at(values: &mut [f32]) = $all);
        };
    }
    of_all!(exp_at, exp_all = exp);
    of_all!(erf_at, erf_all = erf);
    of_all!(gelu_at, gelu_all = gelu);
    of_all!(gelu_tanh_at, gelu_tanh_all = gelu_tanh);
    of_all!(gelu_slope_at, gelu_slope_all = gelu_slope);
    of_all!(gelu_tanh_slope_at, gelu_tanh_slope_all = gelu_tanh_slope);
    of_all!(tanh_at, tanh_all = tanh);
    of_all!(silu_at, silu_all = silu);

    /// The error of a function at every level, over `count` inputs from `-range` to `range`.
    fn check(
        function: unsafe fn(Level, &mut [f32]),
        (range, count): (f32, usize),
        error: impl Fn(f64, f64) -> f64,
        tolerance: f64,
    ) {
        let inputs: Vec<f32> = (0..count)
            .map(|i| (2.0 * i as f32 / (count - 1) as f32 - 1.0) * range)
            .collect();
        for level in Level::all() {
            let mut values = inputs.clone();
            // SAFETY: `all` lists what this processor has.
            unsafe { function(level, &mut values) };
            for (x, y) in inputs.iter().zip(values) {
                let error = error(f64::from(*x), f64::from(y)).abs();
                assert!(
                    error < tolerance,
                    "{level:?}: f({x}) = {y}, off by {error:e}"
                );
            }
        }
    }

    #[test]
    fn exp_is_close_over_its_whole_range_and_never_overflows() {
        check(exp_at, (87.0, 200_011), |x, y| y / x.exp() - 1.0, 3e-7);
        for level in Level::all() {
            let mut values = [f32::NEG_INFINITY, -1e9, 88.1, f32::INFINITY];
            // SAFETY: as above.
            unsafe { exp_at(level, &mut values) };
            assert!(values[..2].iter().all(|y| (0.0..1e-37).contains(y)));
            assert!(values[2..].iter().all(|y| y.is_finite() && *y > 1e38));
        }
    }

    /// `erf` by its Maclaurin series in f64, which converges fast enough up to 5.
    fn exact_erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        (sum * 2.0 / std::f64::consts::PI.sqrt()).clamp(-1.0, 1.0)
    }

    #[test]
    fn erf_and_gelu_are_within_a_millionth() {
        check(erf_at, (5.0, 100_003), |x, y| y - exact_erf(x), 1e-6);
        let gelu = |x: f64| 0.5 * x * (1.0 + exact_erf(x * std::f64::consts::FRAC_1_SQRT_2));
        check(gelu_at, (5.0, 100_003), |x, y| y - gelu(x), 2e-6);
        let error = |x, y| y - slope(gelu, x);
        check(gelu_slope_at, (5.0, 100_003), error, 2e-6);
    }

    fn slope(function: impl Fn(f64) -> f64, x: f64) -> f64 {
        (function(x + 1e-5) - function(x - 1e-5)) / 2e-5
    }

    #[test]
    fn gelu_by_tanh_is_within_a_millionth() {
        let inner = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        let gelu = |x: f64| 0.5 * x * (1.0 + inner(x).tanh());
        for range in [5.0, 40.0] {
            let error = |x: f64, y: f64| (y - gelu(x)) / (1.0 + x.abs());
            check(gelu_tanh_at, (range, 100_003), error, 1e-6);
            let error = |x: f64, y: f64| y - slope(gelu, x);
            check(gelu_tanh_slope_at, (range, 100_003), error, 2e-6);
        }
    }

    #[test]
    fn tanh_is_exact_to_less_than_a_millionth_everywhere() {
        check(tanh_at, (120.0, 80_007), |x, y| y - x.tanh(), 3e-7);
    }

    #[test]
    fn silu_is_close_over_its_whole_range() {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        for range in [1.0, 10.0, 80.0] {
            let error = |x: f64, y: f64| (y - silu(x)) / (silu(x).abs() + 0.01);
            check(silu_at, (range, 200_003), error, 5e-7);
        }
        for level in Level::all() {
            let mut values = [-1e30, -200.0, 200.0, 1e30];
            // SAFETY: as above.
            unsafe { silu_at(level, &mut values) };
            assert!(values[0].abs() < 1e-6 && values[1].abs() < 1e-30);
            assert_eq!(values[2..], [200.0, 1e30]);
        }
    }
}
