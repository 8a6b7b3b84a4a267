//! Devices whose time is known, with noise, drift and a neighbour that comes and goes and doubles all times: what a fit makes of
//! them, against the best of all fixed sizes.

use super::*;

const LARGEST: usize = 1024;
const BATCHES: usize = 6000;

/// Numbers that are the same each time: xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..10 {
            random.number();
        }
        random
    }

    /// 0 to 1.
    fn number(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn happens(&mut self, part: f64) -> bool {
        self.number() < part
    }

    /// Evenly in the logarithm.
    fn between(&mut self, from: f64, to: f64) -> f64 {
        from * (to / from).powf(self.number())
    }

    fn normal(&mut self) -> f64 {
        let length = (-2.0 * self.number().max(1e-12).ln()).sqrt();
        length * (std::f64::consts::TAU * self.number()).cos()
    }
}

#[derive(Debug)]
struct Device {
    /// Seconds of a batch, and of each item from `full` items on, in steps of a tile.
    fixed: f64,
    per_item: f64,
    tile: usize,
    full: f64,
    /// As a standard deviation of the logarithm, and how often a time is off by anything from 2 to 20.
    noise: f64,
    outliers: f64,
    /// Seconds after which the neighbour comes again, if there is one; and whether it is there at first.
    period: Option<f64>,
    starts_busy: bool,
    /// What becomes of the fixed part over so many seconds.
    drift: f64,
    span: f64,
}

impl Device {
    fn random(random: &mut Random) -> Self {
        loop {
            let tiles = [1, 1, 4, 8, 16, 24, 32, 32, 48, 64];
            let mut device = Self {
                fixed: random.between(2e-5, 2e-2),
                per_item: random.between(5e-6, 1e-2),
                tile: tiles[(random.number() * tiles.len() as f64) as usize],
                full: if random.happens(0.5) {
                    random.between(1.0, 200.0)
                } else {
                    1.0
                },
                noise: random.between(0.005, 0.1),
                outliers: if random.happens(0.5) { 0.02 } else { 0.0 },
                period: random.happens(0.5).then(|| random.between(2.0, 60.0)),
                starts_busy: random.happens(0.5),
                drift: if random.happens(0.5) {
                    random.between(0.5, 2.0)
                } else {
                    1.0
                },
                span: 1.0,
            };
            let (size, _) = device.best(0.0);
            device.span = BATCHES as f64 / 2.0 * device.time(size, 0.0);
            // Others wait for a single item for too long already.
            if device.time(1, 0.0).max(device.time(1, device.span)) < 0.06 {
                return device;
            }
        }
    }

    /// Without noise and neighbour.
    fn time(&self, items: usize, at: f64) -> f64 {
        let items = (items.div_ceil(self.tile) * self.tile) as f64;
        let drift = self.drift.powf((at / self.span).min(1.0));
        self.fixed * drift + self.per_item * items.max(self.full)
    }

    fn neighbour(&self, at: f64) -> f64 {
        let is_there = |period: f64| ((at / period).fract() < 0.5) == self.starts_busy;
        if self.period.is_some_and(is_there) {
            2.0
        } else {
            1.0
        }
    }

    fn run(&self, items: usize, at: f64, random: &mut Random) -> f64 {
        let noise = (self.noise * random.normal()).exp();
        let outlier = if random.happens(self.outliers) {
            random.between(2.0, 20.0)
        } else {
            1.0
        };
        self.time(items, at) * self.neighbour(at) * noise * outlier
    }

    /// The best of all sizes that keep nobody waiting for too long, and its throughput.
    fn best(&self, at: f64) -> (usize, f64) {
        let sizes = (1..=LARGEST).map(|size| (size, self.time(size, at)));
        let sizes = sizes.take_while(|&(size, seconds)| size == 1 || seconds <= TOO_LONG);
        let rates = sizes.map(|(size, seconds)| (size, rate(size, seconds)));
        rates.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
    }

    /// Its throughput in the second half of a run in which enough always waits, as a part of the best.
    fn efficiency(&self, random: &mut Random) -> f64 {
        let mut fit = Fit::new(bounds(LARGEST), 1);
        let mut at = 0.0;
        while let Some(size) = fit.next().filter(|_| fit.is_empty() || at < 2.0) {
            let seconds = self.run(size, at, random);
            fit.measured(size, seconds);
            at += seconds;
        }
        let (mut ideal, mut real) = (0.0, 0.0);
        let mut best = self.best(at).1;
        for batch in 0..BATCHES {
            let items = fit.limits().unwrap().max_batch_size;
            let seconds = self.run(items, at, random);
            if batch >= BATCHES / 2 {
                if batch % 100 == 0 {
                    best = self.best(at).1;
                }
                ideal += items as f64 / best * self.neighbour(at);
                real += (self.time(items, at) + HAND_OVER) * self.neighbour(at);
            }
            fit.add(items, items as u64, seconds);
            fit.try_another(items, items as u64, seconds);
            at += seconds + HAND_OVER;
        }
        ideal / real
    }
}

/// Of 1500 such devices 1474 were within 3 % when this was written, 1494 within 5 %, and the worst within 14 %.

#[test]
fn throughput_is_that_of_the_best_fixed_size() {
    let efficiencies: Vec<f64> = (0..DEVICES)
        .map(|seed| {
            let mut random = Random::new(seed + 1);
            Device::random(&mut random).efficiency(&mut random)
        })
        .collect();
    let within = |part: f64| {
        efficiencies
            .iter()
            .filter(|&&efficiency| efficiency >= part)
            .count()
    };
    assert!(
        within(0.97) * 100 >= 95 * efficiencies.len(),
        "{} of {DEVICES}",
        within(0.97)
    );
    assert!(within(0.85) == efficiencies.len(), "{efficiencies:?}");
}

/// More take minutes where nothing is optimised.
const DEVICES: u64 = 100;

/// Where a pass is a microsecond and a core is shared, times have hardly a measure: one is a thousand times another, and for long only
/// single requests come.
#[test]
fn times_without_measure_are_expected_to_be_no_longer_than_they_are() {
    let (mut fit, _) = measure(Fit::new(bounds(LARGEST), 1), |_| Some(1.0));
    let mut random = Random::new(3);
    let (mut most, mut least) = (0_f64, f64::MAX);
    for _ in 0..100_000 {
        let seconds = 1e-6 * (3.0 * random.normal()).exp();
        fit.add(1, 1, seconds);
        fit.try_another(1, 1, seconds);
        let Speed { fixed, per_cost } = fit.speed().unwrap();
        most = most.max(fixed + per_cost);
        least = least.min(fixed + per_cost);
    }
    assert!(most < 2e-3 && least > 1e-9, "{least:e} to {most:e} s");
}
