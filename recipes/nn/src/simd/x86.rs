//! [`Vector`] for AVX2 with FMA, and for AVX-512.

use std::arch::x86_64::*;

use super::Vector;

impl Vector for __m256 {
    const LEN: usize = 8;
    const ROWS: usize = 6;

    #[inline(always)]
    fn prefetch(from: *const f32) {
        // SAFETY: a prefetch touches no memory that the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
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
    unsafe fn sqrt(self) -> Self {
        // SAFETY: see `splat`.
        unsafe { _mm256_sqrt_ps(self) }
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
    #[inline(always)]
    unsafe fn where_between(self, other: Self, low: Self, high: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let above = _mm256_cmp_ps::<_CMP_GT_OQ>(other, low);
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(other, high);
            _mm256_and_ps(self, _mm256_and_ps(above, below))
        }
    }
}

impl Vector for __m512 {
    const LEN: usize = 16;
    const ROWS: usize = 12;

    #[inline(always)]
    fn prefetch(from: *const f32) {
        // SAFETY: a prefetch touches no memory that the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
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
    unsafe fn div_closely(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            // One of Newton's steps, on the quotient: a division takes longer than all of it.
            let estimate = _mm512_rcp14_ps(other);
            let rest = _mm512_fnmadd_ps(other, estimate, _mm512_set1_ps(1.0));
            let quotient = _mm512_mul_ps(self, estimate);
            _mm512_fmadd_ps(quotient, rest, quotient)
        }
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
    unsafe fn sqrt(self) -> Self {
        // SAFETY: see `splat`.
        unsafe { _mm512_sqrt_ps(self) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: see `splat`.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self) }
    }
    #[inline(always)]
    unsafe fn scale(self, power: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { _mm512_scalef_ps(self, power) }
    }
    #[inline(always)]
    unsafe fn where_between(self, other: Self, low: Self, high: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(other, low);
            let both = _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(above, other, high);
            _mm512_maskz_mov_ps(both, self)
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; 16]) {
        // SAFETY: see `splat`.
        unsafe {
            // Pairs of rows are interleaved, then pairs of pairs, by quarters; then quarters go where they belong.
            let mut pairs = *rows;
            for i in (0..16).step_by(2) {
                pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
                pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
            }
            let mut fours = pairs;
            for i in (0..16).step_by(4) {
                for half in 0..2 {
                    let left = _mm512_castps_pd(pairs[i + half]);
                    let right = _mm512_castps_pd(pairs[i + half + 2]);
                    fours[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(left, right));
                    fours[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(left, right));
                }
            }
            for i in 0..4 {
                let [a, b, c, d] = [fours[i], fours[i + 4], fours[i + 8], fours[i + 12]];
                let even = [
                    _mm512_shuffle_f32x4::<0x88>(a, b),
                    _mm512_shuffle_f32x4::<0x88>(c, d),
                ];
                let odd = [
                    _mm512_shuffle_f32x4::<0xdd>(a, b),
                    _mm512_shuffle_f32x4::<0xdd>(c, d),
                ];
                rows[i] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
                rows[i + 4] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
                rows[i + 8] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
                rows[i + 12] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
            }
        }
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
