//! What a device is expected to take for a batch: a part for each batch and a part for what is in it.

use std::time::Duration;

/// A batch's time, `fixed + per_cost * cost`, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    /// For any batch.
    pub fixed: f64,
    /// For each unit of cost.
    pub per_cost: f64,
}

impl Speed {
    /// The line through measured `(cost, seconds)` from which they deviate least, each relative to itself. Without two
    /// different costs, all time is the cost's.
    pub fn through(measured: impl IntoIterator<Item = (u64, f64)>) -> Option<Self> {
        // Least squares with weights 1 / seconds^2: a batch of 1 counts as much as one of 1000.
        let (mut w, mut x, mut y, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (cost, seconds) in measured {
            let (cost, seconds) = (cost as f64, seconds.max(1e-9));
            let weight = seconds.powi(-2);
            w += weight;
            x += weight * cost;
            y += weight * seconds;
            xx += weight * cost * cost;
            xy += weight * cost * seconds;
        }
        if xx == 0.0 {
            return None;
        }
        let spread = w * xx - x * x;
        let slope = match spread > 1e-9 * w * xx {
            true => (w * xy - x * y) / spread,
            false => y / x,
        };
        let fixed = (y - slope * x) / w;
        Some(match (fixed < 0.0, slope < 0.0) {
            (false, false) => Self {
                fixed,
                per_cost: slope,
            },
            // Neither part can be negative; the best line without the other one is all that is left.
            (true, _) => Self {
                fixed: 0.0,
                per_cost: xy / xx,
            },
            (_, true) => Self {
                fixed: y / w,
                per_cost: 0.0,
            },
        })
    }

    /// What a batch of this cost is expected to take.
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
    fn a_line_is_found_again() {
        let line = |cost: u64| (cost, 0.002 + 0.0005 * cost as f64);
        let speed = Speed::through([1, 2, 4, 8, 64].map(line)).unwrap();
        assert!(close(speed, 0.002, 0.0005), "{speed:?}");
        assert_eq!(speed.predict(10), Duration::from_secs_f64(0.007));
        assert!(close(speed.times(2.0), 0.004, 0.001));
    }

    #[test]
    fn no_part_is_negative() {
        let falling = Speed::through([(1, 0.5), (2, 0.4), (4, 0.1)]).unwrap();
        assert!(
            falling.per_cost >= 0.0 && falling.fixed > 0.0,
            "{falling:?}"
        );
        let steep = Speed::through([(1, 0.1), (2, 0.5), (4, 2.0)]).unwrap();
        assert!(steep.fixed == 0.0 && steep.per_cost > 0.0, "{steep:?}");
    }

    #[test]
    fn one_measurement_is_taken_for_the_costs() {
        let speed = Speed::through([(4, 0.1), (4, 0.1)]).unwrap();
        assert!(close(speed, 0.0, 0.025), "{speed:?}");
        assert_eq!(Speed::through([]), None);
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
