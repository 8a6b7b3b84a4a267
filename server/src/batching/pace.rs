//! Whether a request can still be answered in time, from the rate at which a recipe's items have been answered: a pure
//! function of what was measured, and so of `now`, which is an argument.
//!
//! A rate counts as measured only while there was more to do than the device and the CPU pool could have in hand: what a
//! server answers that waits for its clients says only that it is no slower. It then holds whatever bounds it, the
//! device, decoding, or another recipe's share. Until there is such a measurement, and again when it is old, it is what
//! single steps were measured to take.

use std::time::{Duration, Instant};

/// How long a measurement counts: after this time a third of its weight is left.
const MEMORY: Duration = Duration::from_secs(4);
/// As how many measured items the expectation counts.
const EXPECTED_ITEMS: f64 = 4.0;
/// How much of its time a request may be expected to take. The rest is for what is not foreseen: a queue need not be
/// longer to keep a device busy, and an item that comes too late is time wasted.
const HEADROOM: f64 = 0.8;

/// The longest batch that an objective allows: while it runs, and others that the device has in hand, the next one fills, and all
/// of that is to be over in time.
pub fn longest_batch(objective: Duration, batches_in_flight: usize) -> Duration {
    objective.mul_f64(HEADROOM / (batches_in_flight + 1) as f64)
}

/// What is before a new request: admitted and not answered yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Items.
    pub items: usize,
    /// Requests that they belong to.
    pub requests: usize,
}

/// The rate of one recipe's answers.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    expected: f64,
    seconds: f64,
    items: f64,
    /// When items were last answered, and whether more waited than could be in hand.
    last: Option<(Instant, bool)>,
}

impl Pace {
    /// Says what an item takes, in seconds, as far as single steps tell.
    pub fn expect(&mut self, seconds: f64) {
        self.expected = seconds;
    }

    /// Items have been answered, or none and others were given up; `saturated` says whether more wait now than can be in hand.
    pub fn answered(&mut self, items: usize, now: Instant, saturated: bool) {
        if let Some((last, was_saturated)) = self.last {
            let passed = now.saturating_duration_since(last);
            self.fade(passed);
            // One that waits for its clients is at least as fast as it was seen to be.
            let seconds = passed.as_secs_f64();
            if was_saturated || seconds < items as f64 * self.usual() {
                self.seconds += seconds;
                self.items += items as f64;
            }
        }
        self.last = Some((now, saturated));
    }

    fn fade(&mut self, passed: Duration) {
        let left = (-passed.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.seconds *= left;
        self.items *= left;
    }

    /// What an item takes where many are there, in seconds.
    pub fn seconds_per_item(&self, now: Instant) -> f64 {
        let mut faded = self.clone();
        if let Some((last, _)) = self.last {
            faded.fade(now.saturating_duration_since(last));
        }
        faded.usual()
    }

    fn usual(&self) -> f64 {
        (self.seconds + EXPECTED_ITEMS * self.expected) / (self.items + EXPECTED_ITEMS)
    }

    /// Whether a request of so many items can be answered within `time`.
    ///
    /// Turns are fair: before the last of its items go no more of each other request's. One with nothing before it is
    /// always taken, for otherwise a wrong expectation would never be put right.
    ///
    /// # Errors
    /// It cannot; after the time in the error it could, if no others came.
    pub fn admit(
        &self,
        items: usize,
        ahead: Ahead,
        time: Duration,
        now: Instant,
    ) -> Result<(), Duration> {
        if ahead.items == 0 {
            return Ok(());
        }
        let before = ahead.items.min(ahead.requests.saturating_mul(items));
        let needed = self.seconds_per_item(now) * (before + items) as f64;
        let excess = needed - time.as_secs_f64() * HEADROOM;
        match excess > 0.0 {
            true => Err(Duration::try_from_secs_f64(excess).unwrap_or(Duration::MAX)),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ahead(items: usize, requests: usize) -> Ahead {
        Ahead { items, requests }
    }

    fn expecting(seconds: f64) -> Pace {
        let mut pace = Pace::default();
        pace.expect(seconds);
        pace
    }

    #[test]
    fn requests_are_taken_while_they_can_be_answered_in_time() {
        let (pace, now) = (expecting(0.01), Instant::now());
        let admit = |items, before| pace.admit(items, before, 1000 * MS, now);
        assert_eq!(admit(1, ahead(79, 79)), Ok(()));
        let wait = admit(1, ahead(99, 99)).unwrap_err();
        assert!((wait.as_secs_f64() - 0.2).abs() < 1e-6, "{wait:?}");
        // One of each bulk request's items goes before a single one.
        assert_eq!(admit(1, ahead(8000, 10)), Ok(()));
        assert!(admit(40, ahead(8000, 10)).is_err());
        assert_eq!(admit(40, ahead(40, 10)), Ok(()));
    }

    #[test]
    fn with_nothing_before_it_a_request_is_tried_whatever_is_expected() {
        let (pace, now) = (expecting(100.0), Instant::now());
        assert_eq!(pace.admit(5, Ahead::default(), MS, now), Ok(()));
        assert!(pace.admit(5, ahead(1, 1), MS, now).is_err());
    }

    #[test]
    fn where_none_is_answered_the_rate_falls() {
        let mut pace = expecting(0.01);
        let mut now = Instant::now();
        pace.answered(4, now, true);
        for _ in 0..100 {
            now += 10 * MS;
            pace.answered(0, now, true);
        }
        assert!(pace.seconds_per_item(now) > 0.2);
        assert!(pace.admit(1, ahead(9, 9), 1000 * MS, now).is_err());
    }

    /// Else it would let in one at a time, and never see that it could take more.
    #[test]
    fn after_a_pause_of_the_machine_the_first_answers_put_the_rate_right() {
        let mut pace = expecting(0.01);
        let mut now = Instant::now();
        pace.answered(4, now, true);
        now += 5000 * MS;
        pace.answered(0, now, false);
        assert!(pace.seconds_per_item(now) > 1.0);
        for _ in 0..100 {
            now += 10 * MS;
            pace.answered(1, now, false);
        }
        assert!(pace.seconds_per_item(now) < 0.06);
        assert!(pace.admit(1, ahead(9, 9), 1000 * MS, now).is_ok());
    }

    #[test]
    fn the_rate_is_what_was_measured_under_load_and_fades() {
        let mut pace = expecting(0.01);
        let mut now = Instant::now();
        pace.answered(1, now, true);
        for _ in 0..1000 {
            now += 80 * MS;
            pace.answered(4, now, true);
        }
        let under_load = pace.seconds_per_item(now);
        assert!((0.019..0.0201).contains(&under_load), "{under_load}");
        // The queue is empty: clients answer slowly, and that is no measurement.
        pace.answered(4, now, false);
        for _ in 0..20 {
            now += 100 * MS;
            pace.answered(1, now, false);
        }
        let soon = pace.seconds_per_item(now);
        assert!((0.018..0.0201).contains(&soon), "{soon}");
        let late = pace.seconds_per_item(now + 60_000 * MS);
        assert!((late - 0.01).abs() < 1e-4, "{late}");
    }
}
