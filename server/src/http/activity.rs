//! What a recipe's requests have come to of late, for the parameters of `/health`.
//!
//! Serving a request costs a few relaxed additions; a sample of the running totals each second makes windows of them.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::metrics::Outcome;

/// How far back windows reach.
pub(super) const HORIZON: Duration = Duration::from_secs(3600);
/// Requests that arrived within one tick are told apart no further.
const TICK: Duration = Duration::from_millis(100);
const TICKS: u64 = HORIZON.as_millis() as u64 / TICK.as_millis() as u64;

/// How many requests ended, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// All of them.
    pub(super) ended: u64,
    /// Those that the device or the recipe failed.
    pub(super) failed: u64,
    /// Those whose deadline passed.
    pub(super) timed_out: u64,
}

/// The requests of one recipe.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    ended: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    /// By the tick of their arrival, modulo the horizon: requests that have not ended.
    pending: Box<[AtomicU32]>,
    samples: Mutex<VecDeque<(Instant, Counts)>>,
}

/// The tick in which a request arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival(u64);

impl Activity {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            pending: (0..TICKS).map(|_| AtomicU32::new(0)).collect(),
            samples: Mutex::default(),
        }
    }

    /// A request has arrived.
    pub(super) fn arrive(&self, now: Instant) -> Arrival {
        let tick = self.tick(now);
        self.slot(tick).fetch_add(1, Ordering::Relaxed);
        Arrival(tick)
    }

    /// That request has ended.
    pub(super) fn end(&self, Arrival(tick): Arrival, outcome: Outcome) {
        self.slot(tick).fetch_sub(1, Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Outcome::Failed => self.failed.fetch_add(1, Ordering::Relaxed),
            Outcome::Timeout => self.timed_out.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// Remembers the totals; to be called every second.
    pub(super) fn sample(&self, now: Instant) {
        let counts = self.totals();
        let mut samples = self.samples();
        while samples
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > HORIZON)
        {
            samples.pop_front();
        }
        samples.push_back((now, counts));
    }

    /// What ended within the last `window`, or a sample's interval longer.
    pub(super) fn within(&self, window: Duration, now: Instant) -> Counts {
        let totals = self.totals();
        let samples = self.samples();
        let later = samples.partition_point(|(at, _)| now.saturating_duration_since(*at) >= window);
        let before = later
            .checked_sub(1)
            .map_or(Counts::default(), |place| samples[place].1);
        Counts {
            ended: totals.ended.saturating_sub(before.ended),
            failed: totals.failed.saturating_sub(before.failed),
            timed_out: totals.timed_out.saturating_sub(before.timed_out),
        }
    }

    /// Whether a request that has not ended arrived more than `age` ago, to the tick.
    pub(super) fn has_pending_older_than(&self, age: Duration, now: Instant) -> bool {
        let now = self.tick(now);
        let age = u64::try_from(age.as_millis().div_ceil(TICK.as_millis()))
            .unwrap_or(u64::MAX)
            .max(1);
        let Some(youngest) = now.checked_sub(age) else {
            return false;
        };
        let oldest = (now + 1).saturating_sub(TICKS);
        (oldest..=youngest).any(|tick| self.slot(tick).load(Ordering::Relaxed) > 0)
    }

    fn totals(&self) -> Counts {
        Counts {
            ended: self.ended.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            timed_out: self.timed_out.load(Ordering::Relaxed),
        }
    }

    fn tick(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.start).as_millis() / TICK.as_millis()) as u64
    }

    fn slot(&self, tick: u64) -> &AtomicU32 {
        &self.pending[(tick % TICKS) as usize]
    }

    fn samples(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, Counts)>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn windows_count_what_ended_in_them() {
        let start = Instant::now();
        let activity = Activity::new(start);
        let end = |at: Instant, outcome| activity.end(activity.arrive(at), outcome);
        end(start, Outcome::Failed);
        activity.sample(start + SECOND);
        end(start + SECOND, Outcome::Ok);
        end(start + SECOND, Outcome::Timeout);
        activity.sample(start + 2 * SECOND);
        end(start + 2 * SECOND, Outcome::BadRequest);
        let now = start + 3 * SECOND;
        assert_eq!(
            activity.within(SECOND, now),
            Counts {
                ended: 1,
                failed: 0,
                timed_out: 0
            }
        );
        assert_eq!(
            activity.within(2 * SECOND, now),
            Counts {
                ended: 3,
                failed: 0,
                timed_out: 1
            }
        );
        assert_eq!(
            activity.within(60 * SECOND, now),
            Counts {
                ended: 4,
                failed: 1,
                timed_out: 1
            }
        );
    }

    #[test]
    fn samples_older_than_the_horizon_go() {
        let start = Instant::now();
        let activity = Activity::new(start);
        for second in 0..4000 {
            activity.sample(start + second * SECOND);
        }
        assert_eq!(activity.samples().len(), 3601);
    }

    #[test]
    fn pending_requests_are_known_by_age() {
        let start = Instant::now();
        let activity = Activity::new(start);
        let early = activity.arrive(start + SECOND);
        let late = activity.arrive(start + 9 * SECOND);
        let now = start + 10 * SECOND;
        assert!(activity.has_pending_older_than(8 * SECOND, now));
        assert!(!activity.has_pending_older_than(10 * SECOND, now));
        activity.end(early, Outcome::Ok);
        assert!(!activity.has_pending_older_than(2 * SECOND, now));
        activity.end(late, Outcome::Ok);
        assert!(!activity.has_pending_older_than(Duration::ZERO, now));
    }
}
