//! What devices are expected to take for a request: a part in any case and a part for what is in it.

use std::time::Duration;

/// A request's time, `fixed + per_cost * cost`, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    /// In any case.
    pub fixed: f64,
    /// For each unit of cost.
    pub per_cost: f64,
}

impl Speed {
    /// What items of this cost are expected to take.
    pub fn predict(&self, cost: u64) -> Duration {
        let seconds = self.fixed + self.per_cost * cost as f64;
        Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
    }

    /// The same device in another mood: everything takes `factor` times as long.
    pub fn times(&self, factor: f64) -> Self {
        Self {
            fixed: self.fixed * factor,
            per_cost: self.per_cost * factor,
        }
    }

    /// What devices that work side by side come to: an item is done as soon as by the fastest, many in the time that all
    /// of them need together.
    pub fn together(speeds: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut rate = 0.0;
        let mut fixed = f64::INFINITY;
        for speed in speeds {
            fixed = fixed.min(speed.fixed);
            rate += 1.0 / speed.per_cost.max(1e-12);
        }
        fixed.is_finite().then(|| Self {
            fixed,
            per_cost: 1.0 / rate,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(speed: Speed, fixed: f64, per_cost: f64) -> bool {
        (speed.fixed - fixed).abs() < 1e-9 && (speed.per_cost - per_cost).abs() < 1e-9
    }

    #[test]
    fn time_is_a_line_over_cost() {
        let speed = Speed {
            fixed: 0.002,
            per_cost: 0.0005,
        };
        assert_eq!(speed.predict(10), Duration::from_secs_f64(0.007));
        assert!(close(speed.times(2.0), 0.004, 0.001));
    }

    #[test]
    fn two_devices_are_as_fast_as_both() {
        let slow = Speed {
            fixed: 0.01,
            per_cost: 0.002,
        };
        let both = Speed::together([slow, slow.times(0.5)]).unwrap();
        assert!(close(both, 0.005, 0.002 / 3.0), "{both:?}");
        assert_eq!(Speed::together([]), None);
    }
}
