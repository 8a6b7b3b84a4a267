//! How much of a device's memory is allocated.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Of each device, by its number, whoever uses it.
static DEVICES: Mutex<BTreeMap<usize, Arc<Held>>> = Mutex::new(BTreeMap::new());

/// Bytes that are allocated: now, and at most since it was asked to begin again.
#[derive(Debug, Default)]
pub(crate) struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Held {
    /// That of a device.
    pub(crate) fn of(ordinal: usize) -> Arc<Self> {
        // The table is whole whatever happened to those that held its lock.
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(devices.entry(ordinal).or_default())
    }

    pub(super) fn take(&self, bytes: usize) {
        let before = self.now.fetch_add(bytes, Ordering::Relaxed);
        self.most.fetch_max(before + bytes, Ordering::Relaxed);
    }

    pub(super) fn give(&self, bytes: usize) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Does something; gives the most bytes that were allocated at a time meanwhile, by whomever, what was there before included.
    /// Of two at once the one that begins first may be told too little.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> (T, usize) {
        (self.most).store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
        let result = work();
        (result, self.most.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_is_what_was_there_at_a_time() {
        let held = Held::default();
        held.take(100);
        let ((), most) = held.during(|| {
            held.take(20);
            held.give(20);
            held.take(7);
            held.take(10);
            held.give(10);
        });
        assert_eq!(most, 120);
        held.give(100);
        assert_eq!(held.during(|| held.take(3)).1, 10);
        assert_eq!(held.during(|| held.give(10)).1, 10);
        assert_eq!(held.during(|| ()).1, 0);
    }

    #[test]
    fn devices_are_apart() {
        // No card has such a number.
        let [one, other] = [usize::MAX, usize::MAX - 1].map(Held::of);
        one.take(5);
        assert_eq!(Held::of(usize::MAX).during(|| ()).1, 5);
        assert_eq!(other.during(|| ()).1, 0);
    }
}
