//! What a JPEG is decoded with beside its Huffman codes: the inverse transform of a block, and colours.
//!
//! Both are defined to the bit: by the integers of libjpeg's `islow` (Loeffler, Ligtenberg and Moschytz, 1989), as decoders
//! agree only where they round alike, and by the 16 bits of fraction in which libjpeg converts colours. So every
//! instruction set gives the same bytes as the plain code.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
#[cfg(test)]
mod tests;

use crate::simd::Level;

/// A block's coefficients, each at its [place](PLACES).
pub type Block = [i16; 64];

/// Where a block's coefficients stand, in the order in which they come (T.81, figure A.6): so that a vector holds two lines
/// in turn, whose products are added in pairs.
pub const PLACES: [u8; 64] = {
    let mut places = [0; 64];
    let (mut x, mut y) = (0, 0);
    let mut k = 0;
    while k < 64 {
        places[k] = place(y, x) as u8;
        // Up and right along one diagonal, down and left along the next.
        let up = (x + y) % 2 == 0;
        match (up, x, y) {
            (true, 7, _) => y += 1,
            (true, _, 0) => x += 1,
            (true, ..) => (x, y) = (x + 1, y - 1),
            (false, _, 7) => x += 1,
            (false, 0, _) => y += 1,
            (false, ..) => (x, y) = (x - 1, y + 1),
        }
        k += 1;
    }
    places
};

/// Lines 0 and 4 first, then 2 and 6, 1 and 3, 5 and 7; columns likewise, for the second pass has them as lines.
const fn place(y: usize, x: usize) -> usize {
    const TURN: [usize; 8] = [0, 4, 2, 5, 1, 6, 3, 7];
    TURN[y] / 2 * 16 + TURN[x] * 2 + TURN[y] % 2
}

/// A dequantised coefficient of eight-bit samples is a quarter of this at most. Decoders that compute in 16 bits show larger
/// ones differently.
const MOST: i32 = 1 << 12;

/// What a component's coefficients are multiplied by.
#[derive(Clone, Debug)]
pub struct Steps([i16; 64]);

impl Steps {
    /// From a table of quantisation, in the order in which coefficients come.
    pub fn new(table: &[u16; 64]) -> Self {
        let mut steps = [0; 64];
        for (&place, &step) in PLACES.iter().zip(table) {
            // More makes any coefficient too large.
            steps[usize::from(place)] = step.min(MOST as u16 + 1) as i16;
        }
        Self(steps)
    }

    /// What the coefficient is multiplied by that comes at this place.
    pub fn step(&self, k: usize) -> i32 {
        self.0[usize::from(PLACES[k])].into()
    }

    /// Whether a coefficient, multiplied by its step, is one that blocks may have.
    #[inline]
    pub fn fits(product: i32) -> bool {
        (-MOST..MOST).contains(&product)
    }

    /// The most bits of which a coefficient of this step may have all: its magnitude is below `1 << bits`.
    pub fn bits(step: i32) -> u8 {
        let all = |&bits: &u8| Self::fits(((1 << bits) - 1) * step);
        (0..12).rfind(all).unwrap_or(0)
    }

    /// The one sample of a block that has no coefficient but the first, or none where that is too large.
    #[inline]
    fn flat(&self, first: i16) -> Option<u8> {
        let value = i32::from(first) * i32::from(self.0[0]);
        Self::fits(value).then(|| (((value + 4) >> 3) + 128).clamp(0, 255) as u8)
    }
}

/// The code that is fastest on this processor.
#[derive(Clone, Copy, Debug)]
pub struct Kernels(Level);

impl Default for Kernels {
    fn default() -> Self {
        Self(Level::detect())
    }
}

impl Kernels {
    /// Dequantises and transforms a block, and writes its samples into eight lines that begin `stride` bytes after each
    /// other. False, and nothing is written, if a coefficient is too large.
    ///
    /// # Panics
    /// `lines` ends before the samples do.
    #[inline]
    #[must_use]
    pub fn block(self, block: &Block, steps: &Steps, lines: &mut [u8], stride: usize) -> bool {
        let before_last = lines.len().checked_sub(8);
        assert!(
            before_last.is_some_and(|bytes| stride <= bytes / 7),
            "eight lines of samples"
        );
        match self.0 {
            Level::Portable => portable::block(block, steps, lines, stride),
            // SAFETY: the level is one of this processor's, and there is room for the samples.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => unsafe { avx2::block(block, steps, lines, stride) },
        }
    }

    /// The same for a block of which only the first coefficient is not 0.
    #[inline]
    #[must_use]
    pub fn flat_block(self, first: i16, steps: &Steps, lines: &mut [u8], stride: usize) -> bool {
        let sample = steps.flat(first);
        if let Some(sample) = sample {
            for y in 0..8 {
                lines[y * stride..][..8].fill(sample);
            }
        }
        sample.is_some()
    }

    /// Lines of brightness, blue and red -> pixels, as JFIF has it.
    ///
    /// # Panics
    /// They are not of one length.
    pub fn ycc(self, lines: [&[u8]; 3], pixels: &mut [u8]) {
        check(lines, pixels);
        match self.0 {
            Level::Portable => portable::ycc(lines, pixels),
            // SAFETY: the level is one of this processor's, and the lines have as many samples as there are pixels.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => unsafe { avx2::ycc(lines, pixels) },
        }
    }

    /// Lines of red, green and blue -> pixels.
    ///
    /// # Panics
    /// They are not of one length.
    pub fn rgb(self, lines: [&[u8]; 3], pixels: &mut [u8]) {
        check(lines, pixels);
        match self.0 {
            Level::Portable => portable::rgb(lines, pixels),
            // SAFETY: as for `ycc`.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => unsafe { avx2::rgb(lines, pixels) },
        }
    }
}

fn check(lines: [&[u8]; 3], pixels: &[u8]) {
    assert!(
        lines.iter().all(|line| line.len() * 3 == pixels.len()),
        "a sample of each component for each pixel"
    );
}
