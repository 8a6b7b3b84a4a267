//! Which size is measured next while nothing is served: sizes double while that pays, then those beside the best are looked at, and
//! those that may be the best once more, as often as their spread demands.

use super::{Fit, TOO_LONG, WORTHWHILE_GAIN, rate};

/// After this many doublings without such a gain, sizes grow no more.
const PATIENCE: usize = 2;

impl Fit {
    /// The size to be measured next while nothing is served; none when that has ended.
    pub(in crate::engine) fn next(&self) -> Option<usize> {
        let largest = self.largest();
        if self.bounds.is_fixed {
            let is_measured =
                |size: &usize| self.sizes.get(size).is_some_and(|size| size.len() > 0);
            return [1, largest].into_iter().find(|size| !is_measured(size));
        }
        let Some((&top, at_top)) = self.sizes.last_key_value() else {
            return Some(1);
        };
        if let Some((&size, _)) = self.sizes.iter().find(|(_, size)| !size.is_begun()) {
            return Some(size);
        }
        // The next one may take no longer than this, and at worst twice as long.
        let longest = TOO_LONG.min(self.bounds.longest.as_secs_f64());
        if top < largest && at_top.fastest() <= longest && self.still_grows() {
            return Some((top * 2).min(largest));
        }
        let between = |&size: &usize| size < top && !self.sizes.contains_key(&size);
        if let Some(size) = self.near().find(between) {
            return Some(size);
        }
        let best = self.best();
        self.sizes
            .iter()
            .filter(|(at, size)| {
                rate(**at, size.fastest()) * WORTHWHILE_GAIN > best && size.len() < size.needed()
            })
            .min_by_key(|(_, size)| size.len())
            .map(|(&at, _)| at)
    }

    fn best(&self) -> f64 {
        let rates = self.sizes().into_iter();
        rates
            .map(|measured| measured.throughput)
            .fold(0.0, f64::max)
    }

    /// Whether one of the largest sizes may be a gain over all smaller ones.
    fn still_grows(&self) -> bool {
        let sizes = self.sizes();
        let Some(known) = sizes.len().checked_sub(PATIENCE + 1) else {
            return true;
        };
        let (smaller, largest) = sizes.split_at(known + 1);
        let usual = smaller
            .iter()
            .map(|size| size.throughput)
            .fold(0.0, f64::max);
        largest.iter().any(|size| {
            let fastest = self.sizes[&size.batch_size].fastest();
            rate(size.batch_size, fastest) > usual * WORTHWHILE_GAIN
        })
    }
}
