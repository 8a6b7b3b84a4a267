//! The bound on how many items of a recipe may be waiting, from admission until a batch takes them. Items that are
//! still being prepared count as well: they hold memory too.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use metrics::Gauge;

/// Counts the waiting items of one recipe.
pub(super) struct Admission {
    waiting: AtomicUsize,
    max: usize,
    depth: Gauge,
}

impl Admission {
    pub(super) fn new(max: usize, depth: Gauge) -> Arc<Self> {
        depth.set(0.0);
        Arc::new(Self {
            waiting: AtomicUsize::new(0),
            max,
            depth,
        })
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// How many more items have room now.
    pub(super) fn free(&self) -> usize {
        self.max - self.waiting.load(Ordering::Acquire)
    }

    /// Room for `items` more, all or none.
    pub(super) fn admit(self: &Arc<Self>, items: usize) -> Option<Vec<Permit>> {
        let add = |waiting: usize| {
            waiting
                .checked_add(items)
                .filter(|&total| total <= self.max)
        };
        self.waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
            .ok()?;
        self.depth.increment(items as f64);
        Some((0..items).map(|_| Permit(Arc::clone(self))).collect())
    }
}

/// Room for one item, given back when dropped.
pub(crate) struct Permit(Arc<Admission>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.depth.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_all_or_none_and_takes_room_back() {
        let admission = Admission::new(3, Gauge::noop());
        let two = admission.admit(2).unwrap();
        assert!(admission.admit(2).is_none());
        let one = admission.admit(1).unwrap();
        assert!(admission.admit(1).is_none());
        drop((one, two));
        assert_eq!(admission.admit(3).unwrap().len(), 3);
        assert!(admission.admit(usize::MAX).is_none());
    }
}
