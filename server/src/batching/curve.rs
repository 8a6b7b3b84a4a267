//! What a device is expected to take for a batch: a curve through measured ones.

use std::{sync::Arc, time::Duration};

/// A batch's time by its load, `per_item * items + per_cost * cost`: straight from knot to knot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// Loads, which ascend from 0, and seconds.
    knots: Arc<[(f64, f64)]>,
    per_item: f64,
    per_cost: f64,
}

impl Curve {
    /// The curve through measured loads, which ascend, and their seconds. From one alone it goes to nothing at no load. Nothing
    /// measured: no time is predicted.
    pub fn through(
        measured: impl IntoIterator<Item = (f64, f64)>,
        per_item: f64,
        per_cost: f64,
    ) -> Self {
        let mut knots: Vec<(f64, f64)> = measured.into_iter().collect();
        let at_none = match knots[..] {
            [(x, y), (to_x, to_y), ..] => (y - x * (to_y - y) / (to_x - x)).max(0.0),
            _ => 0.0,
        };
        if !knots.is_empty() {
            knots.insert(0, (0.0, at_none));
        }
        Self {
            knots: knots.into(),
            per_item,
            per_cost,
        }
    }

    /// `fixed + per_cost * cost` seconds.
    pub fn line(fixed: f64, per_cost: f64) -> Self {
        Self {
            knots: [(0.0, fixed), (1.0, fixed + per_cost)].into(),
            per_item: 0.0,
            per_cost: 1.0,
        }
    }

    /// What a batch is expected to take.
    pub fn predict(&self, items: usize, cost: u64) -> Duration {
        let seconds = self.seconds(self.load(items as f64, cost as f64));
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// The largest load that was measured.
    pub(crate) fn end(&self) -> f64 {
        self.knots.last().map_or(0.0, |knot| knot.0)
    }

    /// What is in a batch, as one number.
    pub(crate) fn load(&self, items: f64, cost: f64) -> f64 {
        self.per_item * items + self.per_cost * cost
    }

    /// What a batch of this load is expected to take, in seconds.
    pub(crate) fn seconds(&self, load: f64) -> f64 {
        let after = self.knots.partition_point(|knot| knot.0 <= load);
        let (from, to) = match (self.knots.get(after), self.knots.last()) {
            (_, None) => return 0.0,
            (Some(&to), _) => (self.knots[after.max(1) - 1], to),
            // Beyond the last, on from a knot at half of it: its neighbour is so near that noise would decide.
            (None, Some(&last)) => {
                let half = self.knots.partition_point(|knot| knot.0 <= last.0 / 2.0);
                (self.knots[half.max(1) - 1], last)
            }
        };
        let width = to.0 - from.0;
        let slope = if width > 0.0 {
            (to.1 - from.1) / width
        } else {
            0.0
        };
        match self.knots.get(after) {
            Some(_) => from.1 + slope * (load - from.0),
            // More takes no less time, whatever a measurement says.
            None => to.1 + slope.max(0.0) * (load - to.0),
        }
    }
}
