//! Zeros at random, from a generator that counts: a value's fate follows from where it is, so that the way back makes the same
//! zeros again and nothing has to be kept.
//!
//! The generator is Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use super::{Onto, chunks};
use crate::{
    host::Shared,
    simd::{Level, Vector, dispatch, load_up_to, store_up_to},
};

/// Random numbers of a layer in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) seed: u64,
    /// Counts the steps.
    pub(crate) step: u32,
    /// Which layer's.
    pub(crate) layer: u32,
}

/// Blocks that are made at once, so that the compiler makes vectors of them.
const BLOCKS: usize = 16;

/// Numbers that are made at once.
pub(crate) const TOGETHER: usize = 4 * BLOCKS;

impl Stream {
    /// Numbers `TOGETHER * index` and those after it.
    #[inline(always)]
    pub(crate) fn numbers(self, index: u64) -> [u32; TOGETHER] {
        const FACTORS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
        const STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
        let first = index * BLOCKS as u64;
        let mut words = [
            std::array::from_fn::<u32, BLOCKS, _>(|i| (first + i as u64) as u32),
            std::array::from_fn(|i| ((first + i as u64) >> 32) as u32),
            [self.step; BLOCKS],
            [self.layer; BLOCKS],
        ];
        let mut key = [self.seed as u32, (self.seed >> 32) as u32];
        for _ in 0..10 {
            for i in 0..BLOCKS {
                let [a, b, c, d] = words.each_ref().map(|word| word[i]);
                let products = [FACTORS[0] * u64::from(a), FACTORS[1] * u64::from(c)];
                words[0][i] = (products[1] >> 32) as u32 ^ b ^ key[0];
                words[1][i] = products[1] as u32;
                words[2][i] = (products[0] >> 32) as u32 ^ d ^ key[1];
                words[3][i] = products[0] as u32;
            }
            key = [key[0].wrapping_add(STEPS[0]), key[1].wrapping_add(STEPS[1])];
        }
        let mut numbers = [0; TOGETHER];
        for (word, numbers) in words.iter().zip(numbers.chunks_exact_mut(BLOCKS)) {
            numbers.copy_from_slice(word);
        }
        numbers
    }
}

/// Which values become zeros, and what the others are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dropout {
    pub(crate) stream: Stream,
    /// Numbers below this are zeros.
    threshold: u64,
    factor: f32,
}

impl Dropout {
    /// For a share of zeros.
    pub(crate) fn new(share: f64, stream: Stream) -> Self {
        let share = share.clamp(0.0, 1.0);
        Self {
            stream,
            threshold: (share * (1u64 << 32) as f64) as u64,
            factor: if share < 1.0 {
                (1.0 / (1.0 - share)) as f32
            } else {
                0.0
            },
        }
    }

    /// What values from `TOGETHER * index` on are multiplied by.
    #[inline(always)]
    pub(crate) fn factors(&self, index: u64) -> [f32; TOGETHER] {
        let (threshold, factor) = (self.threshold, self.factor);
        let numbers = self.stream.numbers(index);
        numbers.map(|number| {
            if u64::from(number) < threshold {
                0.0
            } else {
                factor
            }
        })
    }

    /// `to = from * factors`, on rayon's pool, which is the way there and the way back; `to` may be `from`.
    ///
    /// # Safety
    /// Both have `len` values, which nobody else uses meanwhile.
    pub(crate) unsafe fn run(&self, level: Level, [from, to]: [Shared; 2], onto: Onto, len: usize) {
        chunks(len, |part| {
            let values = [from, to].map(|values| values.from(part.start));
            // SAFETY: the level is the processor's, and the part is this task's alone.
            unsafe { part_of(level, self, part.start / TOGETHER, values, onto, part.len()) }
        });
    }
}

dispatch! {
    /// Values from `TOGETHER * first` on.
    fn part_of(dropout: &Dropout, first: usize, values: [Shared; 2], onto: Onto, len: usize) = part_kernel
}

#[inline(always)]
unsafe fn part_kernel<V: Vector>(
    dropout: &Dropout,
    first: usize,
    [from, to]: [Shared; 2],
    onto: Onto,
    len: usize,
) {
    for start in (0..len).step_by(TOGETHER) {
        let factors = dropout.factors((first + start / TOGETHER) as u64);
        let end = TOGETHER.min(len - start);
        for i in (0..end).step_by(V::LEN) {
            let count = V::LEN.min(end - i);
            // SAFETY: as the caller's: there are `len` values.
            unsafe {
                let factors: V = load_up_to(factors.as_ptr().add(i), count);
                let mut value: V = load_up_to::<V>(from.at(start + i), count).mul(factors);
                if onto == Onto::Add {
                    value = value.add(load_up_to(to.at(start + i), count));
                }
                store_up_to(value, to.at(start + i), count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first block of the authors' test vectors of Philox-4x32-10, and of all ones.
    #[test]
    fn numbers_are_those_of_the_generators_authors() {
        let stream = Stream {
            seed: 0,
            step: 0,
            layer: 0,
        };
        let block = |numbers: [u32; TOGETHER], i: usize| {
            std::array::from_fn::<_, 4, _>(|word| numbers[word * BLOCKS + i])
        };
        let expected = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
        assert_eq!(block(stream.numbers(0), 0), expected);
        let stream = Stream {
            seed: u64::MAX,
            step: u32::MAX,
            layer: u32::MAX,
        };
        let expected = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
        // Blocks of the last group count up to all ones.
        let numbers = stream.numbers(u64::MAX / BLOCKS as u64);
        assert_eq!(block(numbers, BLOCKS - 1), expected);
    }

    fn dropped(share: f64, stream: Stream, len: usize) -> Vec<f32> {
        let (mut x, mut y) = (vec![1.0; len], vec![f32::NAN; len]);
        let values = [Shared::new(&mut x), Shared::new(&mut y)];
        let dropout = Dropout::new(share, stream);
        // SAFETY: the memory is there, and nobody else uses it.
        unsafe { dropout.run(Level::detect(), values, Onto::Write, len) };
        y
    }

    #[test]
    fn as_many_values_as_asked_for_become_zeros_and_others_make_up_for_them() {
        let stream = Stream {
            seed: 7,
            step: 3,
            layer: 5,
        };
        for share in [0.0, 0.1, 0.5, 0.7, 1.0] {
            let len = 100_003;
            let y = dropped(share, stream, len);
            let zeros = y.iter().filter(|y| **y == 0.0).count() as f64 / len as f64;
            // Six times the deviation of the share of so many.
            let off = 6.0 * (share * (1.0 - share) / len as f64).sqrt();
            assert!((zeros - share).abs() <= off, "{zeros}, expected {share}");
            let kept = if share < 1.0 {
                (1.0 / (1.0 - share)) as f32
            } else {
                0.0
            };
            assert!(y.iter().all(|y| *y == 0.0 || *y == kept), "{share}");
        }
    }

    #[test]
    fn zeros_hang_on_seed_step_and_layer_and_on_nothing_else() {
        let stream = Stream {
            seed: 7,
            step: 3,
            layer: 5,
        };
        let y = dropped(0.5, stream, 50_000);
        assert_eq!(y, dropped(0.5, stream, 50_000));
        assert_eq!(y[..777], dropped(0.5, stream, 777));
        let others = [
            Stream { seed: 8, ..stream },
            Stream { step: 4, ..stream },
            Stream { layer: 6, ..stream },
        ];
        for other in others {
            let same = dropped(0.5, other, 50_000)
                .iter()
                .zip(&y)
                .filter(|(a, b)| a == b)
                .count();
            assert!((24_000..26_000).contains(&same), "{same}");
        }
    }
}
