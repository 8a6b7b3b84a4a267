//! The last of some measured numbers, and what they say together.

use std::collections::VecDeque;

/// How many times of a size are kept.
const KEPT: usize = 33;
/// How often a size is measured before a larger one is tried, and how often if that takes no time.
pub(super) const AT_LEAST: usize = 4;
const IN_NO_TIME: usize = 32;
/// What is no time, in seconds.
const NO_TIME: f64 = 0.02;
/// How well the median of times is to be known: its standard error as a part of it.
const PRECISION: f64 = 0.02;

/// The last `N` numbers, as they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Last<const N: usize>(VecDeque<f64>);

impl<const N: usize> Last<N> {
    pub(super) fn keep(&mut self, number: f64) {
        if self.is_full() {
            self.0.pop_front();
        }
        self.0.push_back(number);
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() == N
    }

    /// The number below which that part of them lies; 0 of none.
    pub(super) fn quantile(&self, part: f64) -> f64 {
        let mut sorted: Vec<f64> = self.0.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let place = (part * sorted.len().saturating_sub(1) as f64) as usize;
        sorted.get(place).copied().unwrap_or_default()
    }
}

/// The last times of a batch size, in seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    last: Last<KEPT>,
    median: f64,
    /// Passes, those that did not count included.
    pub(super) passes: usize,
    /// Which batch was the last for the sake of trying this size.
    pub(super) tried: u64,
}

impl Times {
    pub(super) fn keep(&mut self, seconds: f64) {
        self.last.keep(seconds);
        self.median = self.last.quantile(0.5);
    }

    pub(super) fn len(&self) -> usize {
        self.last.0.len()
    }

    pub(super) fn median(&self) -> f64 {
        self.median
    }

    pub(super) fn fastest(&self) -> f64 {
        self.last.quantile(0.0)
    }

    /// Whether the size has been measured often enough to try others.
    pub(super) fn is_begun(&self) -> bool {
        let enough = self.len() >= AT_LEAST && self.last.0.iter().sum::<f64>() >= NO_TIME;
        enough || self.len() >= IN_NO_TIME
    }

    /// How often it is to be measured by how much its times differ. The median's standard error is 1.25 times that of the
    /// mean, and the middle half of a normal distribution spans 1.35 standard deviations.
    pub(super) fn needed(&self) -> usize {
        let spread = self.last.quantile(0.75) - self.last.quantile(0.25);
        let of_median = 1.25 / 1.35 * spread / self.median.max(1e-9);
        ((of_median / PRECISION).powi(2).ceil() as usize).min(KEPT)
    }
}
