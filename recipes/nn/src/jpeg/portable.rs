//! Plain code, which says what the bytes are.

#![allow(
    clippy::needless_range_loop,
    reason = "compilers make vectors of plain loops over arrays"
)]

use super::{Block, MOST, Steps, place};

/// Fraction bits of the transform's constants.
const FRACTION: u32 = 13;
/// Bits by which values are larger between its two passes.
const BETWEEN: u32 = 2;

/// Line by line, dequantised.
type Values = [i32; 64];

pub(super) fn block(block: &Block, steps: &Steps, lines: &mut [u8], stride: usize) -> bool {
    let mut values = [0; 64];
    let mut too_large = false;
    for y in 0..8 {
        for x in 0..8 {
            let at = place(y, x);
            let value = i32::from(block[at]) * i32::from(steps.0[at]);
            too_large |= !(-MOST..MOST).contains(&value);
            values[y * 8 + x] = value;
        }
    }
    if too_large {
        return false;
    }
    pass::<{ FRACTION - BETWEEN }>(&mut values);
    // As those do whose steps are of 16 bits.
    for value in &mut values {
        *value = (*value).clamp(i32::from(i16::MIN), i32::from(i16::MAX));
    }
    values = transposed(&values);
    pass::<{ FRACTION + BETWEEN + 3 }>(&mut values);
    let samples = values.map(|value| value.saturating_add(128).clamp(0, 255) as u8);
    let samples = transposed(&samples);
    for (y, line) in samples.as_chunks::<8>().0.iter().enumerate() {
        lines[y * stride..][..8].copy_from_slice(line);
    }
    true
}

/// Lines as columns. Each of three steps takes values from both halves in turn, which processors do with whole vectors.
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

/// The transform of each column. Eight columns lie beside each other, so that a compiler makes vectors of them.
fn pass<const SHIFT: u32>(block: &mut Values) {
    let from = *block;
    for x in 0..8 {
        let at = |y: usize| from[y * 8 + x];
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

pub(super) fn ycc([y, cb, cr]: [&[u8]; 3], pixels: &mut [u8]) {
    const HALF: i32 = 1 << 15;
    let clip = |value: i32| value.clamp(0, 255) as u8;
    let pixels = pixels.as_chunks_mut::<3>().0.iter_mut();
    for (((pixel, &y), &cb), &cr) in pixels.zip(y).zip(cb).zip(cr) {
        let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
        *pixel = [
            clip(y + ((91881 * cr + HALF) >> 16)),
            clip(y + ((-22554 * cb - 46802 * cr + HALF) >> 16)),
            clip(y + ((116_130 * cb + HALF) >> 16)),
        ];
    }
}

pub(super) fn rgb([red, green, blue]: [&[u8]; 3], pixels: &mut [u8]) {
    let pixels = pixels.as_chunks_mut::<3>().0.iter_mut();
    for (((pixel, &red), &green), &blue) in pixels.zip(red).zip(green).zip(blue) {
        *pixel = [red, green, blue];
    }
}
