//! The thin shell around the policy: a lock, and the clock.
//!
//! Whoever works *pulls*: a device's thread blocks in [`Dispatcher::next`] until a batch is due. So there is no task
//! between a request and the device, an idle device is woken by the push itself, and several devices share the same
//! queues.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Limits, Lost, Policy, QueueId, Queued, RequestId, Run, Seat, Speed, Step, Wanted};

/// The queues of all recipes.
#[derive(Debug)]
pub struct Dispatcher<T> {
    state: Mutex<State<T>>,
    /// Notified on a push while somebody waits, and on closing.
    ready: Condvar,
    /// Those that wait for what can go beside others' batches. They are woken only if nobody else can take what was pushed.
    beside: Condvar,
}

#[derive(Debug)]
struct State<T> {
    policy: Policy<T>,
    /// How many threads wait, so that pushing to busy devices costs no wake-up.
    waiting: usize,
    waiting_beside: usize,
    closed: bool,
}

/// What there is to do.
#[derive(Debug)]
pub struct Due<T> {
    /// A batch to run; none if requests have only been given up.
    pub run: Option<Run<T>>,
    /// Items that cannot be answered in time any more, of any queue.
    pub lost: Vec<Lost<T>>,
}

/// What [`Dispatcher::next`] found.
#[derive(Debug)]
pub enum Next<T> {
    /// Something to do.
    Due(Due<T>),
    /// Nothing for as long as the caller would wait.
    Idle,
    /// The dispatcher is closed and everything has left.
    Closed,
}

impl<T> Dispatcher<T> {
    /// Queues for a policy.
    pub fn new(policy: Policy<T>) -> Self {
        Self {
            state: Mutex::new(State {
                policy,
                waiting: 0,
                waiting_beside: 0,
                closed: false,
            }),
            ready: Condvar::new(),
            beside: Condvar::new(),
        }
    }

    /// Adds items of a request at once, so that a device cannot take the first before the last is there. All of a
    /// request's items are wanted at the same time. After [`Dispatcher::close`] they are given back.
    ///
    /// # Errors
    /// The dispatcher is closed.
    pub fn push(
        &self,
        id: QueueId,
        wanted: Wanted,
        items: Vec<Queued<T>>,
    ) -> Result<(), Vec<Queued<T>>> {
        let mut state = self.lock();
        if state.closed {
            return Err(items);
        }
        state.policy.push(id, wanted, items);
        let (wake, beside) = (state.waiting > 0, state.waiting_beside > 0);
        drop(state);
        if wake {
            self.ready.notify_one();
        } else if beside {
            self.beside.notify_all();
        }
        Ok(())
    }

    /// Takes out what is left of a request.
    pub fn take_request(&self, id: QueueId, request: RequestId) -> Vec<Queued<T>> {
        self.lock().policy.take_request(id, request)
    }

    /// How many items of a recipe wait.
    pub fn len(&self, id: QueueId) -> usize {
        self.lock().policy.queue(id).len()
    }

    /// Whether nothing waits at all of a recipe's.
    pub fn is_empty(&self, id: QueueId) -> bool {
        self.len(id) == 0
    }

    /// Says what all devices together are expected to take for a recipe's batches.
    pub fn set_speed(&self, id: QueueId, speed: Speed) {
        self.lock().policy.set_speed(id, speed);
    }

    /// A batch has ended, see [`Policy::ran`].
    pub fn ran(&self, id: QueueId, predicted: Duration, actual: Duration) {
        self.lock().policy.ran(id, predicted, actual);
    }

    /// Whoever waits is to look again, as limits have changed.
    pub fn wake(&self) {
        // With the lock, so that nobody is between looking and waiting.
        let state = self.lock();
        let wake = state.waiting > 0;
        drop(state);
        if wake {
            self.ready.notify_all();
        }
    }

    /// A batch has begun that others may go beside.
    pub fn began(&self) {
        let state = self.lock();
        let wake = state.waiting_beside > 0 && !state.policy.is_empty();
        drop(state);
        if wake {
            self.beside.notify_all();
        }
    }

    /// Blocks until a batch can go beside others' and takes it; `None` once the dispatcher is closed. `limits` are the caller's, see
    /// [`Policy::poll`].
    pub fn next_beside(&self, mut limits: impl FnMut(QueueId) -> Option<Limits>) -> Option<Run<T>> {
        let mut state = self.lock();
        while !state.closed {
            // Who may wait for a batch to fill waits for one of its own.
            if let Step::Run(run) = state.policy.poll(Seat::Beside, Instant::now(), &mut limits) {
                return Some(run);
            }
            state.waiting_beside += 1;
            state = self
                .beside
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting_beside -= 1;
        }
        None
    }

    /// Blocks until a batch is due and takes it, or until nothing has been due for `patience`. `limits` are the caller's,
    /// see [`Policy::poll`].
    pub fn next(
        &self,
        mut limits: impl FnMut(QueueId) -> Option<Limits>,
        patience: Option<Duration>,
    ) -> Next<T> {
        let mut state = self.lock();
        let mut give_up: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let lost = state.policy.take_hopeless(now);
            let until = match state.policy.poll(Seat::Own, now, &mut limits) {
                Step::Run(run) => {
                    let run = Some(run);
                    return Next::Due(Due { run, lost });
                }
                _ if !lost.is_empty() => return Next::Due(Due { run: None, lost }),
                Step::Idle if state.closed && state.policy.is_empty() => return Next::Closed,
                Step::Idle => None,
                Step::WaitUntil(until) => Some(until),
            };
            let give_up = *give_up.get_or_insert_with(|| now + patience.unwrap_or_default());
            if patience.is_some() && now >= give_up {
                return Next::Idle;
            }
            let until = match (until, patience) {
                (until, None) => until,
                (None, Some(_)) => Some(give_up),
                (Some(until), Some(_)) => Some(until.min(give_up)),
            };
            state = self.wait(state, now, until);
        }
    }

    /// Refuses new items and lets [`Dispatcher::next`] end once the queues are empty.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
        self.beside.notify_all();
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
        // Nothing that may panic runs under the lock, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::{super::Curve, *};

    const LONG: Duration = Duration::from_secs(3600);

    fn dispatcher(queues: usize, delay: Duration) -> Dispatcher<u32> {
        Dispatcher::new(Policy::new(queues, delay))
    }

    /// The first recipe's items take a second, the others' a millisecond.
    fn limits(id: QueueId) -> Option<Limits> {
        let seconds = if id == QueueId(0) { 1.0 } else { 1e-3 };
        Some(Limits {
            max_batch_size: 4,
            max_batch_cost: 100,
            curve: Curve::line(0.0, seconds),
            in_flight: 1,
            longest: Duration::MAX,
        })
    }

    fn push(dispatcher: &Dispatcher<u32>, queue: usize, item: u32, within: Duration) -> bool {
        let since = Instant::now();
        let queued = Queued {
            cost: 1,
            since,
            item,
        };
        let wanted = Wanted {
            request: RequestId(u64::from(item)),
            due: since + within,
            deadline: since + within,
        };
        dispatcher
            .push(QueueId(queue), wanted, vec![queued])
            .is_ok()
    }

    fn batch(dispatcher: &Dispatcher<u32>) -> Option<Due<u32>> {
        match dispatcher.next(limits, None) {
            Next::Due(due) => Some(due),
            _ => None,
        }
    }

    #[test]
    fn hopeless_items_are_handed_out_as_lost_and_never_in_a_batch() {
        let dispatcher = dispatcher(1, Duration::ZERO);
        assert!(push(&dispatcher, 0, 7, Duration::ZERO));
        let due = batch(&dispatcher).unwrap();
        assert!(due.run.is_none());
        assert_eq!(due.lost[0].1.item, 7);
    }

    #[test]
    fn closing_refuses_new_items_and_lets_the_waiting_ones_finish() {
        let dispatcher = dispatcher(1, Duration::from_millis(20));
        assert!(push(&dispatcher, 0, 1, LONG));
        dispatcher.close();
        assert!(!push(&dispatcher, 0, 2, LONG));
        let run = batch(&dispatcher).unwrap().run.unwrap();
        assert_eq!(run.batch.len(), 1);
        assert!(matches!(dispatcher.next(limits, None), Next::Closed));
    }

    #[test]
    fn whoever_has_other_things_to_do_is_told_that_nothing_is_due() {
        let dispatcher = dispatcher(1, Duration::ZERO);
        let patience = Some(Duration::from_millis(1));
        assert!(matches!(dispatcher.next(limits, patience), Next::Idle));
        assert!(push(&dispatcher, 0, 1, LONG));
        assert!(matches!(dispatcher.next(limits, patience), Next::Due(_)));
        // What may not be taken is not due.
        assert!(push(&dispatcher, 0, 2, LONG));
        assert!(matches!(dispatcher.next(|_| None, patience), Next::Idle));
        assert_eq!(dispatcher.len(QueueId(0)), 1);
    }

    #[test]
    fn a_waiting_device_is_woken_by_a_push_and_by_closing() {
        let dispatcher = Arc::new(dispatcher(1, Duration::ZERO));
        let device = thread::spawn({
            let dispatcher = Arc::clone(&dispatcher);
            move || {
                std::iter::from_fn(|| batch(&dispatcher))
                    .filter_map(|due| Some(due.run?.batch.len()))
                    .sum::<usize>()
            }
        });
        for n in 0..100 {
            assert!(push(&dispatcher, 0, n, LONG));
        }
        dispatcher.close();
        assert_eq!(device.join().unwrap(), 100);
    }

    #[test]
    fn who_waits_beside_others_is_woken_by_a_push_by_a_batch_that_begins_and_by_closing() {
        let dispatcher = Arc::new(dispatcher(2, Duration::ZERO));
        let (taken, seen) = std::sync::mpsc::channel();
        let beside = thread::spawn({
            let dispatcher = Arc::clone(&dispatcher);
            move || {
                let second = |id: QueueId| limits(id).filter(|_| id == QueueId(1));
                std::iter::from_fn(|| dispatcher.next_beside(second))
                    .try_for_each(|run| taken.send(run.batch[0].item))
            }
        });
        // With nothing at work there is nothing to go beside.
        assert!(push(&dispatcher, 1, 1, LONG));
        thread::sleep(Duration::from_millis(5));
        assert!(seen.try_recv().is_err());
        assert!(batch(&dispatcher).is_some());
        assert!(push(&dispatcher, 0, 2, LONG));
        assert!(batch(&dispatcher).is_some());
        assert!(push(&dispatcher, 1, 3, LONG));
        assert_eq!(seen.recv_timeout(LONG), Ok(3));
        dispatcher.close();
        assert!(matches!(beside.join(), Ok(Ok(()))));
    }
}
