//! The generator that corpora and arrivals are drawn with: SplitMix64, one stream for each example and attempt.
//!
//! Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014.

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The stream of one example; `attempt` counts up when its payload occurred before.
    pub(crate) fn of(seed: u64, example: usize, attempt: u64) -> Self {
        let first = Self(seed.wrapping_mul(1_000_003).wrapping_add(example as u64)).next();
        Self(first ^ attempt.wrapping_mul(0x5851_F42D_4C95_7F2D))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    ///
    /// # Panics
    /// `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A number from 0 up to but not 1, each as likely as the others.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
