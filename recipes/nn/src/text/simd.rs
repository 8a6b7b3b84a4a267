//! One source for two instruction sets: plain x86-64, and AVX2 with FMA where the running machine has them.
//!
//! The kernels are plain loops that the compiler can vectorise. [`dispatch`] compiles each twice and picks at run time,
//! as the crate itself is built for the oldest machines.

/// Lanes that a reduction keeps apart, so that it can be vectorised without reordering float additions at will.
pub(super) const LANES: usize = 16;

/// Elements below which handing work to another thread costs more than doing it.
pub(super) const TASK: usize = 1 << 14;

/// Whether the AVX2 and FMA variants may run.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx2_fma() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// `a * b + c`, in one instruction where there is one; `f32::mul_add` without one is a slow library call.
#[inline(always)]
pub(super) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adds the lanes up, pairwise.
#[inline(always)]
pub(super) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Defines `fn name(...)` that runs `kernel::<true>` compiled for AVX2 and FMA, or else `kernel::<false>`.
///
/// The kernel must be `#[inline(always)]`, so that it takes on the features of the function that calls it.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $kernel:ident) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $type),*) {
                    $kernel::<true>($($arg),*)
                }
                if $crate::text::simd::has_avx2_fma() {
                    // SAFETY: the machine was just found to have the features that `wide` is compiled for.
                    return unsafe { wide($($arg),*) };
                }
            }
            $kernel::<false>($($arg),*)
        }
    };
}
pub(super) use dispatch;
