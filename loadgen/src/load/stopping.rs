//! When a point has been measured for long enough: whether an objective is kept, and how well a percentile is known.
//!
//! An objective "99 % within 50 ms" is a statement about how often a request is over its limit, so that a count decides it: with
//! what probability would so few (or so many) of so many requests be over if the true share were just the one that is allowed?
//! That is how MLPerf's LoadGen stops early (`loadgen/early_stopping.cc`; its 459 requests without one over prove p99). LoadGen
//! takes requests as independent, which in a queue they are not: a slow batch or a burst makes many late together. So counts are
//! divided by how much more they scatter from block to block than independent ones would (the design effect, by batch means).

use std::time::Duration;

/// The probability with which a verdict may be wrong, as LoadGen has it.
const DOUBT: f64 = 0.01;
/// Standard deviations on either side that hold 95 % of a normal distribution.
const TWO_SIDED: f64 = 1.96;
/// Blocks that scatter is taken from.
const BLOCKS: usize = 20;
/// A percentile that is known to this is known well enough.
pub(super) const KNOWN: f64 = 0.05;

/// What counts say of an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is kept.
    Kept,
    /// It is not.
    Broken,
    /// More requests are needed.
    Open,
}

/// What requests say of an objective that `percent` of them be in time: for each, in order, whether it was over.
pub(super) fn standing(over: &[bool], percent: f64) -> Standing {
    let allowed = 1.0 - percent / 100.0;
    let scatter = design_effect(over);
    let requests = over.len() as f64 / scatter;
    let late = over.iter().filter(|&&over| over).count() as f64 / scatter;
    // Each rounded so that it is harder to prove.
    if at_most(late.ceil() as u64, requests as u64, allowed) <= DOUBT {
        return Standing::Kept;
    }
    let fewer = (late.floor() as u64).checked_sub(1);
    let at_least = fewer.map_or(1.0, |fewer| {
        1.0 - at_most(fewer, requests.ceil() as u64, allowed)
    });
    if at_least <= DOUBT {
        Standing::Broken
    } else {
        Standing::Open
    }
}

/// A percentile and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    /// The percentile.
    pub(super) value: Duration,
    /// Half of its 95 % confidence interval as a part of it; none where the interval has no upper end yet.
    pub(super) known_to: Option<f64>,
}

/// The percentile of latencies, in the order in which requests were due. `None` is a request that was not answered, which is later
/// than all that were. None where the percentile itself is among these.
pub(super) fn estimate(latencies: &[Option<Duration>], percent: f64) -> Option<Estimate> {
    let mut sorted: Vec<Duration> = latencies.iter().copied().flatten().collect();
    sorted.sort_unstable();
    let count = latencies.len() as f64;
    let share = percent / 100.0;
    let at = |rank: f64| {
        let rank = (rank - 1e-9).ceil().max(1.0) as usize;
        sorted.get(rank - 1).copied()
    };
    let value = at(share * count)?;
    let over: Vec<bool> = latencies
        .iter()
        .map(|latency| latency.is_none_or(|latency| latency > value))
        .collect();
    // Ranks between which the true percentile lies: no distribution is assumed.
    let half = TWO_SIDED * (count * share * (1.0 - share) * design_effect(&over)).sqrt();
    let lower = at((share * count - half).max(0.0));
    let upper = at(share * count + half);
    let known_to = lower
        .zip(upper)
        .map(|(lower, upper)| (upper - lower).as_secs_f64() / 2.0 / value.as_secs_f64().max(1e-9));
    Some(Estimate { value, known_to })
}

/// How many times as much the counts of blocks scatter as those of independent requests would; at least 1.
fn design_effect(over: &[bool]) -> f64 {
    let length = over.len() / BLOCKS;
    if length == 0 {
        return 1.0;
    }
    let blocks = over.chunks_exact(length).take(BLOCKS);
    let shares: Vec<f64> = blocks
        .map(|block| block.iter().filter(|&&over| over).count() as f64 / length as f64)
        .collect();
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    let scatter = shares
        .iter()
        .map(|share| (share - mean).powi(2))
        .sum::<f64>()
        / (shares.len() - 1) as f64;
    let independent = mean * (1.0 - mean) / length as f64;
    if independent > 0.0 {
        (scatter / independent).max(1.0)
    } else {
        1.0
    }
}

/// The probability that at most `events` of `trials` independent trials are events, where each is one with probability `p`.
fn at_most(events: u64, trials: u64, p: f64) -> f64 {
    if events >= trials {
        return 1.0;
    }
    // From the term nearest to the mean outwards, where terms fall off like a geometric series.
    let below = (events as f64) < trials as f64 * p;
    let odds = p / (1.0 - p);
    let mut sum = 0.0;
    if below {
        let mut term = probability(events, trials, p);
        for k in (0..=events).rev() {
            sum += term;
            if term <= sum * 1e-16 {
                break;
            }
            term *= k as f64 / ((trials - k + 1) as f64 * odds);
        }
        sum.min(1.0)
    } else {
        let mut term = probability(events + 1, trials, p);
        for k in events + 1..=trials {
            sum += term;
            if term <= sum * 1e-16 {
                break;
            }
            term *= (trials - k) as f64 * odds / (k + 1) as f64;
        }
        (1.0 - sum).max(0.0)
    }
}

/// The probability of exactly so many events.
fn probability(events: u64, trials: u64, p: f64) -> f64 {
    let (k, n) = (events as f64, trials as f64);
    let choose = ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
    (choose + k * p.ln() + (n - k) * (-p).ln_1p()).exp()
}

/// The logarithm of a factorial: Stirling's series, whose next term is below 1e-11 from 16 on.
fn ln_factorial(n: f64) -> f64 {
    if n < 16.0 {
        return (1..=n as u32).map(|i| f64::from(i).ln()).sum();
    }
    let tail = 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3)) + 1.0 / (1260.0 * n.powi(5));
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + tail
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::corpus::Rng;

    /// Requests of which so many are over, evenly spread.
    fn spread(over: usize, of: usize) -> Vec<bool> {
        (0..of)
            .map(|i| (i + 1) * over / of > i * over / of)
            .collect()
    }

    #[test]
    fn binomial_sums_are_those_of_the_table() {
        for (events, trials, p, expected) in [
            (0, 459, 0.01, 0.009_920_97),
            (2, 10, 0.5, 0.054_687_5),
            (7, 10, 0.5, 0.945_312_5),
            (5, 20, 0.3, 0.416_370_8),
            (10, 10, 0.3, 1.0),
        ] {
            let got = at_most(events, trials, p);
            assert!((got - expected).abs() < 1e-6, "{events} of {trials}: {got}");
        }
    }

    #[test]
    fn as_in_loadgen_459_requests_without_one_over_prove_p99() {
        assert_eq!(standing(&spread(0, 458), 99.0), Standing::Open);
        assert_eq!(standing(&spread(0, 459), 99.0), Standing::Kept);
        assert_eq!(standing(&spread(0, 44), 90.0), Standing::Kept);
    }

    #[test]
    fn what_is_far_off_is_decided_and_what_is_near_stays_open() {
        assert_eq!(standing(&spread(50, 1000), 99.0), Standing::Broken);
        assert_eq!(standing(&spread(10, 1000), 99.0), Standing::Open);
        assert_eq!(standing(&spread(100, 10_000), 99.0), Standing::Open);
        assert_eq!(standing(&spread(60, 10_000), 99.0), Standing::Kept);
        assert_eq!(standing(&[], 99.0), Standing::Open);
    }

    #[test]
    fn one_stall_does_not_break_an_objective() {
        // 40 of 1000 requests are over, all of them in one place.
        let mut over = vec![false; 1000];
        over[300..340].fill(true);
        assert_eq!(standing(&over, 99.0), Standing::Open);
        assert_eq!(standing(&spread(40, 1000), 99.0), Standing::Broken);
    }

    #[test]
    fn a_percentile_counts_what_was_not_answered_as_latest() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let mut latencies: Vec<_> = (1..=98).map(ms).collect();
        latencies.extend([None, None]);
        let of = |percent| estimate(&latencies, percent).map(|estimate| estimate.value);
        assert_eq!(of(50.0), ms(50));
        assert_eq!(of(98.0), ms(98));
        assert_eq!(of(99.0), None);
        // Its interval reaches into what was not answered.
        assert_eq!(estimate(&latencies, 97.0).unwrap().known_to, None);
    }

    #[test]
    fn intervals_hold_the_true_percentile_in_95_of_100_cases() {
        let truth = -(0.01_f64).ln();
        let holds = |seed| {
            let mut rng = Rng::of(seed, 0, 0);
            let latencies: Vec<_> = (0..4000)
                .map(|_| Some(Duration::from_secs_f64(-(1.0 - rng.unit()).ln())))
                .collect();
            let Estimate { value, known_to } = estimate(&latencies, 99.0).unwrap();
            (value.as_secs_f64() - truth).abs() <= value.as_secs_f64() * known_to.unwrap()
        };
        let held = (0..200).filter(|&seed| holds(seed)).count();
        assert!((175..=200).contains(&held), "{held} of 200");
    }

    proptest! {
        #[test]
        fn sums_grow_from_nothing_to_one(trials in 1..3000u64, p in 0.001..0.5f64) {
            let mut last = 0.0;
            for events in (0..=trials).step_by(1 + trials as usize / 50) {
                let sum = at_most(events, trials, p);
                prop_assert!(sum >= last - 1e-9 && sum <= 1.0, "{events}: {last} {sum}");
                last = sum;
            }
            prop_assert_eq!(at_most(trials, trials, p), 1.0);
        }

        #[test]
        fn more_requests_of_the_same_kind_keep_a_verdict(over in 0..60usize) {
            let short = standing(&spread(over, 1000), 99.0);
            let long = standing(&spread(over * 10, 10_000), 99.0);
            prop_assert!(short == long || short == Standing::Open, "{over}: {short:?} {long:?}");
        }
    }
}
