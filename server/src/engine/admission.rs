//! Who is let in: the bound on how many items of a recipe may wait, and whether a request can be answered in time.
//!
//! Items count as waiting from here until a batch takes them. Those that are still being prepared count as well: they
//! hold memory too.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::Gauge;

use super::InferError;
use crate::batching::{Ahead, Pace};

/// Counts the items of one recipe that are admitted and not answered yet.
pub(super) struct Admission {
    waiting: AtomicUsize,
    running: AtomicUsize,
    requests: AtomicUsize,
    pace: Mutex<Pace>,
    max: usize,
    depth: Gauge,
}

impl Admission {
    pub(super) fn new(max: usize, depth: Gauge) -> Arc<Self> {
        depth.set(0.0);
        Arc::new(Self {
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            pace: Mutex::default(),
            max,
            depth,
        })
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// How many items wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Whether a request of `items` would be let in now, to be answered by then.
    pub(super) fn check(&self, items: usize, due: Instant) -> Result<(), InferError> {
        if items > self.max {
            let limit = self.max;
            return Err(InferError::TooManyItems { items, limit });
        }
        let now = Instant::now();
        let waiting = self.waiting();
        if waiting + items > self.max {
            let pace = self.pace().seconds_per_item(now);
            let retry_after = Duration::try_from_secs_f64(pace * items as f64);
            return Err(InferError::QueueFull {
                retry_after: retry_after.unwrap_or(Duration::MAX),
            });
        }
        let ahead = Ahead {
            items: waiting + self.running.load(Ordering::Acquire),
            requests: self.requests.load(Ordering::Acquire),
        };
        let time = due.saturating_duration_since(now);
        let admitted = self.pace().admit(items, ahead, time, now);
        admitted.map_err(|retry_after| InferError::TooLate { retry_after })
    }

    /// Lets a request in, all of its items or none.
    pub(super) fn admit(
        self: &Arc<Self>,
        items: usize,
        due: Instant,
    ) -> Result<(Admitted, Vec<Permit>), InferError> {
        self.check(items, due)?;
        let add = |waiting: usize| Some(waiting + items).filter(|&total| total <= self.max);
        let added = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        if added.is_err() {
            // Others came in between.
            return Err(self
                .check(items, due)
                .err()
                .unwrap_or(InferError::QueueFull {
                    retry_after: Duration::ZERO,
                }));
        }
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.depth.increment(items as f64);
        let permits = (0..items).map(|_| Permit {
            admission: Arc::clone(self),
            running: false,
        });
        Ok((Admitted(Arc::clone(self)), permits.collect()))
    }

    /// A batch has taken items, which wait no more.
    pub(super) fn run<'a>(&self, permits: impl Iterator<Item = &'a mut Permit>) {
        let items = permits.map(|permit| permit.running = true).count();
        self.waiting.fetch_sub(items, Ordering::AcqRel);
        self.running.fetch_add(items, Ordering::AcqRel);
        self.depth.decrement(items as f64);
    }

    /// What an item takes where many are there, in seconds.
    pub(super) fn seconds_per_item(&self) -> f64 {
        self.pace().seconds_per_item(Instant::now())
    }

    /// A batch has been answered, or items were given up and none answered. `saturated` says whether more waits than the engine
    /// could have in hand.
    pub(super) fn answered(&self, items: usize, saturated: bool) {
        self.pace().answered(items, Instant::now(), saturated);
    }

    /// What an item takes, in seconds, as far as single steps tell.
    pub(super) fn expect(&self, seconds: f64) {
        self.pace().expect(seconds);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        // Nothing that may panic runs under the lock.
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that was let in, until it ends.
pub(super) struct Admitted(Arc<Admission>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Room for one item, given back when dropped.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    running: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.running {
            self.admission.running.fetch_sub(1, Ordering::AcqRel);
        } else {
            self.admission.waiting.fetch_sub(1, Ordering::AcqRel);
            self.admission.depth.decrement(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn admits_all_or_none_and_takes_room_back() {
        let admission = Admission::new(3, Gauge::noop());
        let admit = |items| admission.admit(items, later()).ok();
        let (_request, mut two) = admit(2).unwrap();
        assert!(admit(2).is_none());
        let one = admit(1).unwrap();
        assert!(admit(1).is_none());
        admission.run(two[..1].iter_mut());
        assert_eq!(admission.waiting(), 2);
        let again = admit(1).unwrap();
        drop((one, two, again));
        assert_eq!(admit(3).unwrap().1.len(), 3);
        assert!(matches!(
            admission.check(4, later()),
            Err(InferError::TooManyItems { items: 4, limit: 3 })
        ));
    }

    #[test]
    fn what_cannot_be_answered_in_time_is_refused_with_the_time_until_it_could() {
        let admission = Admission::new(1000, Gauge::noop());
        admission.expect(1.0);
        let soon = || Instant::now() + Duration::from_secs(5);
        let first = admission.admit(20, soon()).unwrap();
        assert!(
            admission.check(1, soon()).is_ok(),
            "one of the others' goes first"
        );
        let Err(InferError::TooLate { retry_after }) = admission.check(5, soon()) else {
            panic!("five of the others go before five");
        };
        assert!(
            (5.0..7.0).contains(&retry_after.as_secs_f64()),
            "{retry_after:?}"
        );
        drop(first);
        assert!(admission.check(5, soon()).is_ok(), "nothing is before it");
    }
}
