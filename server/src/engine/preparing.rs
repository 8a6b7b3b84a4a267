//! What is prepared: no more than devices choose a batch from, and what becomes of each input.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use galley_core::InputError;

use super::{
    pending::{Job, Loss, Slot},
    preparer::Raw,
    served::Served,
};
use crate::batching::{Curve, Limits, Queued};

/// The most inputs that are prepared by one task. Larger ones are fewer: `RecipeInfo::inline_bytes`.
const INPUTS_PER_TASK: usize = 64;
/// How many batches' worth of items may be prepared before they are needed: what a batch is chosen from.
const BATCHES_AHEAD: usize = 4;

impl Served {
    /// The inputs that a task is to prepare next; none while the devices have enough to choose from.
    pub(super) fn room_to_prepare(&self) -> Option<Limits> {
        // Before looking, so that whoever makes room in between sees it.
        self.held.store(true, Ordering::SeqCst);
        if self.ready.len(self.queue) >= BATCHES_AHEAD * self.learnt.in_hand() {
            return None;
        }
        self.held.store(false, Ordering::SeqCst);
        Some(Limits {
            max_batch_size: INPUTS_PER_TASK,
            max_batch_cost: self.info().inline_bytes as u64,
            curve: Curve::default(),
            in_flight: 1,
            longest: Duration::MAX,
        })
    }

    /// Items have left for a device: there may be room again.
    pub(super) fn made_room(&self) {
        if self.held.swap(false, Ordering::SeqCst) {
            self.raw.wake();
        }
    }

    /// Prepares inputs, of one request or several, and queues those that can be read.
    pub(super) fn prepare_all(&self, inputs: Vec<Raw>) {
        let start = Instant::now();
        let count = inputs.len();
        let mut inputs = inputs.into_iter().peekable();
        while let Some(raw) = inputs.next() {
            let request = raw.wanted.request;
            let mut jobs: Vec<Job> = self.prepare(raw).into_iter().collect();
            while let Some(raw) = inputs.next_if(|raw| raw.wanted.request == request) {
                jobs.extend(self.prepare(raw));
            }
            self.push(jobs);
        }
        self.learnt
            .prepared(start.elapsed().as_secs_f64() / count.max(1) as f64);
        self.learnt_more();
    }

    pub(super) fn prepare(&self, raw: Raw) -> Option<Job> {
        let Raw {
            pending,
            place,
            input,
            permit,
            wanted,
        } = raw;
        if pending.is_abandoned() {
            return None;
        }
        let start = Instant::now();
        // A decoder that panics on a hostile file must not take its thread, and with it the process, along.
        let is_wanted = || !pending.is_abandoned() && Instant::now() < wanted.deadline;
        let prepare = || self.recipe.prepare_while(input, &is_wanted);
        let prepared = catch_unwind(AssertUnwindSafe(prepare));
        let prepare = start.elapsed();
        self.metrics.prepare_duration.record(prepare);
        match prepared {
            Ok(Ok(prepared)) => Some(Job {
                pending,
                place,
                prepared,
                prepare,
                permit,
                wanted,
            }),
            Ok(Err(InputError::NotWanted)) => {
                pending.lose(Loss::Expired);
                None
            }
            Ok(Err(refusal)) => {
                pending.fill(place, Slot::Refused(refusal));
                None
            }
            Err(_) => {
                tracing::error!(recipe = self.info().name, "prepare panicked");
                pending.lose(Loss::Failed("preparing the input failed".into()));
                None
            }
        }
    }

    /// Queues items of one request.
    pub(super) fn push(&self, jobs: Vec<Job>) {
        let Some(wanted) = jobs.first().map(|job| job.wanted) else {
            return;
        };
        let since = Instant::now();
        let queued = jobs.into_iter().map(|item| Queued {
            cost: item.prepared.cost(),
            since,
            item,
        });
        if let Err(refused) = self.ready.push(self.queue, wanted, queued.collect()) {
            for queued in refused {
                queued.item.pending.lose(Loss::Closed);
            }
        }
    }
}
