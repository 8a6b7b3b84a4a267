//! The arithmetic of a benchmark, free of clocks and files: percentiles, means, ratios, when a run is too short, how
//! many examples fit a budget, how long the rest will take.

mod paired;
mod spread;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    paired::{Interval, ratio_of_pairs},
    spread::Spread,
};

/// A run with fewer requests than this many times its concurrency is mostly ramp-up and tail.
pub const STEADY_REQUESTS_PER_USER: usize = 20;

/// The distribution of a latency, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 90% are at most this.
    pub p90: f64,
    /// 95% are at most this.
    pub p95: f64,
    /// 99% are at most this.
    pub p99: f64,
    /// 99.9% are at most this.
    pub p99_9: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// The distribution of these durations; `None` where there are none.
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |percent| percentile(&times, percent).map(milliseconds);
        Some(Self {
            mean: milliseconds(times.iter().sum::<Duration>()) / times.len() as f64,
            p50: at(50.0)?,
            p90: at(90.0)?,
            p95: at(95.0)?,
            p99: at(99.0)?,
            p99_9: at(99.9)?,
            max: at(100.0)?,
        })
    }
}

/// The nearest-rank percentile of sorted durations: the smallest that at least `percent` of all do not exceed.
pub fn percentile(sorted: &[Duration], percent: f64) -> Option<Duration> {
    // A product such as 0.999 * 1000 may come out a hair above the whole number that it stands for.
    let rank = (percent / 100.0 * sorted.len() as f64 - 1e-9).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// A duration in milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The mean and median of repeats, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repeats {
    /// The mean.
    pub mean: f64,
    /// The median: of an even number, the mean of the two in the middle.
    pub median: f64,
    /// Half the distance between the smallest and the largest, as a fraction of the mean.
    pub spread: f64,
}

impl Repeats {
    /// The mean, median and spread of these values; `None` where there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        Some(Self {
            mean,
            median: (values[(count - 1) / 2] + values[count / 2]) / 2.0,
            spread: if mean == 0.0 {
                0.0
            } else {
                (most - least) / 2.0 / mean
            },
        })
    }
}

/// Whether a closed-loop run is long enough for its figures to be those of the steady state.
pub fn is_steady(requests: usize, concurrency: usize) -> bool {
    requests >= STEADY_REQUESTS_PER_USER * concurrency
}

/// How many requests carry `examples` examples, `batch` in each but the last.
pub fn requests(examples: usize, batch: usize) -> usize {
    examples.div_ceil(batch)
}

/// One cell of a matrix, for estimating how long it takes.
#[derive(Clone, Copy, Debug)]
pub struct CellCost {
    /// Seconds for one example at this batch size.
    pub seconds_per_example: f64,
    /// How often the cell is run.
    pub runs: usize,
}

/// The most examples that all cells together can run in `budget`, at most `wanted` and at least `least`.
pub fn examples_within(budget: Duration, cells: &[CellCost], wanted: usize, least: usize) -> usize {
    let per_example: f64 = cells
        .iter()
        .map(|cell| cell.seconds_per_example * cell.runs as f64)
        .sum();
    let fitting = (budget.as_secs_f64() / per_example) as usize;
    // Whole batches, so that no cell ends on a part of one.
    let whole = fitting / least * least;
    whole.max(least).min(wanted)
}

/// The time that the rest will take if it goes on as it has; `None` before anything is done.
pub fn time_left(elapsed: Duration, done: f64, total: f64) -> Option<Duration> {
    (done > 0.0)
        .then(|| Duration::try_from_secs_f64(elapsed.as_secs_f64() * (total - done) / done).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let times = ms(1..=1000);
        for (percent, expected) in [
            (0.0, 1),
            (50.0, 500),
            (99.0, 990),
            (99.9, 999),
            (100.0, 1000),
        ] {
            assert_eq!(
                percentile(&times, percent),
                Some(Duration::from_millis(expected)),
                "p{percent}"
            );
        }
        assert_eq!(percentile(&ms([7]), 99.9), Some(Duration::from_millis(7)));
        assert_eq!(
            percentile(&ms([1, 9]), 50.0),
            Some(Duration::from_millis(1))
        );
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn latency_sorts_what_it_is_given() {
        let latency = Latency::of(ms([30, 10, 20, 40])).unwrap();
        assert_eq!((latency.mean, latency.p50, latency.max), (25.0, 20.0, 40.0));
        assert_eq!(Latency::of(Vec::new()), None);
    }

    #[test]
    fn repeats_have_a_mean_and_a_spread() {
        let repeats = Repeats::of([9.0, 10.0, 11.0]).unwrap();
        assert!((repeats.mean - 10.0).abs() < 1e-12 && (repeats.spread - 0.1).abs() < 1e-12);
        assert_eq!(repeats.median, 10.0);
        assert_eq!(Repeats::of([8.0, 1.0, 3.0, 2.0]).unwrap().median, 2.5);
        assert_eq!(Repeats::of([4.0]).unwrap().spread, 0.0);
        assert_eq!(Repeats::of([]), None);
    }

    #[test]
    fn steady_needs_twenty_requests_a_user() {
        assert!(is_steady(1280, 64) && !is_steady(1279, 64));
        assert!(!is_steady(requests(8192, 128), 16));
        assert_eq!(requests(8192, 128), 64);
        assert_eq!((requests(33, 32), requests(32, 32)), (2, 1));
    }

    #[test]
    fn examples_shrink_to_the_budget_in_whole_batches() {
        let cells = [
            CellCost {
                seconds_per_example: 0.01,
                runs: 3,
            },
            CellCost {
                seconds_per_example: 0.02,
                runs: 1,
            },
        ];
        let within = |seconds| examples_within(Duration::from_secs(seconds), &cells, 8192, 128);
        assert_eq!(within(1000), 8192);
        assert_eq!(within(100), 1920);
        assert_eq!(within(1), 128);
        assert_eq!(examples_within(Duration::from_secs(1), &cells, 50, 128), 50);
    }

    #[test]
    fn time_left_is_proportional() {
        let elapsed = Duration::from_secs(10);
        assert_eq!(time_left(elapsed, 1.0, 4.0), Some(Duration::from_secs(30)));
        assert_eq!(time_left(elapsed, 4.0, 4.0), Some(Duration::ZERO));
        assert_eq!(time_left(elapsed, 0.0, 4.0), None);
    }
}
