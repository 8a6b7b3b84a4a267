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

    /// Has at least 32 bits at hand.
    #[inline(always)]
    pub(super) fn fill(&mut self) {
        if self.count < 32 {
            let rest = self.data.get(self.at..).unwrap_or_default();
            let word = rest
                .first_chunk()
                .map_or(0, |word| u64::from_be_bytes(*word));
            self.next |= word >> self.count;
            self.at += (63 - self.count as usize) >> 3;
            self.count |= 56;
        }
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
