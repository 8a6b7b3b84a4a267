//! The bits of a scan's data, from one restart marker to the next.

/// Zeros after the data, so that eight bytes can be read anywhere in it.
pub(super) const PADDING: usize = 8;

/// Bits, highest first. Past the end of the data there are zeros, and [`Bits::is_overrun`] tells.
pub(super) struct Bits<'a> {
    /// With [`PADDING`].
    data: &'a [u8],
    at: usize,
    /// The next bits, from the top. Those past `count` are either 0 or what follows.
    next: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Of data with [`PADDING`] after it.
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            at: 0,
            next: 0,
            count: 0,
        }
    }

    /// Has at least 56 bits at hand. There is nothing in it that a processor could guess wrongly, and what it reads does not
    /// depend on the bits taken since the last time.
    #[inline(always)]
    pub(super) fn fill(&mut self) {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let word = rest
            .first_chunk()
            .map_or(0, |word| u64::from_be_bytes(*word));
        self.next |= word >> self.count;
        self.at += (63 - self.count as usize) >> 3;
        self.count |= 56;
    }

    /// The next bits, 1 to 16 of them.
    #[inline(always)]
    pub(super) fn peek(&self, bits: u32) -> u32 {
        (self.next >> (64 - bits)) as u32
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, bits: u32) {
        self.next <<= bits;
        self.count -= bits;
    }

    /// The next bits, up to 16 of them, taken.
    #[inline(always)]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        // In two steps, as nothing may be shifted by 64.
        let value = (self.next >> 1 >> (63 - bits)) as u32;
        self.skip(bits);
        value
    }

    /// A number as T.81's figure F.12 has it, after so many bits and all but `63 - size` long: `all` bits are taken. Of the first
    /// two, what is above the lowest six bits does not count.
    #[inline(always)]
    pub(super) fn signed(&mut self, after: u32, left: u32, all: u32) -> i16 {
        let value = self.next.wrapping_shl(after);
        // It begins with 0 if it is negative, and is then its magnitude's complement.
        let sign = !(value as i64) >> 63;
        let magnitude = ((value as i64 ^ sign) as u64 >> 1).wrapping_shr(left) as i64;
        self.skip(all);
        ((magnitude ^ sign) - sign) as i16
    }

    /// Whether more bits were taken than there are.
    #[inline(always)]
    pub(super) fn is_overrun(&self) -> bool {
        self.at * 8 - self.count as usize > (self.data.len() - PADDING) * 8
    }

    /// Whole bytes that nobody took.
    pub(super) fn left(&self) -> usize {
        (self.data.len() - PADDING).saturating_sub((self.at * 8 - self.count as usize).div_ceil(8))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::huffman::extend, *};

    #[test]
    fn a_signed_number_is_what_its_bits_stand_for() {
        for size in 0..=11 {
            for raw in 0..1u32 << size {
                // Between ones, which do not belong to it.
                let word = u64::from(raw) << (40 - size) | !(!0 >> 24) | !(!0 << (40 - size));
                let data = [word.to_be_bytes(), [0; PADDING]].concat();
                let mut bits = Bits::new(&data);
                bits.fill();
                let value = bits.signed(24, 63 - size, 24 + size);
                assert_eq!(i32::from(value), extend(raw, size), "{raw} of {size} bits");
                assert_eq!(bits.take(1), 1);
            }
        }
    }
}
