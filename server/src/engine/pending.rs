//! A request while it is being answered: one slot an item, filled in any order by any thread.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use galley_core::{InputError, Prepared, RawOutput};
use tokio::sync::Notify;

use super::{admission::Permit, statistics::Ride};

/// What became of one item.
pub(super) enum Slot {
    /// It is being prepared, waits or runs.
    Waiting,
    /// `prepare` refused it.
    Refused(InputError),
    /// The device has answered, in that batch; `finish` is still to be done.
    Done(Prepared, RawOutput, Ride),
    /// It was not answered, through no fault of its own.
    Lost(Loss),
}

impl Slot {
    /// The batch that answered the item.
    pub(super) fn ride(&self) -> Option<Ride> {
        match self {
            Self::Done(_, _, ride) => Some(*ride),
            _ => None,
        }
    }
}

/// Why an item was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its deadline passed in the queue.
    Expired,
    /// The server is shutting down and no longer takes items.
    Closed,
    /// The batch that it was in failed; the reason is fit for a caller's eyes.
    Failed(String),
}

/// The slots of one request.
pub(super) struct Pending {
    slots: Mutex<Vec<Slot>>,
    remaining: AtomicUsize,
    abandoned: AtomicBool,
    done: Notify,
}

impl Pending {
    pub(super) fn new(items: usize) -> Arc<Self> {
        Arc::new(Self {
            slots: Mutex::new((0..items).map(|_| Slot::Waiting).collect()),
            remaining: AtomicUsize::new(items),
            abandoned: AtomicBool::new(false),
            done: Notify::new(),
        })
    }

    /// Fills a slot, once; wakes the request when it was the last.
    pub(super) fn fill(&self, place: usize, slot: Slot) {
        let before = mem::replace(&mut self.lock()[place], slot);
        debug_assert!(
            matches!(before, Slot::Waiting),
            "each item leaves the queue exactly once"
        );
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }

    /// Waits until every slot is filled, and takes them.
    pub(super) async fn wait(&self) -> Vec<Slot> {
        while self.remaining.load(Ordering::Acquire) > 0 {
            self.done.notified().await;
        }
        mem::take(&mut *self.lock())
    }

    /// Nobody waits any more: the items need not run.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.remaining.load(Ordering::Acquire) == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A prepared item on its way to a device, which fills its request's slot exactly once.
pub(crate) struct Job {
    pub(super) pending: Arc<Pending>,
    pub(super) place: usize,
    pub(super) prepared: Prepared,
    /// How long preparing it took.
    pub(super) prepare: Duration,
    /// Its place in the queue's bound; given back when a batch takes the item.
    pub(super) permit: Option<Permit>,
}

impl Job {
    pub(super) fn done(self, raw: RawOutput, ride: Ride) {
        self.pending
            .fill(self.place, Slot::Done(self.prepared, raw, ride));
    }

    pub(super) fn lost(self, loss: Loss) {
        self.pending.fill(self.place, Slot::Lost(loss));
    }
}
