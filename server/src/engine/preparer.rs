//! Who is prepared next: a thread that hands inputs to the CPU pool, in fair turns like batches to a device.
//!
//! No more tasks at a time than the pool has threads, so that a forward pass never lines up behind a hundred JPEGs, and no
//! more items ahead of a recipe's devices than they choose a batch from: until then an input keeps its encoded form,
//! which is the smaller one.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Instant,
};

use galley_core::Input;

use super::{
    admission::Permit,
    pending::{Loss, Pending},
    served::Served,
};
use crate::batching::{Dispatcher, Next, QueueId, Queued, Wanted};

/// An input that waits to be prepared.
pub(crate) struct Raw {
    pub(super) pending: Arc<Pending>,
    pub(super) place: usize,
    pub(super) input: Input,
    pub(super) permit: Permit,
    pub(super) wanted: Wanted,
}

/// The thread, and what it takes turns among.
pub(super) struct Preparer {
    pub(super) recipes: Vec<Arc<Served>>,
    pub(super) raw: Arc<Dispatcher<Raw>>,
    pub(super) slots: Arc<Slots>,
}

impl Preparer {
    /// Hands out inputs until the queues are closed and empty, and waits for the last.
    pub(super) fn run(self) {
        loop {
            let slot = Slots::take(&self.slots);
            let room = |id: QueueId| self.recipes[id.0].room_to_prepare();
            let due = match self.raw.next(room, None) {
                Next::Due(due) => due,
                Next::Idle => continue,
                Next::Closed => break,
            };
            let mut queues: Vec<QueueId> = due.lost.iter().map(|(id, _)| *id).collect();
            queues.dedup();
            for (_, queued) in due.lost {
                queued.item.pending.lose(Loss::Expired);
            }
            for id in queues {
                self.recipes[id.0].gave_up();
            }
            let Some(run) = due.run else {
                continue;
            };
            let served = Arc::clone(&self.recipes[run.queue.0]);
            let raw = Arc::clone(&self.raw);
            rayon::spawn(move || {
                let start = Instant::now();
                let inputs = run.batch.into_iter().map(|queued: Queued<Raw>| queued.item);
                served.prepare_all(inputs.collect());
                raw.ran(run.queue, run.predicted, start.elapsed());
                drop(slot);
            });
        }
        self.slots.wait_for_all();
    }
}

/// Places in the CPU pool.
pub(super) struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
    all: usize,
}

impl Slots {
    pub(super) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Mutex::new(slots),
            freed: Condvar::new(),
            all: slots,
        })
    }

    fn take(slots: &Arc<Self>) -> Slot {
        *slots.wait_for(1) -= 1;
        Slot(Arc::clone(slots))
    }

    fn wait_for_all(&self) {
        drop(self.wait_for(self.all));
    }

    fn wait_for(&self, slots: usize) -> std::sync::MutexGuard<'_, usize> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        self.freed
            .wait_while(free, |free| *free < slots)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is given back when dropped.
struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_all();
    }
}
