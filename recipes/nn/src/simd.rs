//! Vectors of `f32` as wide as the processor at hand has them, chosen when the program runs.
//!
//! The default build targets any x86-64, so that one binary runs everywhere; kernels are therefore written once over
//! [`Vector`] and compiled for each instruction set by [`dispatch!`], which picks one at each call (the check is a
//! cached load and a branch).

/// A vector register of `f32`.
///
/// Every method is unsafe for the same two reasons: the instruction set must be there, which [`dispatch!`] sees to, and
/// pointers must be valid for [`Vector::LEN`] values (or `count`), which is up to the kernel.
pub(crate) trait Vector: Copy {
    /// How many values it holds.
    const LEN: usize;
    /// How many rows of two vectors a matrix kernel can keep in registers.
    const ROWS: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self * factor + term`.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    /// To the nearest integer.
    unsafe fn round(self) -> Self;
    /// `self * 2^power` for integral powers in -126..=127.
    unsafe fn scale(self, power: Self) -> Self;

    /// Loads `count` values, with zeros behind.
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut values = [0.0f32; MAX_LEN];
        // SAFETY: the caller vouches for `count` values, and `count` is at most LEN, which is at most MAX_LEN.
        unsafe {
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count);
            Self::load(values.as_ptr())
        }
    }

    /// Stores the first `count` values.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut values = [0.0f32; MAX_LEN];
        // SAFETY: as for `load_first`.
        unsafe {
            self.store(values.as_mut_ptr());
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, count);
        }
    }
}

/// The longest vector of any instruction set here.
const MAX_LEN: usize = 16;

/// For processors that nothing better is known of; the compiler turns it into whatever its target has.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Portable {
    const LEN: usize = 8;
    const ROWS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for LEN values, and f32 arrays are as aligned as f32.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as for `load`.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // Two roundings: without the instruction, a fused multiply-add is a slow library call.
        self.zip(factor, |a, b| a * b).zip(term, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // Adding 1.5 * 2^23 leaves no bits for a fraction.
        const MAGIC: f32 = 12_582_912.0;
        Self(self.0.map(|value| (value + MAGIC) - MAGIC))
    }
    #[inline(always)]
    unsafe fn scale(self, power: Self) -> Self {
        self.zip(power, |value, power| {
            value * f32::from_bits((((power as i32) + 127) << 23) as u32)
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    impl Vector for __m256 {
        const LEN: usize = 8;
        const ROWS: usize = 6;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: here and below, AVX2 and FMA are there, as the trait demands.
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller vouches for LEN values; the load needs no alignment.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as for `load`.
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm256_fmadd_ps(self, factor, term) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm256_add_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm256_mul_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm256_div_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm256_min_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm256_max_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self) }
        }
        #[inline(always)]
        unsafe fn scale(self, power: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127));
                let factor = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
                _mm256_mul_ps(self, factor)
            }
        }
    }

    impl Vector for __m512 {
        const LEN: usize = 16;
        const ROWS: usize = 12;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: here and below, AVX-512F is there, as the trait demands.
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller vouches for LEN values; the load needs no alignment.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as for `load`.
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_fmadd_ps(self, factor, term) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_add_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_mul_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_div_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_min_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_max_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            // SAFETY: see `splat`.
            unsafe {
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self)
            }
        }
        #[inline(always)]
        unsafe fn scale(self, power: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_scalef_ps(self, power) }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self {
            // SAFETY: the mask keeps the load within the `count` values that the caller vouches for.
            unsafe { _mm512_maskz_loadu_ps(first(count), from) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            // SAFETY: as for `load_first`.
            unsafe { _mm512_mask_storeu_ps(to, first(count), self) }
        }
    }

    #[inline(always)]
    fn first(count: usize) -> __mmask16 {
        ((1u32 << count) - 1) as __mmask16
    }
}

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Whatever the build's target has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best one that this processor has.
    #[inline]
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Every one that this processor has.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if Self::detect() != Self::Portable {
                levels.push(Self::Avx2);
            }
            if Self::detect() == Self::Avx512 {
                levels.push(Self::Avx512);
            }
        }
        levels
    }
}

/// Defines an unsafe function that runs a generic kernel at a [`Level`].
///
/// The kernel must be `#[inline(always)]`, so that it is compiled with the instructions of the function it ends up in.
/// The level must be one that the processor has; beyond that, the function is as unsafe as the kernel.
macro_rules! dispatch {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $kernel:ident) => {
        $(#[$doc])*
        unsafe fn $name(level: $crate::simd::Level, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            unsafe fn avx512($($arg: $type),*) {
                // SAFETY: as the kernel demands, by this function's own contract.
                unsafe { $kernel::<std::arch::x86_64::__m512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $type),*) {
                // SAFETY: as above.
                unsafe { $kernel::<std::arch::x86_64::__m256>($($arg),*) }
            }
            // SAFETY: the level is one of this processor's, and the kernel's demands are the caller's to meet.
            unsafe {
                match level {
                    $crate::simd::Level::Portable => {
                        $kernel::<$crate::simd::Portable>($($arg),*)
                    }
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Level::Avx2 => avx2($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Level::Avx512 => avx512($($arg),*),
                }
            }
        }
    };
}
pub(crate) use dispatch;

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
        let mut sum = V::splat(POLYNOMIAL[0]);
        for coefficient in &POLYNOMIAL[1..] {
            sum = sum.mul_add(rest, V::splat(*coefficient));
        }
        let sum = sum.mul_add(rest.mul(rest), rest).add(V::splat(1.0));
        sum.scale(power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    unsafe fn exp_all<V: Vector>(values: &mut [f32]) {
        for chunk in values.chunks_mut(V::LEN) {
            // SAFETY: `chunk` holds as many values as are read and written.
            unsafe {
                let x = V::load_first(chunk.as_ptr(), chunk.len());
                exp(x).store_first(chunk.as_mut_ptr(), chunk.len());
            }
        }
    }
    dispatch!(fn exp_at(values: &mut [f32]) = exp_all);

    #[test]
    fn exp_is_close_over_its_whole_range_at_every_level() {
        let inputs: Vec<f32> = (0..20_011).map(|i| i as f32 * 0.00874 - 87.0).collect();
        for level in Level::all() {
            let mut values = inputs.clone();
            // SAFETY: `all` lists what this processor has.
            unsafe { exp_at(level, &mut values) };
            for (x, y) in inputs.iter().zip(values) {
                let expected = f64::from(x.min(88.0)).exp();
                let error = (f64::from(y) / expected - 1.0).abs();
                assert!(error < 3e-7, "{level:?}: exp({x}) = {y}, off by {error:e}");
            }
        }
    }
}
