//! What a recipe's requests and batches have come to since the start, and how their time was spent.
//!
//! Metrics have histograms of the same stages; these are sums by request, for protocols that report them so. A request's
//! stages are those of the item that its batch answered last, as the request waited for that one: they follow each other
//! without a gap, and add up to the request's time.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// How often something happened, and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How often.
    pub count: u64,
    /// The sum of all times.
    pub time: Duration,
}

impl Total {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time += time;
    }
}

/// All that is counted of one recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// When an item was last answered.
    pub last_inference: Option<SystemTime>,
    /// Items answered by a forward pass.
    pub items: u64,
    /// Forward passes that succeeded.
    pub batches: u64,
    /// Requests of which an item was answered, from admission to answer.
    pub success: Total,
    /// Requests refused for want of room, failed, expired or abandoned, and those of which no item could be read.
    pub fail: Total,
    /// Stages of the successful ones: from the queue into a batch.
    pub queue: Total,
    /// From admission into the queue.
    pub prepare: Total,
    /// On the device.
    pub forward: Total,
    /// From the device to the answer.
    pub finish: Total,
    /// By the number of items of a batch.
    pub by_batch_size: BTreeMap<usize, BatchTimes>,
}

/// The batches of one size; all three count the batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTimes {
    /// Preparing their items, one after the other.
    pub prepare: Total,
    /// On the device.
    pub forward: Total,
    /// Finishing their items, one after the other.
    pub finish: Total,
}

/// A batch as one of its items sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ride {
    /// When the item entered the queue.
    pub(super) queued: Instant,
    /// When the device took the batch.
    pub(super) start: Instant,
    /// When it had answered it.
    pub(super) end: Instant,
    /// How many items rode along.
    pub(super) batch_size: usize,
}

/// The statistics while they are kept.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Statistics>);

impl Recorder {
    pub(super) fn now(&self) -> Statistics {
        self.lock().clone()
    }

    /// A request begins; it has failed unless [`Tally::succeed`] is called.
    pub(super) fn begin(&self) -> Tally<'_> {
        Tally {
            recorder: self,
            start: Instant::now(),
            last: None,
        }
    }

    /// A batch has been answered; `prepare` is its items' time there.
    pub(super) fn batch(&self, size: usize, prepare: Duration, forward: Duration) {
        let mut statistics = self.lock();
        statistics.items += size as u64;
        statistics.batches += 1;
        statistics.last_inference = Some(SystemTime::now());
        let times = statistics.by_batch_size.entry(size).or_default();
        times.prepare.add(prepare);
        times.forward.add(forward);
        // Its items are yet to be finished, and bring the time.
        times.finish.add(Duration::ZERO);
    }

    /// Items have been finished: the sizes of their batches, and the time of them all.
    pub(super) fn finished(&self, batch_sizes: &[usize], time: Duration) {
        let Some(share) = time.checked_div(batch_sizes.len() as u32) else {
            return;
        };
        let mut statistics = self.lock();
        for &size in batch_sizes {
            let times = statistics.by_batch_size.entry(size).or_default();
            times.finish.time += share;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Statistics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request, until it ends; dropped, it has failed.
pub(super) struct Tally<'a> {
    recorder: &'a Recorder,
    start: Instant,
    last: Option<Ride>,
}

impl Tally<'_> {
    /// When the request was admitted.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// The request has been answered, and this was the last batch that answered an item of it.
    pub(super) fn succeed(mut self, last: Ride) {
        self.last = Some(last);
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let end = Instant::now();
        let mut statistics = self.recorder.lock();
        let Some(ride) = self.last else {
            statistics.fail.add(end - self.start);
            return;
        };
        statistics.success.add(end - self.start);
        statistics.prepare.add(ride.queued - self.start);
        statistics.queue.add(ride.start - ride.queued);
        statistics.forward.add(ride.end - ride.start);
        statistics.finish.add(end - ride.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_an_answer_has_failed() {
        let recorder = Recorder::default();
        drop(recorder.begin());
        let statistics = recorder.now();
        assert_eq!((statistics.fail.count, statistics.success.count), (1, 0));
    }

    #[test]
    fn stages_add_up_to_the_requests_time() {
        let recorder = Recorder::default();
        let tally = recorder.begin();
        let at = |ms| tally.start + Duration::from_millis(ms);
        let ride = Ride {
            queued: at(1),
            start: at(3),
            end: at(7),
            batch_size: 2,
        };
        std::thread::sleep(Duration::from_millis(8));
        tally.succeed(ride);
        let Statistics {
            success,
            prepare,
            queue,
            forward,
            finish,
            ..
        } = recorder.now();
        let stages = [prepare, queue, forward, finish];
        assert!(stages.iter().all(|stage| stage.count == 1));
        assert_eq!(
            [prepare, queue, forward].map(|stage| stage.time.as_millis()),
            [1, 2, 4]
        );
        assert_eq!(
            stages.iter().map(|stage| stage.time).sum::<Duration>(),
            success.time
        );
    }

    #[test]
    fn batches_are_told_apart_by_size() {
        let recorder = Recorder::default();
        let ms = Duration::from_millis;
        recorder.batch(2, ms(1), ms(5));
        recorder.batch(2, ms(2), ms(6));
        recorder.batch(3, ms(3), ms(7));
        recorder.finished(&[2, 3], ms(4));
        recorder.finished(&[], ms(4));
        let statistics = recorder.now();
        assert_eq!((statistics.items, statistics.batches), (7, 3));
        let twos = statistics.by_batch_size[&2];
        let total = |count, time| Total { count, time };
        assert_eq!(twos.prepare, total(2, ms(3)));
        assert_eq!(twos.forward, total(2, ms(11)));
        assert_eq!(twos.finish, total(2, ms(2)));
        assert_eq!(statistics.by_batch_size[&3].finish, total(1, ms(2)));
    }
}
