//! The same for processors with AVX2. Where an intermediate is wider than 16 bits it is a sum of two products in 32, so that
//! nothing is rounded or cut off but where the plain code does it.

use std::arch::x86_64::*;

use super::{Block, Steps, portable};

/// Two constants for the two values of each pair.
#[inline]
#[target_feature(enable = "avx2")]
fn pair(first: i16, second: i16) -> __m256i {
    _mm256_set1_epi32(i32::from(first as u16) | i32::from(second) << 16)
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load<T>(values: &[T], at: usize) -> __m256i {
    debug_assert!(size_of_val(&values[at..]) >= 32);
    // SAFETY: the caller vouches for 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().add(at).cast()) }
}

/// # Safety
/// There are eight lines of samples.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn block(block: &Block, steps: &Steps, lines: &mut [u8], stride: usize) -> bool {
    let mut wrong = _mm256_setzero_si256();
    let mut values = [wrong; 4];
    for (i, value) in values.iter_mut().enumerate() {
        // SAFETY: there are four times 16 values.
        let (from, step) = unsafe { (load(block, 16 * i), load(&steps.0, 16 * i)) };
        *value = _mm256_mullo_epi16(from, step);
        // Of 13 bits, their sign among them: so the rest, and all of the upper half, is that sign.
        let upper = _mm256_mulhi_epi16(from, step);
        let bits = _mm256_xor_si256(upper, _mm256_srai_epi16::<12>(*value));
        let sign = _mm256_xor_si256(upper, _mm256_srai_epi16::<15>(*value));
        wrong = _mm256_or_si256(wrong, _mm256_or_si256(bits, sign));
    }
    if _mm256_testz_si256(wrong, wrong) == 0 {
        return false;
    }
    let columns = pass::<11>(values);
    let lines_of = pass::<18>(turned(columns));
    // SAFETY: as the caller's.
    unsafe { write(lines_of, lines, stride) };
    true
}

/// The transform of eight columns. Pairs of their lines 0 and 4, 2 and 6, 1 and 3, 5 and 7 -> lines of 32 bits.
///
/// The constants are sums of those of the plain code, by the values that they multiply.
#[inline]
#[target_feature(enable = "avx2")]
fn pass<const SHIFT: i32>([p04, p26, p13, p57]: [__m256i; 4]) -> [__m256i; 8] {
    let half = _mm256_set1_epi32(1 << (SHIFT - 1));
    let times = |values, first, second| _mm256_madd_epi16(values, pair(first, second));
    let plus = _mm256_add_epi32(times(p04, 8192, 8192), half);
    let minus = _mm256_add_epi32(times(p04, 8192, -8192), half);
    let high = times(p26, 10703, 4433);
    let low = times(p26, 4433, -10704);
    let even = [
        _mm256_add_epi32(plus, high),
        _mm256_add_epi32(minus, low),
        _mm256_sub_epi32(minus, low),
        _mm256_sub_epi32(plus, high),
    ];
    let four = |a, b, c, d| _mm256_add_epi32(times(p13, a, b), times(p57, c, d));
    let odd = [
        four(11363, 9633, 6437, 2260),
        four(9633, -2259, -11362, -6436),
        four(6437, -11362, 2261, 9633),
        four(2260, -6436, 9633, -11363),
    ];
    let mut lines = [half; 8];
    for y in 0..4 {
        lines[y] = _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(even[y], odd[y]));
        lines[7 - y] = _mm256_srai_epi32::<SHIFT>(_mm256_sub_epi32(even[y], odd[y]));
    }
    lines
}

/// Lines of columns 0, 4, 2, 6, 1, 3, 5, 7, cut to 16 bits -> pairs of the columns, as [`pass`] has lines.
#[inline]
#[target_feature(enable = "avx2")]
fn turned(lines: [__m256i; 8]) -> [__m256i; 4] {
    let packed = |y: usize| {
        let packed = _mm256_packs_epi32(lines[y], lines[y + 1]);
        _mm256_castsi256_ps(packed)
    };
    let (a, b, c, d) = (packed(0), packed(2), packed(4), packed(6));
    let first = |a, b| _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
    let second = |a, b| _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
    let (p04_13, p26_57) = ([first(a, b), first(c, d)], [second(a, b), second(c, d)]);
    let lower = |[a, b]: [__m256i; 2]| _mm256_permute2x128_si256::<0x20>(a, b);
    let upper = |[a, b]: [__m256i; 2]| _mm256_permute2x128_si256::<0x31>(a, b);
    [lower(p04_13), lower(p26_57), upper(p04_13), upper(p26_57)]
}

/// Writes columns of 32 bits as lines of samples.
///
/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn write(columns: [__m256i; 8], lines: &mut [u8], stride: usize) {
    #[rustfmt::skip]
    let turn = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
    ));
    // Four columns -> four samples of each line, lines 0 to 3 in the lower half.
    let four = |x: usize| {
        let (a, b) = (
            _mm256_packs_epi32(columns[x], columns[x + 1]),
            _mm256_packs_epi32(columns[x + 2], columns[x + 3]),
        );
        let middle = _mm256_set1_epi8(i8::MIN);
        let samples = _mm256_xor_si256(_mm256_packs_epi16(a, b), middle);
        _mm256_shuffle_epi8(samples, turn)
    };
    let (left, right) = (four(0), four(4));
    let pairs = [
        _mm256_unpacklo_epi32(left, right),
        _mm256_unpackhi_epi32(left, right),
    ];
    for (i, pair) in pairs.into_iter().enumerate() {
        let halves = [
            _mm256_castsi256_si128(pair),
            _mm256_extracti128_si256::<1>(pair),
        ];
        for (half, two) in halves.into_iter().enumerate() {
            let y = 4 * half + 2 * i;
            // SAFETY: the caller vouches for eight lines.
            unsafe {
                let line = lines.as_mut_ptr().add(y * stride);
                _mm_storel_epi64(line.cast(), two);
                _mm_storel_epi64(line.add(stride).cast(), _mm_unpackhi_epi64(two, two));
            }
        }
    }
}

/// Pixels at a time.
const PIECE: usize = 32;

/// # Safety
/// The lines have a sample for each pixel.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn ycc(lines: [&[u8]; 3], pixels: &mut [u8]) {
    let whole = pixels.len() / 3 / PIECE * PIECE;
    for x in (0..whole).step_by(PIECE) {
        // SAFETY: there are PIECE samples and pixels from here.
        unsafe {
            let colours = rgb_of_ycc(lines.map(|line| load(line, x)));
            interleave(colours, &mut pixels[3 * x..]);
        }
    }
    let [y, cb, cr] = lines;
    let rest = [&y[whole..], &cb[whole..], &cr[whole..]];
    portable::ycc(rest, &mut pixels[3 * whole..]);
}

/// # Safety
/// As [`ycc`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn rgb(lines: [&[u8]; 3], pixels: &mut [u8]) {
    let whole = pixels.len() / 3 / PIECE * PIECE;
    for x in (0..whole).step_by(PIECE) {
        // SAFETY: as above.
        unsafe { interleave(lines.map(|line| load(line, x)), &mut pixels[3 * x..]) };
    }
    let [red, green, blue] = lines;
    let rest = [&red[whole..], &green[whole..], &blue[whole..]];
    portable::rgb(rest, &mut pixels[3 * whole..]);
}

#[inline]
#[target_feature(enable = "avx2")]
fn rgb_of_ycc(ycc: [__m256i; 3]) -> [__m256i; 3] {
    let zero = _mm256_setzero_si256();
    let low = sixteen(ycc.map(|line| _mm256_unpacklo_epi8(line, zero)));
    let high = sixteen(ycc.map(|line| _mm256_unpackhi_epi8(line, zero)));
    [0, 1, 2].map(|i| _mm256_packus_epi16(low[i], high[i]))
}

/// Sixteen pixels in 16 bits. What of a factor is whole is added rather than multiplied, so that the rest fits.
#[inline]
#[target_feature(enable = "avx2")]
fn sixteen([y, cb, cr]: [__m256i; 3]) -> [__m256i; 3] {
    let add = |a, b| _mm256_add_epi16(a, b);
    let middle = _mm256_set1_epi16(128);
    let (cb, cr) = (_mm256_sub_epi16(cb, middle), _mm256_sub_epi16(cr, middle));
    let (cb2, cr2) = (add(cb, cb), add(cr, cr));
    // The product in half steps, rounded down, and then to the nearest whole one.
    let times = |doubled, factor| {
        let halves = _mm256_mulhi_epi16(doubled, _mm256_set1_epi16(factor));
        _mm256_srai_epi16::<1>(add(halves, _mm256_set1_epi16(1)))
    };
    let red = add(add(y, cr), times(cr2, (91881 - 65536) as i16));
    let blue = add(add(y, cb2), times(cb2, (116_130 - 2 * 65536) as i16));
    let sum = |pairs| {
        let sum = _mm256_madd_epi16(pairs, pair(-22554, (65536 - 46802) as i16));
        _mm256_srai_epi32::<16>(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << 15)))
    };
    let sums = _mm256_packs_epi32(
        sum(_mm256_unpacklo_epi16(cb, cr)),
        sum(_mm256_unpackhi_epi16(cb, cr)),
    );
    let green = add(_mm256_sub_epi16(y, cr), sums);
    [red, green, blue]
}

/// Writes 32 pixels.
///
/// # Safety
/// There is room for them.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn interleave([red, green, blue]: [__m256i; 3], to: &mut [u8]) {
    debug_assert!(to.len() >= 3 * PIECE);
    // Of 48 bytes, each third is one colour's; so no two of its sixteen come to the same place in a vector.
    let spread = |colour, first: i32| {
        let at = |byte: i32| (11 * (byte - first)).rem_euclid(16) as i8;
        #[rustfmt::skip]
        let from = _mm_setr_epi8(
            at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7),
            at(8), at(9), at(10), at(11), at(12), at(13), at(14), at(15),
        );
        _mm256_shuffle_epi8(colour, _mm256_broadcastsi128_si256(from))
    };
    let (red, green, blue) = (spread(red, 0), spread(green, 1), spread(blue, 2));
    #[rustfmt::skip]
    let third = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1,
    ));
    let next = _mm256_bslli_epi128::<1>(third);
    // Bytes 0, 3, 6.. of the first, 1, 4, 7.. of the second, and the rest of the third.
    let merge = |first, second, rest| {
        _mm256_blendv_epi8(_mm256_blendv_epi8(rest, second, next), first, third)
    };
    let (a, b, c) = (
        merge(red, green, blue),
        merge(green, blue, red),
        merge(blue, red, green),
    );
    let all = [
        _mm256_permute2x128_si256::<0x20>(a, b),
        _mm256_blend_epi32::<0b1111_0000>(c, a),
        _mm256_permute2x128_si256::<0x31>(b, c),
    ];
    for (i, bytes) in all.into_iter().enumerate() {
        // SAFETY: the caller vouches for three vectors.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().add(32 * i).cast(), bytes) };
    }
}
