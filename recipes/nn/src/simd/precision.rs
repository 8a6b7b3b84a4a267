//! What matrix products compute in: f32, or pairs of bf16 whose products are summed in f32.
//!
//! Either way a product works on 32-bit *words*: a word is one f32, or two neighbouring bf16. So the loops are the same,
//! over as many words as there are, and only the step differs ([`Dot`]).

use std::fmt;

use candle_core::DType;
#[cfg(target_arch = "x86_64")]
use half::bf16;

use super::{Vector, store_up_to};

/// What matrix products compute in; everything between them is f32.
///
/// To have a value that says bf16 is proof that this processor has the instructions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Precision(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    #[cfg(target_arch = "x86_64")]
    Bf16,
}

impl Precision {
    /// Weights, inputs and sums in f32.
    pub const F32: Self = Self(Kind::F32);

    /// Weights and inputs rounded to bf16, sums in f32, if this processor has instructions for it (AVX512_BF16).
    pub fn bf16() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if super::Level::detect() == super::Level::Avx512
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512bw")
        {
            return Some(Self(Kind::Bf16));
        }
        None
    }

    /// The precision of a dtype on this processor.
    ///
    /// # Errors
    /// It is neither f32 nor bf16, or bf16 and the processor has no instructions for it; the message is for whoever chose
    /// it.
    pub fn of(dtype: DType) -> Result<Self, String> {
        match (dtype, Self::bf16()) {
            (DType::F32, _) => Ok(Self::F32),
            (DType::BF16, Some(precision)) => Ok(precision),
            (DType::BF16, None) => Err(
                "bf16 on the CPU needs a processor with AVX512_BF16, which this one lacks: use f32"
                    .into(),
            ),
            (other, _) => Err(format!(
                "the CPU computes in f32 or bf16, not in {}",
                other.as_str()
            )),
        }
    }

    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    /// How many words a row of so many values takes.
    pub(crate) fn words(self, values: usize) -> usize {
        match self.0 {
            Kind::F32 => values,
            #[cfg(target_arch = "x86_64")]
            Kind::Bf16 => values.div_ceil(2),
        }
    }

    /// The word at a place in a row, with zero for what is not there.
    pub(crate) fn word(self, row: &[f32], word: usize) -> f32 {
        match self.0 {
            Kind::F32 => row[word],
            #[cfg(target_arch = "x86_64")]
            Kind::Bf16 => {
                let bits =
                    |i: usize| u32::from(bf16::from_f32(*row.get(i).unwrap_or(&0.0)).to_bits());
                f32::from_bits(bits(2 * word) | bits(2 * word + 1) << 16)
            }
        }
    }

    /// Every one that this processor has.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        [Some(Self::F32), Self::bf16()]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl fmt::Debug for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A step of a product: a vector of weights' words times one word of the input, for each lane.
pub(crate) trait Dot<V> {
    /// Values in a word.
    const VALUES: usize;

    /// `sum + weight * factor`, or the same of pairs.
    ///
    /// # Safety
    /// The instruction set must be there.
    unsafe fn add(weight: V, factor: V, sum: V) -> V;

    /// Stores two vectors of neighbouring values as words, of which `count` (at most what two vectors make) are wanted.
    ///
    /// # Safety
    /// The instruction set must be there, and `to` have room for `count` words.
    unsafe fn store(values: [V; 2], to: *mut f32, count: usize);
}

/// Words of one f32.
pub(crate) struct Single;

impl<V: Vector> Dot<V> for Single {
    const VALUES: usize = 1;

    #[inline(always)]
    unsafe fn add(weight: V, factor: V, sum: V) -> V {
        // SAFETY: as the caller's.
        unsafe { weight.mul_add(factor, sum) }
    }

    #[inline(always)]
    unsafe fn store([left, right]: [V; 2], to: *mut f32, count: usize) {
        // SAFETY: as the caller's.
        unsafe {
            store_up_to(left, to, count.min(V::LEN));
            if count > V::LEN {
                store_up_to(right, to.add(V::LEN), count - V::LEN);
            }
        }
    }
}

/// Words of two bf16.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Pair;

#[cfg(target_arch = "x86_64")]
mod pair {
    use std::{
        arch::x86_64::{__m512, __m512bh, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps},
        mem::transmute,
    };

    use super::{Dot, Pair, store_up_to};

    impl Dot<__m512> for Pair {
        const VALUES: usize = 2;

        #[inline(always)]
        unsafe fn add(weight: __m512, factor: __m512, sum: __m512) -> __m512 {
            // SAFETY: both types are 512 bits of anything, and AVX512_BF16 is there, as the caller vouches.
            unsafe {
                let (weight, factor) = (
                    transmute::<__m512, __m512bh>(weight),
                    transmute::<__m512, __m512bh>(factor),
                );
                _mm512_dpbf16_ps(sum, weight, factor)
            }
        }

        #[inline(always)]
        unsafe fn store([left, right]: [__m512; 2], to: *mut f32, count: usize) {
            // SAFETY: as in `add`; `to` is the caller's to vouch for.
            unsafe {
                let words = transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(right, left));
                store_up_to(words, to, count);
            }
        }
    }
}

/// Defines an unsafe function that runs a generic kernel at a [`Level`](super::Level) and a [`Precision`].
///
/// As [`dispatch!`](super::dispatch), for a kernel that has a [`Dot`] as its second type.
macro_rules! dispatch_product {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $kernel:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name(
            level: $crate::simd::Level,
            precision: $crate::simd::Precision,
            $($arg: $type),*
        ) {
            #[inline(always)]
            unsafe fn single<V: $crate::simd::Vector>($($arg: $type),*) {
                // SAFETY: as the kernel demands, by this function's own contract.
                unsafe { $kernel::<V, $crate::simd::Single>($($arg),*) }
            }
            $crate::simd::dispatch!(fn f32($($arg: $type),*) = single);
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
            unsafe fn bf16($($arg: $type),*) {
                // SAFETY: as above.
                unsafe { $kernel::<std::arch::x86_64::__m512, $crate::simd::Pair>($($arg),*) }
            }
            // SAFETY: the level is one of this processor's, a precision exists only where the processor has it, and
            // the kernel's demands are the caller's to meet.
            unsafe {
                match precision.kind() {
                    $crate::simd::Kind::F32 => f32(level, $($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Kind::Bf16 => bf16($($arg),*),
                }
            }
        }
    };
}
pub(crate) use dispatch_product;
