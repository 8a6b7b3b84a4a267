//! Which recipe a free device works for: a pure state machine that does no I/O, spawns nothing and reads no clock (`now`
//! is an argument), so that it can be tested to the end.
//!
//! Recipes share a device's time by start-time fair queueing (Goyal, Vin, Cheng 1996): each has the virtual time that it
//! has been given so far, and the ripe one with the least goes next. A recipe that has had nothing to do starts at the
//! present: it has saved nothing up, and owes nothing. What a batch takes is predicted when it starts and put right when
//! it ends.

use std::time::{Duration, Instant};

use super::{Limits, Queue, Queued, RequestId, Speed, Wanted};

/// How much less a prediction counts each time that all of a recipe's requests were given up for its sake.
const DOUBT: f64 = 0.5;

/// Which batches a thread of a device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Any that is due.
    Own,
    /// Short ones beside a long one of another recipe, which they would otherwise wait for.
    Beside,
}

/// Which of the queues; one for each recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueId(pub usize);

/// A batch that is due.
#[derive(Debug)]
pub struct Run<T> {
    /// The queue that it comes from.
    pub queue: QueueId,
    /// The items to run, in the order of their turns.
    pub batch: Vec<Queued<T>>,
    /// How many others wait that it had no room for.
    pub left: usize,
    /// What it is expected to take; to be given back to [`Policy::ran`].
    pub predicted: Duration,
}

/// What a device should do now.
#[derive(Debug)]
pub enum Step<T> {
    /// Run this batch.
    Run(Run<T>),
    /// Wait until then, or until an item comes.
    WaitUntil(Instant),
    /// Nothing waits that the device may take.
    Idle,
}

/// An item that is given up, as its answer would come too late.
pub type Lost<T> = (QueueId, Queued<T>);

#[derive(Debug)]
struct Share<T> {
    queue: Queue<T>,
    /// The virtual time that it has been given, in seconds.
    given: f64,
    /// What all devices together take, as far as is known.
    speed: Speed,
    /// How far that is believed.
    belief: f64,
}

/// The queues of all recipes.
#[derive(Debug)]
pub struct Policy<T> {
    shares: Vec<Share<T>>,
    /// How long the first item may wait for a batch to fill. Zero: an idle device starts at once.
    max_queue_delay: Duration,
    /// The virtual time of the recipe that was served last, in seconds.
    present: f64,
    /// The same at the end of its batch.
    end: f64,
}

impl<T> Policy<T> {
    /// Empty queues of so many recipes.
    pub fn new(recipes: usize, max_queue_delay: Duration) -> Self {
        let share = || Share {
            queue: Queue::default(),
            given: 0.0,
            speed: Speed::default(),
            belief: 1.0,
        };
        Self {
            shares: (0..recipes).map(|_| share()).collect(),
            max_queue_delay,
            present: 0.0,
            end: 0.0,
        }
    }

    /// The items of one recipe.
    pub fn queue(&self, id: QueueId) -> &Queue<T> {
        &self.shares[id.0].queue
    }

    /// Whether nothing waits at all.
    pub fn is_empty(&self) -> bool {
        self.shares.iter().all(|share| share.queue.is_empty())
    }

    /// Says what all devices together are expected to take for a recipe's batches.
    pub fn set_speed(&mut self, id: QueueId, speed: Speed) {
        self.shares[id.0].speed = speed;
    }

    /// Adds items of a request, all of which are wanted at the same time.
    pub fn push(&mut self, id: QueueId, wanted: Wanted, items: Vec<Queued<T>>) {
        let share = &mut self.shares[id.0];
        if share.queue.is_empty() {
            share.given = share.given.max(self.present);
        }
        share.queue.push(wanted, items);
    }

    /// Takes out what is left of a request.
    pub fn take_request(&mut self, id: QueueId, request: RequestId) -> Vec<Queued<T>> {
        self.shares[id.0].queue.take_request(request)
    }

    /// Takes out the requests that cannot be answered in time any more.
    pub fn take_hopeless(&mut self, now: Instant) -> Vec<Lost<T>> {
        let mut lost = Vec::new();
        for (id, share) in self.shares.iter_mut().enumerate() {
            let speed = share.speed.times(share.belief);
            let (taken, predicted) = share.queue.take_hopeless(now, speed);
            // A prediction for whose sake nothing is tried any more could never be put right.
            if predicted && share.queue.is_empty() {
                share.belief *= DOUBT;
            }
            lost.extend(taken.into_iter().map(|queued| (QueueId(id), queued)));
        }
        lost
    }

    /// Says what a device that is free at `now` should do. `limits` are its own, for each recipe; without them it does not
    /// take that one now. Beside another batch goes only what takes no longer than they allow, of a recipe that has been given
    /// less than the other one.
    pub fn poll(
        &mut self,
        seat: Seat,
        now: Instant,
        mut limits: impl FnMut(QueueId) -> Option<Limits>,
    ) -> Step<T> {
        let mut waiting: Vec<(f64, (Instant, Instant), QueueId)> = self
            .shares
            .iter()
            .enumerate()
            .filter_map(|(id, share)| Some((share.given, share.queue.first()?, QueueId(id))))
            .collect();
        // Among equals whoever has waited longest.
        waiting.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // Each of them waits for the others' batches too.
        let sharing = waiting.len().max(1) as u32;
        let mut until: Option<Instant> = None;
        for (given, (since, due), id) in waiting {
            let Some(mut limits) = limits(id) else {
                continue;
            };
            limits.longest /= sharing;
            let share = &mut self.shares[id.0];
            let (items, cost) = (share.queue.len(), share.queue.cost());
            if seat == Seat::Beside
                && (given >= self.end || !limits.is_in_time(1, limits.longest, items, cost))
            {
                continue;
            }
            // Whoever is waited for may not make the first late.
            let finish = limits.finish(items, cost);
            let latest = due.checked_sub(finish).unwrap_or(now);
            let ripe = latest.min(since + self.max_queue_delay);
            if now < ripe && !share.queue.fills(&limits) {
                until = Some(until.map_or(ripe, |earlier| earlier.min(ripe)));
                continue;
            }
            let batch = share.queue.take_batch(&limits, now);
            let cost = batch.iter().map(|queued| u64::from(queued.cost)).sum();
            let predicted = limits.curve.predict(batch.len(), cost);
            share.given += predicted.as_secs_f64();
            if seat == Seat::Own {
                self.present = self.present.max(given);
                self.end = share.given;
            }
            return Step::Run(Run {
                queue: id,
                batch,
                left: share.queue.len(),
                predicted,
            });
        }
        until.map_or(Step::Idle, Step::WaitUntil)
    }

    /// A batch has ended: it took `actual`.
    pub fn ran(&mut self, id: QueueId, predicted: Duration, actual: Duration) {
        let share = &mut self.shares[id.0];
        share.given += actual.as_secs_f64() - predicted.as_secs_f64();
        share.belief = 1.0;
    }
}

#[cfg(test)]
mod tests;
