//! When requests are due: a process that knows nothing of answers.

use std::time::Duration;

use crate::{args::ArrivalProcess, corpus::Rng};

/// Due times since the beginning, ascending, without end.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    process: ArrivalProcess,
    /// Requests a second.
    rate: f64,
    rng: Rng,
    /// Gaps so far, in units of the mean gap, so that one seed gives the same pattern at every rate.
    at: f64,
}

impl Arrivals {
    /// Arrivals of this rate in requests a second, which is above 0. Equal seeds give equal times.
    pub(super) fn new(process: ArrivalProcess, rate: f64, seed: u64) -> Self {
        Self {
            process,
            rate,
            rng: Rng::of(seed, 0, 0),
            at: 0.0,
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at += match self.process {
            ArrivalProcess::Uniform => 1.0,
            // The gaps of a Poisson process are exponential; 1 - u is never 0.
            ArrivalProcess::Poisson => -(1.0 - self.rng.unit()).ln(),
        };
        Duration::try_from_secs_f64(self.at / self.rate).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(process: ArrivalProcess, rate: f64, seed: u64, count: usize) -> Vec<f64> {
        let arrivals = Arrivals::new(process, rate, seed).take(count);
        arrivals.map(|due| due.as_secs_f64()).collect()
    }

    #[test]
    fn uniform_gaps_are_equal() {
        let times = times(ArrivalProcess::Uniform, 8.0, 1, 4);
        assert_eq!(times, [0.125, 0.25, 0.375, 0.5]);
    }

    proptest! {
        #[test]
        fn a_seed_decides_the_pattern_and_the_rate_its_scale(seed: u64, rate in 0.01..1e5f64) {
            let slow = times(ArrivalProcess::Poisson, rate, seed, 200);
            prop_assert!(slow.is_sorted());
            prop_assert_eq!(&slow, &times(ArrivalProcess::Poisson, rate, seed, 200));
            let fast = times(ArrivalProcess::Poisson, 2.0 * rate, seed, 200);
            for (slow, fast) in slow.iter().zip(&fast) {
                prop_assert!((slow / 2.0 - fast).abs() <= 2e-9 + slow * 1e-9);
            }
            prop_assert_ne!(slow, times(ArrivalProcess::Poisson, rate, seed ^ 1, 200));
        }

    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn poisson_counts_have_their_mean_as_variance(seed: u64) {
            const MEAN: f64 = 10.0;
            const WINDOWS: usize = 2000;
            let mut counts = vec![0.0_f64; WINDOWS];
            let arrivals = Arrivals::new(ArrivalProcess::Poisson, MEAN, seed);
            for due in arrivals.map(|due| due.as_secs_f64()).take_while(|&due| due < WINDOWS as f64) {
                counts[due as usize] += 1.0;
            }
            let mean = counts.iter().sum::<f64>() / WINDOWS as f64;
            let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / (WINDOWS - 1) as f64;
            // Seven standard deviations of each.
            prop_assert!((mean - MEAN).abs() < 7.0 * (MEAN / WINDOWS as f64).sqrt(), "{mean}");
            let of_variance = MEAN * ((2.0 + 1.0 / MEAN) / WINDOWS as f64).sqrt();
            prop_assert!((variance - MEAN).abs() < 7.0 * of_variance, "{variance}");
        }
    }
}
