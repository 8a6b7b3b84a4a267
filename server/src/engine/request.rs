//! A request's way into the queues, and out of them if nobody waits for it any more.

use std::{sync::Arc, time::Instant};

use galley_core::Input;

use super::{
    admission::Permit,
    pending::{Loss, Pending},
    preparer::Raw,
    served::Served,
};
use crate::batching::{Queued, Wanted};

/// A request on its way through the stages. When it is dropped before its end, its items leave the queues.
pub(super) struct Request<'a> {
    pub(super) served: &'a Arc<Served>,
    pub(super) pending: Arc<Pending>,
    pub(super) wanted: Wanted,
}

impl Request<'_> {
    /// Small inputs are prepared here and now, as handing them to another thread would take longer; others take turns for
    /// the CPU pool.
    pub(super) fn enqueue(&self, inputs: Vec<Input>, permits: Vec<Permit>, inline: bool) {
        let raw = inputs.into_iter().zip(permits).enumerate();
        let raw = raw.map(|(place, (input, permit))| Raw {
            pending: Arc::clone(&self.pending),
            place,
            input,
            permit,
            wanted: self.wanted,
        });
        if inline {
            let jobs = raw.filter_map(|raw| self.served.prepare(raw)).collect();
            return self.served.push(jobs);
        }
        let since = Instant::now();
        let queued = raw.map(|item| Queued {
            cost: u32::try_from(item.input.size()).unwrap_or(u32::MAX).max(1),
            since,
            item,
        });
        let (raw, queue) = (&self.served.raw, self.served.queue);
        if raw.push(queue, self.wanted, queued.collect()).is_err() {
            self.pending.lose(Loss::Closed);
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if !self.pending.is_complete() {
            self.pending.abandon();
            let (queue, request) = (self.served.queue, self.pending.id());
            drop(self.served.raw.take_request(queue, request));
            drop(self.served.ready.take_request(queue, request));
            self.served.made_room();
        }
    }
}
