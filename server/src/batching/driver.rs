//! The thin shell around the policy: queues behind one lock, and the clock.
//!
//! Devices *pull*: a device's thread blocks in [`Dispatcher::next`] until a batch is due. So there is no task between a
//! request and the device, an idle device is woken by the push itself, and several devices share the same queues.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Policy, Queue, Queued, Step};

/// Which of the queues; one for each recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueId(pub usize);

/// The queues of all recipes.
#[derive(Debug)]
pub struct Dispatcher<T> {
    state: Mutex<State<T>>,
    /// Notified on a push while a device waits, and on closing.
    ready: Condvar,
}

#[derive(Debug)]
struct State<T> {
    queues: Vec<Queue<T>>,
    /// How many device threads wait, so that pushing to busy devices costs no wake-up.
    waiting: usize,
    closed: bool,
}

/// A batch that is due, and items found expired on the way.
#[derive(Debug)]
pub struct Due<T> {
    /// The queue that the batch comes from.
    pub queue: QueueId,
    /// The items to run, oldest first; may be empty if items have only expired.
    pub batch: Vec<Queued<T>>,
    /// Items of any queue whose deadline had passed.
    pub expired: Vec<(QueueId, Queued<T>)>,
}

impl<T> Dispatcher<T> {
    /// One queue for each policy.
    pub fn new(policies: impl IntoIterator<Item = Policy>) -> Self {
        let queues = policies.into_iter().map(Queue::new).collect();
        Self {
            state: Mutex::new(State {
                queues,
                waiting: 0,
                closed: false,
            }),
            ready: Condvar::new(),
        }
    }

    /// Adds items at once, so that a device cannot take the first before the last is there. After
    /// [`Dispatcher::close`] they are given back.
    ///
    /// # Errors
    /// The dispatcher is closed.
    pub fn push(&self, id: QueueId, items: Vec<Queued<T>>) -> Result<(), Vec<Queued<T>>> {
        let mut state = self.lock();
        if state.closed {
            return Err(items);
        }
        for queued in items {
            state.queues[id.0].push(queued);
        }
        let wake = state.waiting > 0;
        drop(state);
        if wake {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Takes out the items for which `unwanted` holds.
    pub fn take_where(&self, id: QueueId, unwanted: impl Fn(&T) -> bool) -> Vec<Queued<T>> {
        self.lock().queues[id.0].take_where(|queued| unwanted(&queued.item))
    }

    /// Changes a queue's bounds.
    pub fn set_policy(&self, id: QueueId, policy: Policy) {
        self.lock().queues[id.0].set_policy(policy);
    }

    /// The bounds in force.
    pub fn policy(&self, id: QueueId) -> Policy {
        self.lock().queues[id.0].policy()
    }

    /// Blocks until a batch is due and takes it: the ripe queue whose oldest item has waited longest. `None` once the
    /// dispatcher is closed and everything has left.
    pub fn next(&self) -> Option<Due<T>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let expired = state.take_expired(now);
            match state.poll(now) {
                Polled::Due(queue, batch) => {
                    return Some(Due {
                        queue,
                        batch,
                        expired,
                    });
                }
                Polled::NotBefore(_) if !expired.is_empty() => {
                    return Some(Due {
                        queue: QueueId(0),
                        batch: Vec::new(),
                        expired,
                    });
                }
                Polled::NotBefore(None) if state.closed => return None,
                Polled::NotBefore(until) => state = self.wait(state, now, until),
            }
        }
    }

    /// Refuses new items and lets [`Dispatcher::next`] end once the queues are empty.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State<T>>,
        now: Instant,
        until: Option<Instant>,
    ) -> MutexGuard<'a, State<T>> {
        state.waiting += 1;
        let mut state = match until {
            Some(until) => {
                self.ready
                    .wait_timeout(state, until - now)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => self
                .ready
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
        };
        state.waiting -= 1;
        state
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No caller's code runs under the lock, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn take_expired(&mut self, now: Instant) -> Vec<(QueueId, Queued<T>)> {
        let mut expired = Vec::new();
        for (id, queue) in self.queues.iter_mut().enumerate() {
            expired.extend(
                queue
                    .take_expired(now)
                    .into_iter()
                    .map(|queued| (QueueId(id), queued)),
            );
        }
        expired
    }

    fn poll(&mut self, now: Instant) -> Polled<T> {
        let mut order: Vec<(Instant, usize)> = self
            .queues
            .iter()
            .enumerate()
            .filter_map(|(id, queue)| Some((queue.oldest()?, id)))
            .collect();
        order.sort_unstable();
        let mut first: Option<Instant> = None;
        for (_, id) in order {
            match self.queues[id].poll(now) {
                Step::Run(batch) => return Polled::Due(QueueId(id), batch),
                Step::WaitUntil(until) => {
                    first = Some(first.map_or(until, |earlier| earlier.min(until)))
                }
                Step::Idle => {}
            }
        }
        Polled::NotBefore(first)
    }
}

/// What all queues together have for a free device.
enum Polled<T> {
    /// A batch.
    Due(QueueId, Vec<Queued<T>>),
    /// Nothing yet; unless an item comes, the first batch is due then, or none at all.
    NotBefore(Option<Instant>),
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use super::*;

    fn dispatcher(queues: usize, delay: Duration) -> Dispatcher<u32> {
        let policy = Policy {
            max_batch_size: 4,
            max_batch_cost: 100,
            max_queue_delay: delay,
        };
        Dispatcher::new(vec![policy; queues])
    }

    fn item(item: u32, since: Instant) -> Queued<u32> {
        Queued {
            cost: 1,
            since,
            deadline: None,
            item,
        }
    }

    #[test]
    fn the_queue_whose_oldest_item_waits_longest_goes_first() {
        let dispatcher = dispatcher(2, Duration::ZERO);
        let now = Instant::now();
        dispatcher
            .push(QueueId(0), vec![item(0, now + Duration::from_millis(1))])
            .unwrap();
        dispatcher.push(QueueId(1), vec![item(1, now)]).unwrap();
        assert_eq!(dispatcher.next().unwrap().queue, QueueId(1));
        assert_eq!(dispatcher.next().unwrap().queue, QueueId(0));
    }

    #[test]
    fn expired_items_are_handed_out_as_expired_and_never_in_a_batch() {
        let dispatcher = dispatcher(1, Duration::ZERO);
        let now = Instant::now();
        dispatcher
            .push(
                QueueId(0),
                vec![Queued {
                    deadline: Some(now),
                    ..item(7, now)
                }],
            )
            .unwrap();
        let due = dispatcher.next().unwrap();
        assert!(due.batch.is_empty());
        assert_eq!(due.expired[0].1.item, 7);
    }

    #[test]
    fn closing_refuses_new_items_and_lets_the_waiting_ones_finish() {
        let dispatcher = Arc::new(dispatcher(1, Duration::from_millis(20)));
        dispatcher
            .push(QueueId(0), vec![item(1, Instant::now())])
            .unwrap();
        dispatcher.close();
        assert!(
            dispatcher
                .push(QueueId(0), vec![item(2, Instant::now())])
                .is_err()
        );
        assert_eq!(dispatcher.next().unwrap().batch.len(), 1);
        assert!(dispatcher.next().is_none());
    }

    #[test]
    fn a_waiting_device_is_woken_by_a_push_and_by_closing() {
        let dispatcher = Arc::new(dispatcher(1, Duration::ZERO));
        let device = thread::spawn({
            let dispatcher = Arc::clone(&dispatcher);
            move || {
                std::iter::from_fn(|| dispatcher.next())
                    .map(|due| due.batch.len())
                    .sum::<usize>()
            }
        });
        for n in 0..100 {
            dispatcher
                .push(QueueId(0), vec![item(n, Instant::now())])
                .unwrap();
        }
        dispatcher.close();
        assert_eq!(device.join().unwrap(), 100);
    }
}
