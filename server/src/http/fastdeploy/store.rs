//! Where jobs are remembered: by id, for a time, within bounds on their number and on the memory of their results.

use std::{
    collections::{HashMap, VecDeque, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{items::Digest, stored::Stored};
use crate::{engine::InferError, http::error::ApiError};

/// How a job ended.
pub(super) type Finished = Result<Arc<Stored>, ApiError>;
/// Where a job's end is to be read; `None` while it runs.
type Receiver = watch::Receiver<Option<Finished>>;

/// An id, of one recipe's requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) recipe: &'static str,
    pub(super) id: Arc<str>,
}

/// A job that somebody waits for or asks after.
#[derive(Debug)]
pub(super) struct Job(Receiver);

impl Job {
    /// How it ended, if it has.
    pub(super) fn finished(&self) -> Option<Finished> {
        self.0.borrow().clone()
    }

    /// Waits for its end.
    pub(super) async fn wait(mut self, deadline: Instant) -> Finished {
        match tokio::time::timeout_at(deadline.into(), self.0.wait_for(Option::is_some)).await {
            Ok(Ok(finished)) => finished.clone().unwrap_or_else(|| Err(lost())),
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(InferError::Deadline.into()),
        }
    }
}

fn lost() -> ApiError {
    InferError::Failed("the request was lost".into()).into()
}

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) ttl: Duration,
    pub(super) results: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Store {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    /// Ended jobs, in the order of their end. An entry that has been replaced since is known by its serial number.
    ended: VecDeque<(Instant, Key, u64)>,
    /// What the results in `entries` take.
    bytes: usize,
    next_serial: u64,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    digest: Digest,
    receiver: Receiver,
    /// What its result takes, once there is one.
    bytes: usize,
}

pub(super) enum Begun {
    New(Running),
    Known(Job),
}

impl Store {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            inner: Mutex::default(),
        })
    }

    /// Forgets expired results.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().forget_expired(now, self.limits.ttl);
    }

    /// The job of this id, if it is known.
    pub(super) fn get(&self, key: &Key) -> Option<Job> {
        let mut inner = self.lock();
        inner.forget_expired(Instant::now(), self.limits.ttl);
        let entry = inner.entries.get(key)?;
        Some(Job(entry.receiver.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job of this id, or a new one; an error if the id stands for another body or there is no room.
    pub(super) fn begin(self: &Arc<Self>, key: Key, digest: Digest) -> Result<Begun, ApiError> {
        let mut inner = self.lock();
        inner.forget_expired(Instant::now(), self.limits.ttl);
        if let Some(entry) = inner.entries.get(&key) {
            if entry.digest != digest {
                return Err(ApiError::other_body());
            }
            // A failure is not a result: sent again, the request runs again.
            if !matches!(*entry.receiver.borrow(), Some(Err(_))) {
                return Ok(Begun::Known(Job(entry.receiver.clone())));
            }
            inner.remove(&key);
        }
        if inner.entries.len() >= self.limits.results && !inner.forget_oldest() {
            return Err(ApiError::too_many_jobs());
        }
        let serial = inner.next_serial;
        inner.next_serial += 1;
        let (sender, receiver) = watch::channel(None);
        inner.entries.insert(
            key.clone(),
            Entry {
                serial,
                digest,
                receiver,
                bytes: 0,
            },
        );
        Ok(Begun::New(Running {
            store: Arc::clone(self),
            key,
            serial,
            sender,
        }))
    }
}

impl Inner {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }

    fn forget_expired(&mut self, now: Instant, ttl: Duration) {
        while self
            .ended
            .front()
            .is_some_and(|(at, ..)| now.saturating_duration_since(*at) >= ttl)
        {
            self.forget_oldest();
        }
    }

    /// Forgets the oldest result; `false` if there is none.
    fn forget_oldest(&mut self) -> bool {
        while let Some((_, key, serial)) = self.ended.pop_front() {
            if self
                .entries
                .get(&key)
                .is_some_and(|entry| entry.serial == serial)
            {
                self.remove(&key);
                return true;
            }
        }
        false
    }

    fn end(&mut self, key: &Key, serial: u64, bytes: usize, limits: Limits) {
        let hash_map::Entry::Occupied(mut entry) = self.entries.entry(key.clone()) else {
            return;
        };
        if entry.get().serial != serial {
            return;
        }
        entry.get_mut().bytes = bytes;
        self.bytes += bytes;
        self.ended.push_back((Instant::now(), key.clone(), serial));
        // The newest stays even if it is larger than all results may be: somebody is about to read it.
        while self.bytes > limits.bytes && self.ended.len() > 1 {
            self.forget_oldest();
        }
    }
}

/// A job that runs. Dropped without an end, it has failed.
pub(super) struct Running {
    store: Arc<Store>,
    key: Key,
    serial: u64,
    sender: watch::Sender<Option<Finished>>,
}

impl Running {
    pub(super) fn job(&self) -> Job {
        Job(self.sender.subscribe())
    }

    /// Remembers how it ended, and tells who waits.
    pub(super) fn finish(self, finished: Finished) {
        self.publish(finished);
    }

    /// It never began: tells who waits, and forgets it.
    pub(super) fn refuse(self, error: ApiError) {
        self.store.lock().remove(&self.key);
        self.sender.send_replace(Some(Err(error)));
    }

    fn publish(&self, finished: Finished) {
        let bytes = finished.as_deref().map_or(0, Stored::size);
        self.sender.send_replace(Some(finished));
        self.store
            .lock()
            .end(&self.key, self.serial, bytes, self.store.limits);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.sender.borrow().is_none() {
            self.publish(Err(lost()));
        }
    }
}

#[cfg(test)]
mod tests {
    use galley_core::Output;

    use super::*;

    fn store(ttl_ms: u64, results: usize, bytes: usize) -> Arc<Store> {
        let limits = Limits {
            ttl: Duration::from_millis(ttl_ms),
            results,
            bytes,
        };
        Arc::new(Store {
            limits,
            inner: Mutex::default(),
        })
    }

    fn key(id: &str) -> Key {
        Key {
            recipe: "echo",
            id: id.into(),
        }
    }

    fn begin(store: &Arc<Store>, id: &str) -> Running {
        match store.begin(key(id), [0; 32]) {
            Ok(Begun::New(running)) => running,
            Ok(Begun::Known(_)) => panic!("{id} is known"),
            Err(error) => panic!("{error}"),
        }
    }

    fn answers(text: &str) -> Finished {
        let answers = vec![Ok(Output::Json(text.into()))];
        Ok(Arc::new(Stored::new(&answers).unwrap()))
    }

    fn knows(store: &Arc<Store>, id: &str) -> bool {
        store.lock().entries.contains_key(&key(id))
    }

    #[test]
    fn an_id_is_one_job_until_it_fails_and_another_body_is_refused() {
        let store = store(60_000, 10, 2000);
        let first = begin(&store, "a");
        assert!(
            matches!(store.begin(key("a"), [0; 32]), Ok(Begun::Known(job)) if job.finished().is_none())
        );
        assert!(matches!(
            store.begin(key("a"), [1; 32]),
            Err(ApiError::Conflict(_))
        ));
        first.finish(answers("x"));
        assert!(
            matches!(store.begin(key("a"), [0; 32]), Ok(Begun::Known(job)) if job.finished().is_some())
        );
        begin(&store, "b").finish(Err(lost()));
        begin(&store, "b").finish(answers("y"));
        assert_eq!(store.lock().entries.len(), 2);
    }

    #[test]
    fn the_oldest_results_make_room_and_running_jobs_do_not() {
        let store = store(60_000, 2, 1000);
        begin(&store, "a").finish(answers("x"));
        let running = begin(&store, "b");
        begin(&store, "c").finish(answers("x"));
        assert!(!knows(&store, "a") && knows(&store, "b") && knows(&store, "c"));
        let other = begin(&store, "d");
        assert!(matches!(
            store.begin(key("e"), [0; 32]),
            Err(ApiError::Busy(_))
        ));
        drop((running, other));
        begin(&store, "e");
        assert_eq!(store.lock().entries.len(), 2);
    }

    #[test]
    fn results_are_bounded_in_bytes_and_time() {
        let store = store(60_000, 100, 2000);
        for id in ["a", "b", "c"] {
            begin(&store, id).finish(answers(&"x".repeat(400)));
        }
        assert!(!knows(&store, "a") && knows(&store, "b") && knows(&store, "c"));
        begin(&store, "large").finish(answers(&"x".repeat(4000)));
        assert!(knows(&store, "large") && store.lock().entries.len() == 1);
        let later = Instant::now() + Duration::from_secs(61);
        store.lock().forget_expired(later, store.limits.ttl);
        let inner = store.lock();
        assert!(inner.entries.is_empty() && inner.ended.is_empty() && inner.bytes == 0);
    }

    #[test]
    fn a_refused_job_is_forgotten_and_a_lost_one_has_failed() {
        let store = store(60_000, 100, 1000);
        let running = begin(&store, "a");
        let job = running.job();
        running.refuse(lost());
        assert!(job.finished().unwrap().is_err() && !knows(&store, "a"));
        let job = begin(&store, "b").job();
        assert_eq!(job.finished(), Some(Err(lost())));
    }
}
