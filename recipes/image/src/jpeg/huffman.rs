//! Huffman tables, in the form that a decoder looks codes up in.

use std::sync::{Arc, LazyLock};

use super::{Damage, bits::Bits};

/// Codes up to so many bits are found in one step; nearly all are.
const LOOK: u32 = 10;

/// A code's symbol by the next bits, and what it says of a coefficient as well.
pub(super) struct Huffman {
    /// By the next [`LOOK`] bits: length and symbol of the code that they begin with, or 0 for a longer one.
    codes: Box<[u16; 1 << LOOK]>,
    /// By the same bits: the [`Step`] of the code, or 0 where it is a longer one or none of a coefficient.
    steps: Box<[u32; 1 << LOOK]>,
    /// The end of the codes of each length, exclusive and left-aligned in 16 bits.
    ends: [u32; 17],
    /// What leads from a code of each length to its symbol's place.
    offsets: [i32; 17],
    symbols: [u8; 256],
}

/// What a code says of a coefficient, in bytes from the lowest, so that each is a shift away: bits of code and value, bits of
/// the code, 63 less those of the value, and the zeros before it.
type Step = u32;

/// The zeros of a code that ends a block: more than there can be.
pub(super) const END: usize = 128;

/// The step of a code of so many bits. No value of eight-bit samples has more than ten.
fn step(length: u32, symbol: u32) -> Option<Step> {
    let (zeros, size) = match (symbol >> 4, symbol & 15) {
        (zeros, 0) if zeros < 15 => (END as u32, 0),
        run => run,
    };
    (size <= 10).then_some(zeros << 24 | (63 - size) << 16 | length << 8 | (length + size))
}

impl Huffman {
    /// From the numbers of codes of 1 to 16 bits, and their symbols.
    pub(super) fn new(counts: &[u8; 16], listed: &[u8]) -> Result<Self, Damage> {
        let mut table = Self {
            codes: Box::new([0; 1 << LOOK]),
            steps: Box::new([0; 1 << LOOK]),
            ends: [0; 17],
            offsets: [0; 17],
            symbols: [0; 256],
        };
        let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
        match table.symbols.get_mut(..total) {
            Some(symbols) if listed.len() == total => symbols.copy_from_slice(listed),
            _ => return Err(Damage("a Huffman table has a wrong number of symbols")),
        }
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16u32 {
            table.offsets[length as usize] = place as i32 - code as i32;
            for _ in 0..counts[length as usize - 1] {
                if code >= 1 << length {
                    return Err(Damage("a Huffman table has more codes than there are"));
                }
                if length <= LOOK {
                    let first = (code << (LOOK - length)) as usize;
                    let entry = (length << 8) as u16 | u16::from(table.symbols[place]);
                    let all = first..first + (1 << (LOOK - length));
                    let step = step(length, u32::from(table.symbols[place]));
                    table.codes[all.clone()].fill(entry);
                    table.steps[all].fill(step.unwrap_or(0));
                }
                code += 1;
                place += 1;
            }
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }

    /// The next symbol. At least 16 bits must be at hand.
    #[inline(always)]
    pub(super) fn symbol(&self, bits: &mut Bits) -> Result<u32, Damage> {
        let (length, symbol) = split(self.codes[bits.peek(LOOK) as usize]);
        if length > 0 {
            bits.skip(length);
            return Ok(symbol);
        }
        let (length, symbol) = self.long_code(bits.peek(16))?;
        bits.skip(length);
        Ok(symbol)
    }

    /// The length and symbol of a code that the next 16 bits begin with.
    #[cold]
    #[inline(never)]
    fn long_code(&self, next: u32) -> Result<(u32, u32), Damage> {
        let length = (LOOK + 1..=16)
            .find(|&length| next < self.ends[length as usize])
            .ok_or(Damage("a code is in no Huffman table"))?;
        let code = (next >> (16 - length)) as i32;
        let place = code + self.offsets[length as usize];
        Ok((length, u32::from(self.symbols[place as usize & 255])))
    }

    /// The next coefficient: the zeros before it, and its value. That is 0 where there are but zeros, at the end of a block
    /// more of them than it has coefficients. At least 26 bits must be at hand.
    #[inline(always)]
    pub(super) fn coefficient(&self, bits: &mut Bits) -> Result<(usize, i16), Damage> {
        let step = self.step(bits)?;
        let value = bits.signed(step >> 8, step >> 16, step & 255);
        Ok(((step >> 24) as usize, value))
    }

    /// Passes over the next coefficient: the zeros before it, and the bits of its value. Otherwise as [`Self::coefficient`].
    #[inline(always)]
    pub(super) fn pass(&self, bits: &mut Bits) -> Result<(usize, u32), Damage> {
        let step = self.step(bits)?;
        bits.skip(step & 255);
        Ok(((step >> 24) as usize, 63 - (step >> 16 & 255)))
    }

    #[inline(always)]
    fn step(&self, bits: &Bits) -> Result<Step, Damage> {
        match self.steps[bits.peek(LOOK) as usize] {
            0 => self.long_step(bits.peek(16)),
            step => Ok(step),
        }
    }

    #[cold]
    #[inline(never)]
    fn long_step(&self, next: u32) -> Result<Step, Damage> {
        let (length, symbol) = match split(self.codes[(next >> (16 - LOOK)) as usize]) {
            (0, _) => self.long_code(next)?,
            short => short,
        };
        step(length, symbol).ok_or(Damage("a coefficient is larger than any of 8 bits"))
    }
}

/// Two codes of a coefficient at once, for whoever passes over values.
pub(super) struct Pairs(Box<[Pair; 1 << Self::LOOK]>);

/// By the same order as a [`Step`]: bits of codes and values, coefficients that they make, the most bits of a value, and whether the
/// last one ends the block.
type Pair = u32;

impl Pairs {
    /// Two codes are found by so many bits, or one if there are no two; values may reach beyond.
    const LOOK: u32 = 11;

    /// Those of a table. Most files have the usual ones, whose pairs are made once.
    pub(super) fn of(table: &Huffman) -> Arc<Self> {
        static USUAL: LazyLock<Vec<(Huffman, Arc<Pairs>)>> = LazyLock::new(|| {
            let tables = [0, 1].into_iter().filter_map(|slot| usual(true, slot));
            let with_pairs = |table| {
                let pairs = Arc::new(Pairs::new(&table));
                (table, pairs)
            };
            tables.map(with_pairs).collect()
        });
        let mut usual = USUAL.iter();
        match usual
            .find(|(usual, _)| (&usual.ends, &usual.symbols) == (&table.ends, &table.symbols))
        {
            Some((_, pairs)) => Arc::clone(pairs),
            None => Arc::new(Self::new(table)),
        }
    }

    fn new(table: &Huffman) -> Self {
        let mut pairs = Box::new([0; 1 << Self::LOOK]);
        for (bits, pair) in (0u32..).zip(pairs.iter_mut()) {
            let (mut all, mut coefficients, mut most) = (0, 0, 0);
            for _ in 0..2 {
                let left = Self::LOOK.saturating_sub(all);
                let next = bits << all & ((1 << Self::LOOK) - 1);
                let step = table.steps[(next >> (Self::LOOK - LOOK)) as usize];
                if step == 0 || (step >> 8 & 255) > left {
                    break;
                }
                all += step & 255;
                most = most.max(63 - (step >> 16 & 255));
                if step >> 24 == END as u32 {
                    *pair = 1 << 24 | most << 16 | coefficients << 8 | all;
                    break;
                }
                coefficients += (step >> 24) + 1;
                *pair = most << 16 | coefficients << 8 | all;
            }
        }
        Self(pairs)
    }

    /// Passes over one or two codes of coefficients and their values, if there are so few coefficients and no value has more bits: how
    /// many coefficients they make, and whether the block ends. At least 31 bits must be at hand.
    #[inline(always)]
    pub(super) fn pass(&self, bits: &mut Bits, room: usize, most: u32) -> Option<(usize, bool)> {
        let pair = self.0[bits.peek(Self::LOOK) as usize];
        let coefficients = (pair >> 8 & 255) as usize;
        if pair == 0 || coefficients > room || (pair >> 16 & 255) > most {
            return None;
        }
        bits.skip(pair & 255);
        Some((coefficients, pair >> 24 > 0))
    }
}

#[inline(always)]
fn split(entry: u16) -> (u32, u32) {
    (u32::from(entry >> 8), u32::from(entry & 255))
}

/// `size` bits as the signed number that they stand for (T.81, figure F.12).
#[inline(always)]
pub(super) fn extend(raw: u32, size: u32) -> i32 {
    let negative = size > 0 && raw >> (size - 1) == 0;
    raw as i32 - if negative { (1 << size) - 1 } else { 0 }
}

/// The tables that frames without any mean (T.81, annex K.3): for brightness and for colour.
pub(super) fn usual(ac: bool, slot: usize) -> Option<Huffman> {
    let (counts, symbols): (&[u8; 16], &[u8]) = match (ac, slot) {
        (false, 0) => (&DC_COUNTS[0], &DC_SYMBOLS),
        (false, 1) => (&DC_COUNTS[1], &DC_SYMBOLS),
        (true, 0) => (&AC_COUNTS[0], &AC_SYMBOLS[0]),
        (true, 1) => (&AC_COUNTS[1], &AC_SYMBOLS[1]),
        _ => return None,
    };
    Huffman::new(counts, symbols).ok()
}

const DC_COUNTS: [[u8; 16]; 2] = [
    [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
    [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
];
const DC_SYMBOLS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const AC_COUNTS: [[u8; 16]; 2] = [
    [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
    [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119],
];
#[rustfmt::skip]
const AC_SYMBOLS: [[u8; 162]; 2] = [
    [
        1, 2, 3, 0, 4, 17, 5, 18, 33, 49, 65, 6, 19, 81, 97, 7, 34, 113, 20, 50, 129, 145, 161, 8,
        35, 66, 177, 193, 21, 82, 209, 240, 36, 51, 98, 114, 130, 9, 10, 22, 23, 24, 25, 26, 37, 38, 39, 40,
        41, 42, 52, 53, 54, 55, 56, 57, 58, 67, 68, 69, 70, 71, 72, 73, 74, 83, 84, 85, 86, 87, 88, 89,
        90, 99, 100, 101, 102, 103, 104, 105, 106, 115, 116, 117, 118, 119, 120, 121, 122, 131, 132, 133, 134, 135, 136, 137,
        138, 146, 147, 148, 149, 150, 151, 152, 153, 154, 162, 163, 164, 165, 166, 167, 168, 169, 170, 178, 179, 180, 181, 182,
        183, 184, 185, 186, 194, 195, 196, 197, 198, 199, 200, 201, 202, 210, 211, 212, 213, 214, 215, 216, 217, 218, 225, 226,
        227, 228, 229, 230, 231, 232, 233, 234, 241, 242, 243, 244, 245, 246, 247, 248, 249, 250,
    ],
    [
        0, 1, 2, 3, 17, 4, 5, 33, 49, 6, 18, 65, 81, 7, 97, 113, 19, 34, 50, 129, 8, 20, 66, 145,
        161, 177, 193, 9, 35, 51, 82, 240, 21, 98, 114, 209, 10, 22, 36, 52, 225, 37, 241, 23, 24, 25, 26, 38,
        39, 40, 41, 42, 53, 54, 55, 56, 57, 58, 67, 68, 69, 70, 71, 72, 73, 74, 83, 84, 85, 86, 87, 88,
        89, 90, 99, 100, 101, 102, 103, 104, 105, 106, 115, 116, 117, 118, 119, 120, 121, 122, 130, 131, 132, 133, 134, 135,
        136, 137, 138, 146, 147, 148, 149, 150, 151, 152, 153, 154, 162, 163, 164, 165, 166, 167, 168, 169, 170, 178, 179, 180,
        181, 182, 183, 184, 185, 186, 194, 195, 196, 197, 198, 199, 200, 201, 202, 210, 211, 212, 213, 214, 215, 216, 217, 218,
        226, 227, 228, 229, 230, 231, 232, 233, 234, 242, 243, 244, 245, 246, 247, 248, 249, 250,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What one or two codes say, read one by one: the bits after them, the coefficients, the most bits of a value, and whether the
    /// block ends.
    fn one_by_one(table: &Huffman, data: &[u8], codes: usize) -> Option<(u32, usize, u32, bool)> {
        let mut bits = Bits::new(data);
        bits.fill();
        let (mut coefficients, mut most) = (0, 0);
        for _ in 0..codes {
            let (zeros, size) = table.pass(&mut bits).ok()?;
            most = most.max(size);
            if zeros == END {
                return Some((bits.peek(16), coefficients, most, true));
            }
            coefficients += zeros + 1;
        }
        Some((bits.peek(16), coefficients, most, false))
    }

    #[test]
    fn tables_of_a_files_own_have_pairs_of_their_own() {
        let table = usual(true, 0).unwrap();
        let mut symbols = AC_SYMBOLS[0];
        symbols.reverse();
        let own = Huffman::new(&AC_COUNTS[0], &symbols).unwrap();
        assert_eq!(Pairs::of(&table).0, Pairs::new(&table).0);
        assert_eq!(Pairs::of(&own).0, Pairs::new(&own).0);
        assert_ne!(Pairs::of(&own).0, Pairs::of(&table).0);
    }

    #[test]
    fn pairs_say_what_codes_say_one_by_one() {
        let mut seed = 1u64;
        let (mut ones, mut twos) = (0, 0);
        for slot in 0..2 {
            let table = usual(true, slot).unwrap();
            let pairs = Pairs::of(&table);
            assert!(Arc::ptr_eq(&pairs, &Pairs::of(&table)), "made once");
            for _ in 0..50_000 {
                seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                let data = [seed.rotate_right(29).to_be_bytes(), [0; 8]].concat();
                let (one, two) = (one_by_one(&table, &data, 1), one_by_one(&table, &data, 2));
                let mut bits = Bits::new(&data);
                bits.fill();
                let Some((coefficients, ends)) = pairs.pass(&mut bits, 63, 10) else {
                    continue;
                };
                let found = |said: &Option<(u32, usize, u32, bool)>| {
                    said.is_some_and(|(next, k, _, end)| {
                        (next, k, end) == (bits.peek(16), coefficients, ends)
                    })
                };
                assert!(found(&one) || found(&two), "{seed:x}: {one:?}, {two:?}");
                ones += usize::from(found(&one));
                twos += usize::from(found(&two));
                // What does not fit is left.
                let (_, _, most, _) = if found(&two) { two } else { one }.unwrap();
                let mut bits = Bits::new(&data);
                bits.fill();
                let before = bits.peek(16);
                let too_large = (most > 0).then(|| pairs.pass(&mut bits, 63, most - 1));
                let too_many =
                    (coefficients > 0).then(|| pairs.pass(&mut bits, coefficients - 1, 10));
                assert!(too_large.flatten().is_none() && too_many.flatten().is_none());
                assert_eq!(bits.peek(16), before);
            }
        }
        assert!(ones > 1000 && twos > 50_000, "{ones} and {twos}");
    }
}
