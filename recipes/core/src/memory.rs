//! A budget of memory that many threads take from.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often a thread that waits asks whether it still should.
const ASK: Duration = Duration::from_millis(20);

/// A number of bytes that the process may hold at once for one purpose (decoded images, `--max-decode-memory`).
///
/// Who needs memory reserves all of it at once and before allocating any; as nobody waits while holding some, all who wait
/// are served in the end, in their order.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    reserved: u64,
    /// Those who wait, by number; the first goes next, so that small ones never keep a large one waiting for good.
    waiting: VecDeque<u64>,
    next: u64,
}

/// Why there is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMemory {
    /// It is more than there will ever be.
    #[error("more than the budget of {limit} bytes")]
    Never {
        /// The whole budget.
        limit: u64,
    },
    /// Whoever asked stopped waiting.
    #[error("not wanted any more")]
    NotWanted,
}

/// Memory reserved until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    bytes: u64,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Shared {
            limit,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// A budget that never ends.
    pub fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    /// The bytes of the whole budget.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// The bytes that are reserved now.
    pub fn reserved(&self) -> u64 {
        self.state().reserved
    }

    /// Reserves memory, and waits until others have given up enough for it, or until it is not `wanted` any more.
    ///
    /// # Errors
    /// It is more than the whole budget, or not wanted any more.
    pub fn reserve(&self, bytes: u64, wanted: &dyn Fn() -> bool) -> Result<Reservation, NoMemory> {
        let limit = self.0.limit;
        if bytes > limit {
            return Err(NoMemory::Never { limit });
        }
        let mut state = self.state();
        let me = state.next;
        state.next += 1;
        state.waiting.push_back(me);
        loop {
            if state.waiting.front() == Some(&me) && bytes <= limit - state.reserved {
                state.waiting.pop_front();
                state.reserved += bytes;
                // The next one may fit beside it.
                self.0.changed.notify_all();
                return Ok(Reservation {
                    budget: self.clone(),
                    bytes,
                });
            }
            // Asked without the lock, as nobody knows what it does.
            drop(state);
            let goes_on = wanted();
            state = self.state();
            if !goes_on {
                state.waiting.retain(|&other| other != me);
                self.0.changed.notify_all();
                return Err(NoMemory::NotWanted);
            }
            state = self
                .0
                .changed
                .wait_timeout(state, ASK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::unlimited()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.state().reserved -= self.bytes;
        self.budget.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
            mpsc,
        },
        thread,
    };

    use super::*;

    fn wanted() -> bool {
        true
    }

    /// Until so many wait.
    fn wait_for(budget: &MemoryBudget, waiting: usize) {
        while budget.state().waiting.len() != waiting {
            thread::yield_now();
        }
    }

    #[test]
    fn what_is_dropped_is_there_again() {
        let budget = MemoryBudget::new(100);
        let first = budget.reserve(60, &wanted).unwrap();
        let second = budget.reserve(40, &wanted).unwrap();
        assert_eq!(budget.reserved(), 100);
        drop(first);
        assert_eq!(budget.reserved(), 40);
        drop(second);
        let all = budget.reserve(100, &wanted).unwrap();
        assert_eq!(budget.reserved(), 100);
        drop(all);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn more_than_all_is_refused_at_once() {
        let budget = MemoryBudget::new(100);
        let refused = budget.reserve(101, &wanted).unwrap_err();
        assert_eq!(refused, NoMemory::Never { limit: 100 });
        assert!(MemoryBudget::unlimited().reserve(u64::MAX, &wanted).is_ok());
    }

    #[test]
    fn a_large_one_goes_before_small_ones_that_came_later() {
        let budget = MemoryBudget::new(100);
        let held = budget.reserve(50, &wanted).unwrap();
        let (send, order) = mpsc::channel();
        thread::scope(|scope| {
            let reserve = |bytes: u64, send: mpsc::Sender<u64>| {
                let budget = &budget;
                scope.spawn(move || {
                    let taken = budget.reserve(bytes, &wanted).unwrap();
                    send.send(bytes).unwrap();
                    drop(taken);
                });
            };
            reserve(90, send.clone());
            wait_for(&budget, 1);
            reserve(20, send.clone());
            wait_for(&budget, 2);
            // The small one would fit, and waits for its turn.
            assert!(order.try_recv().is_err());
            drop(held);
            assert_eq!([order.recv().unwrap(), order.recv().unwrap()], [90, 20]);
        });
    }

    #[test]
    fn one_that_is_not_wanted_any_more_stops_waiting() {
        let budget = MemoryBudget::new(10);
        let held = budget.reserve(10, &wanted).unwrap();
        let goes_on = AtomicBool::new(true);
        thread::scope(|scope| {
            let waits = scope.spawn(|| budget.reserve(5, &|| goes_on.load(SeqCst)).err());
            wait_for(&budget, 1);
            goes_on.store(false, SeqCst);
            assert_eq!(waits.join().unwrap(), Some(NoMemory::NotWanted));
        });
        wait_for(&budget, 0);
        drop(held);
        assert!(budget.reserve(10, &wanted).is_ok());
    }

    #[test]
    fn many_threads_never_hold_more_than_there_is() {
        let budget = MemoryBudget::new(1000);
        let held = AtomicU64::new(0);
        thread::scope(|scope| {
            for thread in 0..8u64 {
                let (budget, held) = (&budget, &held);
                scope.spawn(move || {
                    for i in 0..200 {
                        let bytes = (thread * 131 + i * 37) % 1000 + 1;
                        let taken = budget.reserve(bytes, &wanted).unwrap();
                        assert!(held.fetch_add(bytes, SeqCst) + bytes <= 1000);
                        held.fetch_sub(bytes, SeqCst);
                        drop(taken);
                    }
                });
            }
        });
        assert_eq!(budget.reserved(), 0);
    }
}
