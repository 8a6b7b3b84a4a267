//! When something last happened.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// When something last happened; set by any thread.
pub(super) struct Lately {
    start: Instant,
    /// Milliseconds from `start`, plus one; zero is never.
    at: AtomicU64,
}

impl Lately {
    pub(super) fn never() -> Self {
        Self {
            start: Instant::now(),
            at: AtomicU64::new(0),
        }
    }

    pub(super) fn set(&self) {
        self.at.store(self.now(), Ordering::Relaxed);
    }

    pub(super) fn within(&self, duration: Duration) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        at != 0 && u128::from(self.now() - at) <= duration.as_millis()
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }
}
