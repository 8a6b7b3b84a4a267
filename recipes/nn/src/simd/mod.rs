//! Vectors of `f32` as wide as the processor at hand has them, chosen when the program runs.
//!
//! The default build targets any x86-64, so that one binary runs everywhere; kernels are therefore written once over
//! [`Vector`] and compiled for each instruction set by [`dispatch!`], which picks one at each call (the check is a
//! cached load and a branch).
//!
//! A kernel must be `#[inline(always)]`, and so must be all that it calls with vectors. Closures cannot be: one that the
//! compiler leaves out of line is compiled without the instruction set, and each intrinsic in it is a call.

mod math;
mod portable;
mod precision;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use math::{
    below_sigmoid, exp, gelu, gelu_slope, gelu_tanh, gelu_tanh_slope, silu, tanh, tanh_fraction,
};
pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use precision::Pair;
pub use precision::Precision;
pub(crate) use precision::{Dot, Kind, Single, dispatch_product};

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
    /// `self / other` for an `other` of normal size, off by 2 units in the last place at most.
    #[inline(always)]
    unsafe fn div_closely(self, other: Self) -> Self {
        // SAFETY: as the caller's.
        unsafe { self.div(other) }
    }
    /// `other` where one of them is no number.
    unsafe fn min(self, other: Self) -> Self;
    /// As for `min`.
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn sqrt(self) -> Self;
    /// To the nearest integer.
    unsafe fn round(self) -> Self;
    /// `self * 2^power` for integral powers in -126..=127.
    unsafe fn scale(self, power: Self) -> Self;

    /// Asks for the cache line at an address, which need not be valid, to be brought into the second-level cache.
    #[inline(always)]
    fn prefetch(_: *const f32) {}

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

    /// Exchanges rows and columns of the square that the first `LEN` vectors are.
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; MAX_LEN]) {
        let mut values = [0.0f32; MAX_LEN * MAX_LEN];
        // SAFETY: the square has room for LEN rows and columns, and LEN is at most MAX_LEN.
        unsafe {
            for (r, row) in rows.iter().enumerate().take(Self::LEN) {
                let row = row.to_array();
                for (c, value) in row.iter().enumerate().take(Self::LEN) {
                    values[c * Self::LEN + r] = *value;
                }
            }
            for (r, row) in rows.iter_mut().enumerate().take(Self::LEN) {
                *row = Self::load(values.as_ptr().add(r * Self::LEN));
            }
        }
    }

    /// Its lanes where `low < other < high`, zeros elsewhere.
    unsafe fn where_between(self, other: Self, low: Self, high: Self) -> Self;

    /// All its values, with zeros behind.
    #[inline(always)]
    unsafe fn to_array(self) -> [f32; MAX_LEN] {
        let mut values = [0.0f32; MAX_LEN];
        // SAFETY: LEN is at most MAX_LEN.
        unsafe { self.store(values.as_mut_ptr()) };
        values
    }

    /// The sum of its values, added up pairwise.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as the caller's.
        let mut values = unsafe { self.to_array() };
        let mut width = MAX_LEN / 2;
        while width > 0 {
            for i in 0..width {
                values[i] += values[i + width];
            }
            width /= 2;
        }
        values[0]
    }
}

/// The longest vector of any instruction set here.
pub(crate) const MAX_LEN: usize = 16;

/// Loads up to a whole vector, with zeros behind.
///
/// # Safety
/// As [`Vector::load_first`].
#[inline(always)]
pub(crate) unsafe fn load_up_to<V: Vector>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller vouches for `count` values, at most LEN.
    unsafe {
        if count == V::LEN {
            V::load(from)
        } else {
            V::load_first(from, count)
        }
    }
}

/// Stores up to a whole vector.
///
/// # Safety
/// As [`Vector::store_first`].
#[inline(always)]
pub(crate) unsafe fn store_up_to<V: Vector>(vector: V, to: *mut f32, count: usize) {
    // SAFETY: the caller vouches for `count` values, at most LEN.
    unsafe {
        if count == V::LEN {
            vector.store(to);
        } else {
            vector.store_first(to, count);
        }
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

    /// How many values a vector has.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Self::Portable => Portable::LEN,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::arch::x86_64::__m256::LEN,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => std::arch::x86_64::__m512::LEN,
        }
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
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $kernel:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name(level: $crate::simd::Level, $($arg: $type),*) {
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
