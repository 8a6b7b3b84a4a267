//! A request while it is being answered: one slot an item, filled in any order by any thread.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use galley_core::{InputError, Prepared, RawOutput};
use tokio::sync::Notify;

use super::{admission::Permit, statistics::Ride};
use crate::batching::{RequestId, Wanted};

/// What became of one item.
pub(super) enum Slot {
    /// It is being prepared, waits or runs.
    Waiting,
    /// `prepare` refused it.
    Refused(InputError),
    /// The device has answered, in that batch; `finish` is still to be done.
    Done(Prepared, RawOutput, Ride),
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

/// Why an item was not answered, through no fault of its own; its request is not answered then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its answer would come too late.
    Expired,
    /// The server is shutting down and no longer takes items.
    Closed,
    /// The batch that it was in failed; the reason is fit for a caller's eyes.
    Failed(String),
}

/// The slots of one request.
pub(super) struct Pending {
    id: RequestId,
    slots: Mutex<Vec<Slot>>,
    loss: Mutex<Option<Loss>>,
    remaining: AtomicUsize,
    abandoned: AtomicBool,
    done: Notify,
}

impl Pending {
    pub(super) fn new(items: usize) -> Arc<Self> {
        static REQUESTS: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: RequestId(REQUESTS.fetch_add(1, Ordering::Relaxed)),
            slots: Mutex::new((0..items).map(|_| Slot::Waiting).collect()),
            loss: Mutex::default(),
            remaining: AtomicUsize::new(items),
            abandoned: AtomicBool::new(false),
            done: Notify::new(),
        })
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    /// Fills a slot, once; wakes the request when it was the last.
    pub(super) fn fill(&self, place: usize, slot: Slot) {
        let before = mem::replace(&mut lock(&self.slots)[place], slot);
        debug_assert!(
            matches!(before, Slot::Waiting),
            "each item leaves the queue exactly once"
        );
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }

    /// An item is lost, and with it the request: what is left of it need not run. The first loss is told.
    pub(super) fn lose(&self, loss: Loss) {
        lock(&self.loss).get_or_insert(loss);
        self.abandon();
        self.done.notify_one();
    }

    /// Waits until every slot is filled, and takes them.
    pub(super) async fn wait(&self) -> Result<Vec<Slot>, Loss> {
        loop {
            if let Some(loss) = lock(&self.loss).take() {
                return Err(loss);
            }
            if self.is_complete() {
                return Ok(mem::take(&mut *lock(&self.slots)));
            }
            self.done.notified().await;
        }
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
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A prepared item on its way to a device, which fills its request's slot exactly once.
pub(crate) struct Job {
    pub(super) pending: Arc<Pending>,
    pub(super) place: usize,
    pub(super) prepared: Prepared,
    /// How long preparing it took.
    pub(super) prepare: Duration,
    /// Its place among the admitted.
    pub(super) permit: Permit,
    pub(super) wanted: Wanted,
}

impl Job {
    pub(super) fn done(self, raw: RawOutput, ride: Ride) {
        self.pending
            .fill(self.place, Slot::Done(self.prepared, raw, ride));
    }
}
