//! The right batch size, found by measuring: where throughput stops growing, a larger batch only adds latency.
//!
//! A search is plain data that is told times and says which size it wants to see next, so that it can be put off and gone
//! on with, and shared by devices of one kind. Sizes double while that pays. A time may be off by any factor, as others
//! use the machine: sizes are compared by medians, measured in turns, as often as their spread demands, and one is
//! dropped only if its best time is no gain over the others' usual ones.

use std::{collections::BTreeMap, time::Duration};

use crate::batching::Speed;

/// A batch size counts as better only if it raises throughput by this much.
const WORTHWHILE_GAIN: f64 = 1.02;
/// After this many doublings without such a gain, sizes grow no more.
const PATIENCE: usize = 2;
/// What a batch costs beside its forward pass: forming it, handing it over, waking its callers.
const HAND_OVER: f64 = 50e-6;
/// A batch that is expected to take more seconds is not tried: whoever comes meanwhile waits for it.
const TOO_LONG: f64 = 0.25;
/// How often a size is measured before a larger one is tried, and how often if that takes no time.
const AT_LEAST: usize = 4;
const IN_NO_TIME: usize = 32;
/// What is no time, in seconds.
const NO_TIME: f64 = 0.02;
/// How often those are measured that may be the best if times differ much.
const AT_MOST: usize = 201;
/// How well the median of those is to be known: its standard error as a part of it.
const PRECISION: f64 = 0.02;

/// One measured batch size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The size.
    pub batch_size: usize,
    /// Items a second in the median, handing over included.
    pub throughput: f64,
    /// How often it was measured.
    pub times: usize,
}

/// A search for the right batch size.
#[derive(Clone, Debug)]
pub struct Search {
    largest: usize,
    /// Seconds for each size, ascending.
    times: BTreeMap<usize, Vec<f64>>,
}

impl Search {
    /// A search among 1 to `largest`.
    pub fn new(largest: usize) -> Self {
        Self {
            largest: largest.max(1),
            times: BTreeMap::new(),
        }
    }

    /// The size to be measured next; none when the search has ended.
    pub fn next(&self) -> Option<usize> {
        let Some((&top, _)) = self.times.last_key_value() else {
            return Some(1);
        };
        if let Some((&size, _)) = self.times.iter().find(|(_, times)| !is_begun(times)) {
            return Some(size);
        }
        if top < self.largest && 2.0 * self.times[&top][0] <= TOO_LONG && self.still_grows() {
            return Some((top * 2).min(self.largest));
        }
        let best = self.best();
        self.times
            .iter()
            .filter(|(size, times)| {
                let at_best = rate(**size, times[0]);
                at_best * WORTHWHILE_GAIN > best && times.len() < needed(times)
            })
            .min_by_key(|(_, times)| times.len())
            .map(|(&size, _)| size)
    }

    /// A batch of this size took so long.
    pub fn add(&mut self, size: usize, time: Duration) {
        let times = self.times.entry(size).or_default();
        let seconds = time.as_secs_f64();
        let place = times.partition_point(|&other| other <= seconds);
        times.insert(place, seconds);
    }

    /// Memory ran out at this size: no batch is to be as large.
    pub fn out_of_memory(&mut self, size: usize) {
        self.times.split_off(&size.max(2));
        self.largest = self.times.keys().last().map_or(1, |&size| size);
    }

    /// Everything measured so far, by size.
    pub fn measured(&self) -> Vec<Measured> {
        let measured = |(&batch_size, times): (&usize, &Vec<f64>)| Measured {
            batch_size,
            throughput: rate(batch_size, median(times)),
            times: times.len(),
        };
        self.times.iter().map(measured).collect()
    }

    /// The smallest size that no other is known to beat by a worthwhile gain; none before anything is measured.
    pub fn fit(&self) -> Option<usize> {
        let best = self.best();
        self.measured()
            .into_iter()
            .find(|measured| measured.throughput * WORTHWHILE_GAIN >= best)
            .map(|measured| measured.batch_size)
    }

    /// What a batch takes by its cost, where an item costs `typical`.
    pub fn speed(&self, typical: u64) -> Option<Speed> {
        let medians = self.times.iter();
        Speed::through(medians.map(|(&size, times)| (size as u64 * typical, median(times))))
    }

    fn best(&self) -> f64 {
        let rates = self.measured().into_iter();
        rates
            .map(|measured| measured.throughput)
            .fold(0.0, f64::max)
    }

    /// Whether one of the largest sizes may be a gain over all smaller ones.
    fn still_grows(&self) -> bool {
        let sizes = self.measured();
        let Some(known) = sizes.len().checked_sub(PATIENCE + 1) else {
            return true;
        };
        let (smaller, largest) = sizes.split_at(known + 1);
        let usual = smaller
            .iter()
            .map(|size| size.throughput)
            .fold(0.0, f64::max);
        largest.iter().any(|size| {
            let fastest = self.times[&size.batch_size][0];
            rate(size.batch_size, fastest) > usual * WORTHWHILE_GAIN
        })
    }
}

fn rate(size: usize, seconds: f64) -> f64 {
    size as f64 / (seconds + HAND_OVER)
}

/// Of ascending numbers, at least one.
fn median(times: &[f64]) -> f64 {
    times[times.len() / 2]
}

/// Whether a size has been measured often enough to try others.
fn is_begun(times: &[f64]) -> bool {
    times.len() >= IN_NO_TIME || times.len() >= AT_LEAST && times.iter().sum::<f64>() >= NO_TIME
}

/// How often a size is to be measured by how much its times differ. The median's standard error is 1.25 times that of
/// the mean, and the middle half of a normal distribution spans 1.35 standard deviations.
fn needed(times: &[f64]) -> usize {
    let spread = times[times.len() * 3 / 4] - times[times.len() / 4];
    let of_median = 1.25 / 1.35 * spread / median(times).max(1e-9);
    let needed = (of_median / PRECISION).powi(2).ceil() as usize;
    needed.min(AT_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches to the end: the size found, and how many batches it took.
    fn search(largest: usize, mut time_us: impl FnMut(usize) -> Option<f64>) -> (Search, usize) {
        let mut search = Search::new(largest);
        let mut batches = 0;
        while let Some(size) = search.next() {
            assert!(size <= largest);
            batches += 1;
            match time_us(size) {
                Some(us) => search.add(size, Duration::from_secs_f64(us / 1e6)),
                None => search.out_of_memory(size),
            }
            assert!(batches < 5000, "it does not end");
        }
        (search, batches)
    }

    fn fit(largest: usize, time_us: impl FnMut(usize) -> Option<f64>) -> usize {
        search(largest, time_us).0.fit().unwrap()
    }

    fn sizes(search: &Search) -> Vec<usize> {
        search.times.keys().copied().collect()
    }

    #[test]
    fn stops_where_throughput_stops_growing() {
        // A fixed cost of 10 ms until the device is full at 16 items.
        let (search, batches) = search(1024, |size| Some(f64::max(1e4, size as f64 * 1e4 / 16.0)));
        assert_eq!(search.fit(), Some(16));
        let last = sizes(&search).pop();
        assert_eq!(last, Some(64), "two doublings without a gain");
        assert_eq!(batches, 7 * AT_LEAST, "no more on a quiet machine");
    }

    #[test]
    fn a_device_that_gains_nothing_from_batches_runs_single_items() {
        assert_eq!(fit(128, |size| Some(1e4 * size as f64)), 1);
    }

    #[test]
    fn short_forward_passes_run_together_so_that_handing_over_costs_little() {
        assert_eq!(fit(128, |size| Some(100.0 * size as f64)), 32);
    }

    #[test]
    fn ends_at_the_largest_size_and_never_beyond_it() {
        let (search, _) = search(24, |_| Some(1000.0));
        assert_eq!(search.fit(), Some(24));
        assert_eq!(sizes(&search), [1, 2, 4, 8, 16, 24]);
    }

    #[test]
    fn batches_that_would_keep_callers_waiting_are_not_tried() {
        // Twice as many items for a tenth more time, from 50 ms on.
        let (search, _) = search(1 << 20, |size| {
            Some(5e4 * 1.1f64.powf((size as f64).log2()))
        });
        let longest = 5e4 * 1.1f64.powf(f64::from(sizes(&search).len() as u32 - 1));
        assert!((1.2e5..2.5e5).contains(&longest), "{longest} us");
        assert_eq!(search.fit(), sizes(&search).pop());
    }

    #[test]
    fn memory_that_runs_out_ends_the_search_at_what_fitted() {
        let (search, _) = search(128, |size| (size <= 8).then_some(1000.0));
        assert_eq!(search.fit(), Some(8));
        assert_eq!(search.largest, 8);
    }

    #[test]
    fn what_was_not_measured_is_not_settled_on() {
        let mut search = Search::new(64);
        assert_eq!(search.fit(), None);
        search.add(1, Duration::from_millis(1));
        assert_eq!((search.fit(), search.next()), (Some(1), Some(1)));
    }

    #[test]
    fn one_bad_measurement_drops_no_size() {
        let mut first = true;
        let fit = fit(1024, |size| {
            let slow = size == 8 && std::mem::take(&mut first);
            Some(f64::max(1e4, size as f64 * 1e4 / 16.0) * if slow { 20.0 } else { 1.0 })
        });
        assert_eq!(fit, 16);
    }

    #[test]
    fn a_line_through_the_medians_predicts_other_batches() {
        let (search, _) = search(64, |size| Some(2000.0 + 500.0 * size as f64));
        let speed = search.speed(10).unwrap();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-3 * b;
        assert!(
            close(speed.fixed, 0.002) && close(speed.per_cost, 5e-5),
            "{speed:?}"
        );
    }

    /// Times that are off by up to a factor of two, and devices of different kinds: what is found has at least nine tenths
    /// of the best size's true throughput.
    #[test]
    fn noise_of_a_factor_of_two_costs_a_tenth_at_most() {
        // Xorshift (Marsaglia 2003): the same numbers each time.
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        for _ in 0..300 {
            let fixed_us = 100.0 * 200f64.powf(random());
            let (full_at, slope) = (200f64.powf(random()), random());
            // Flat or rising until the device is full, then a line.
            let time = |size: usize| {
                let load = size as f64 / full_at;
                fixed_us * f64::max(1.0 - slope + slope * load, load)
            };
            let found = fit(1024, |size| Some(time(size) * (1.0 + random())));
            let true_rate = |size: usize| rate(size, time(size) * 1.5 / 1e6);
            let best = (0..11)
                .map(|power| true_rate(1 << power))
                .fold(0.0, f64::max);
            assert!(
                true_rate(found) >= 0.9 * best,
                "{found}: {} of {best}, with {fixed_us} us, full at {full_at}, slope {slope}",
                true_rate(found)
            );
        }
    }
}
