//! The inverse cosine transform of a block, in the integers of libjpeg's `islow` (Loeffler, Ligtenberg and Moschytz, 1989):
//! decoders agree to the bit only where they round alike.

#![allow(
    clippy::needless_range_loop,
    reason = "compilers make vectors of plain loops over arrays"
)]

use super::Damage;

/// Fraction bits of the constants.
const FRACTION: u32 = 13;
/// Bits by which values are larger between the two passes.
const BETWEEN: u32 = 2;

/// Line by line, dequantised.
pub(super) type Block = [i32; 64];

/// A coefficient of eight-bit samples is a quarter of this at most. Decoders that compute in 16 bits show larger ones
/// differently.
const MOST: u32 = 1 << 12;

/// Writes a block's samples into lines of `stride` bytes. `last` is the zigzag index of its last coefficient that is not 0.
#[inline(always)]
pub(super) fn write(
    block: &mut Block,
    last: usize,
    lines: &mut [u8],
    stride: usize,
) -> Result<(), Damage> {
    if largest(block) >= MOST {
        return Err(Damage("a coefficient is larger than any of 8 bits"));
    }
    if last == 0 {
        let sample = sample(block[0].wrapping_add(4) >> 3);
        for y in 0..8 {
            lines[y * stride..][..8].fill(sample);
        }
        return Ok(());
    }
    // The first ten lie in the upper left quarter.
    if last < 10 {
        transform::<4>(block);
    } else {
        transform::<8>(block);
    }
    let mut samples = [0; 64];
    for i in 0..64 {
        samples[i] = sample(block[i]);
    }
    let samples = transposed(&samples);
    for (y, line) in samples.as_chunks::<8>().0.iter().enumerate() {
        lines[y * stride..][..8].copy_from_slice(line);
    }
    Ok(())
}

/// At least the largest magnitude, and less than twice as much.
#[inline(always)]
fn largest(block: &Block) -> u32 {
    let mut all = [0; 8];
    for line in block.as_chunks::<8>().0 {
        for x in 0..8 {
            all[x] |= (line[x] ^ (line[x] >> 31)) as u32;
        }
    }
    all.iter().fold(0, |all, one| all | one)
}

#[inline(always)]
fn sample(value: i32) -> u8 {
    value.saturating_add(128).clamp(0, 255) as u8
}

/// Leaves the block's lines as columns.
#[inline(always)]
fn transform<const USED: usize>(block: &mut Block) {
    pass::<USED, { FRACTION - BETWEEN }>(block);
    // As those do whose steps are of 16 bits.
    for value in block.iter_mut() {
        *value = (*value).clamp(i32::from(i16::MIN), i32::from(i16::MAX));
    }
    *block = transposed(block);
    pass::<USED, { FRACTION + BETWEEN + 3 }>(block);
}

/// Lines as columns. Each of three steps takes values from both halves in turn, which processors do with whole vectors.
#[inline(always)]
fn transposed<T: Copy>(block: &[T; 64]) -> [T; 64] {
    let mut block = *block;
    for _ in 0..3 {
        let from = block;
        for i in 0..32 {
            block[2 * i] = from[i];
            block[2 * i + 1] = from[32 + i];
        }
    }
    block
}

/// The transform of each column, of which all but the first `USED` values are 0. Eight columns lie beside each other, so
/// that a compiler makes vectors of them.
#[inline(always)]
fn pass<const USED: usize, const SHIFT: u32>(block: &mut Block) {
    let from = *block;
    for x in 0..8 {
        let at = |y: usize| if y < USED { from[y * 8 + x] } else { 0 };
        let times = |value: i32, constant: i32| value.wrapping_mul(constant);
        let sum = |a: i32, b: i32| a.wrapping_add(b);

        let turned = times(sum(at(2), at(6)), 4433);
        let low = sum(turned, times(at(6), -15137));
        let high = sum(turned, times(at(2), 6270));
        let plus = sum(at(0), at(4)) << FRACTION;
        let minus = at(0).wrapping_sub(at(4)) << FRACTION;
        let even = [
            sum(plus, high),
            sum(minus, low),
            minus.wrapping_sub(low),
            plus.wrapping_sub(high),
        ];

        let (seven, five, three, one) = (at(7), at(5), at(3), at(1));
        let both = times(sum(sum(seven, three), sum(five, one)), 9633);
        let outer = times(sum(seven, one), -7373);
        let inner = times(sum(five, three), -20995);
        let third = sum(times(sum(seven, three), -16069), both);
        let fourth = sum(times(sum(five, one), -3196), both);
        let odd = [
            sum(times(one, 12299), sum(outer, fourth)),
            sum(times(three, 25172), sum(inner, third)),
            sum(times(five, 16819), sum(inner, fourth)),
            sum(times(seven, 2446), sum(outer, third)),
        ];
        for y in 0..4 {
            let half = 1 << (SHIFT - 1);
            block[y * 8 + x] = sum(sum(even[y], odd[y]), half) >> SHIFT;
            block[(7 - y) * 8 + x] = sum(even[y].wrapping_sub(odd[y]), half) >> SHIFT;
        }
    }
}
