use super::*;

/// Every bit pattern in turn, by a generator of Marsaglia's.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 24) as u8).collect()
    }
}

const STRIDE: usize = 11;

/// What a block writes, and whether it does.
fn samples(level: Level, block: &Block, steps: &Steps) -> ([u8; 8 * STRIDE - 3], bool) {
    let mut lines = [7; 8 * STRIDE - 3];
    let written = Kernels(level).block(block, steps, &mut lines, STRIDE);
    (lines, written)
}

/// The same on all levels as by plain code, and says whether it was written.
fn check_block(block: &Block, steps: &Steps) -> bool {
    let expected = samples(Level::Portable, block, steps);
    for level in Level::all() {
        assert_eq!(
            samples(level, block, steps),
            expected,
            "{level:?} {block:?} {steps:?}"
        );
    }
    expected.1
}

#[test]
fn places_go_along_the_diagonals() {
    let at = |y, x| place(y, x) as u8;
    let first = [at(0, 0), at(0, 1), at(1, 0), at(2, 0), at(1, 1), at(0, 2)];
    assert_eq!(PLACES[..6], first);
    let last = [at(7, 5), at(6, 6), at(5, 7), at(6, 7), at(7, 6), at(7, 7)];
    assert_eq!(PLACES[58..], last);
    let mut all = PLACES;
    all.sort_unstable();
    assert!((0..64).eq(all));
}

/// The transform is the cosine transform, as near as the standard wants it (IEEE 1180: a peak error of 1).
#[test]
fn a_block_is_near_its_cosine_transform() {
    let mut random = Random(1);
    let wave = |x: usize, u: usize| {
        let scale = if u == 0 { 0.5f64.sqrt() } else { 1.0 };
        scale * ((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0).cos() / 2.0
    };
    for _ in 0..200 {
        let mut block = [0; 64];
        for _ in 0..20 {
            block[random.below(64)] = random.below(200) as i16 - 100;
        }
        let (got, _) = samples(Level::Portable, &block, &Steps([1; 64]));
        for (y, x) in (0..64).map(|i| (i / 8, i % 8)) {
            let terms = (0..64).map(|i| {
                let (v, u) = (i / 8, i % 8);
                f64::from(block[place(v, u)]) * wave(y, v) * wave(x, u)
            });
            let exact = (terms.sum::<f64>() + 128.0).clamp(0.0, 255.0);
            let off = f64::from(got[y * STRIDE + x]) - exact;
            assert!(off.abs() < 1.5, "off by {off}");
        }
    }
}

#[test]
fn blocks_are_the_same_on_all_levels() {
    let mut random = Random(2);
    // Bits of coefficients and of steps: photographs, the whole range that is read, and all that there is.
    let mut written = [0; 4];
    for (i, (bits, step_bits)) in [(6, 5), (13, 0), (11, 4), (16, 16)].into_iter().enumerate() {
        for round in 0..20_000 {
            // From 1, as no step of a good file is 0; but for the widest, which has all.
            let (least, mask) = (u32::from(step_bits < 16), (1 << step_bits) - 1);
            let table = std::array::from_fn(|_| ((random.next() & mask) + least) as u16);
            let steps = Steps::new(&table);
            let mut block = [0; 64];
            for _ in 0..1 << (round % 7) {
                block[random.below(64)] = (random.next() as i32 >> (32 - bits)) as i16;
            }
            written[i] += usize::from(check_block(&block, &steps));
        }
    }
    let [small, whole, some, few] = written;
    assert_eq!([small, whole], [20_000; 2]);
    assert!((1000..19_000).contains(&some), "{some}");
    assert!((1..2000).contains(&few), "{few}");
}

/// Where sums between the passes are largest, in each direction.
#[test]
fn blocks_of_extremes_are_the_same_on_all_levels() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let block = std::array::from_fn(|_| [-4096, 4095][random.below(2)]);
        assert!(check_block(&block, &Steps([1; 64])));
    }
}

#[test]
fn a_coefficient_that_is_too_large_is_seen_everywhere() {
    for at in 0..64 {
        for value in [i16::MIN, -4097, -4096, 4095, 4096, i16::MAX] {
            let mut block = [0; 64];
            block[at] = value;
            let fits = (-4096..4096).contains(&value);
            assert_eq!(check_block(&block, &Steps([1; 64])), fits);
            // Nothing times anything is nothing.
            assert!(check_block(&block, &Steps([0; 64])));
            let steps = Steps::new(&[u16::MAX; 64]);
            assert!(!check_block(&block, &steps));
        }
    }
}

#[test]
fn a_flat_block_is_what_the_transform_makes_of_it() {
    for step in [0, 1, 3, 16, 255, 4096, u16::MAX] {
        let steps = Steps::new(&[step; 64]);
        for first in -2047..=2047 {
            let mut block = [0; 64];
            block[0] = first;
            let mut lines = [7; 8 * STRIDE - 3];
            let written = Kernels::default().flat_block(first, &steps, &mut lines, STRIDE);
            let expected = samples(Level::Portable, &block, &steps);
            assert_eq!((lines, written), expected, "{first} times {step}");
        }
    }
}

/// All of them, in lines of every length.
#[test]
fn colours_are_the_same_on_all_levels() {
    let mut random = Random(4);
    let kinds = [Kernels::ycc, Kernels::rgb];
    for length in (0..200).chain([4096]) {
        let lines: [_; 3] = std::array::from_fn(|_| random.bytes(length));
        let lines = [&lines[0][..], &lines[1], &lines[2]];
        for (i, kernel) in kinds.into_iter().enumerate() {
            let mut expected = vec![0; 3 * length];
            kernel(Kernels(Level::Portable), lines, &mut expected);
            for level in Level::all() {
                let mut got = vec![0; 3 * length];
                kernel(Kernels(level), lines, &mut got);
                assert_eq!(got, expected, "{level:?}, kind {i}, {length} pixels");
            }
        }
    }
}

#[test]
fn every_colour_is_the_same_on_all_levels() {
    let all: Vec<u8> = (0..=255).collect();
    for [cb, cr] in (0..=u16::MAX).map(u16::to_le_bytes) {
        // Red and blue depend on one each, green on both; of brightness all is added alike.
        let (blues, reds) = ([cb; 256], [cr; 256]);
        let mut expected = [0; 768];
        portable::ycc([&all, &blues, &reds], &mut expected);
        for level in Level::all() {
            let mut got = [0; 768];
            Kernels(level).ycc([&all, &blues, &reds], &mut got);
            assert_eq!(got, expected, "{level:?} {cb} {cr}");
        }
    }
}

#[test]
#[should_panic(expected = "eight lines")]
fn a_block_needs_room() {
    let _ = Kernels::default().block(&[1; 64], &Steps([1; 64]), &mut [0; 63], 8);
}

#[test]
#[should_panic(expected = "eight lines")]
fn a_stride_that_is_too_large_for_its_sums_is_refused() {
    let stride = usize::MAX / 7 + 1;
    let _ = Kernels::default().block(&[1; 64], &Steps([1; 64]), &mut [0; 64], stride);
}

#[test]
#[should_panic(expected = "a sample of each component")]
fn pixels_need_samples() {
    Kernels::default().ycc([&[0; 32], &[0; 32], &[0; 31]], &mut [0; 96]);
}
