//! Requests that brought a `unique_id`: each is run once, whoever asks for it however often, and its result is
//! remembered for a while.
//!
//! A job is a task of its own, so that neither the caller's going away nor a second caller's deadline ends it.
//! Requests without an id of the client's never come here.

use std::{
    collections::{HashMap, VecDeque, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{
    answer::{json_size, verdict},
    body::Read,
    infer::answer_items,
    items::Digest,
};
use crate::{
    engine::{Answers, InferError},
    http::{
        HttpConfig,
        error::ApiError,
        state::{Call, ServedRecipe},
    },
};

/// How a job ended.
pub(super) type Finished = Result<Arc<Answers>, ApiError>;
/// Where a job's end is to be read; `None` while it runs.
type Receiver = watch::Receiver<Option<Finished>>;

/// An id, of one recipe's requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) recipe: &'static str,
    pub(super) id: Arc<str>,
}

/// All jobs.
#[derive(Debug)]
pub(in crate::http) struct Jobs {
    store: Arc<Store>,
    tasks: TaskTracker,
}

impl Jobs {
    pub(in crate::http) fn new(config: &HttpConfig) -> Self {
        let limits = Limits {
            ttl: config.result_ttl,
            results: config.max_results.max(1),
            bytes: config.max_result_bytes,
        };
        Self {
            store: Arc::new(Store {
                limits,
                inner: Mutex::default(),
            }),
            tasks: TaskTracker::new(),
        }
    }

    /// Forgets expired results.
    pub(in crate::http) fn sweep(&self, now: Instant) {
        self.store.lock().forget_expired(now, self.store.limits.ttl);
    }

    /// Waits until every job has ended. New ones may begin meanwhile, as long as the engine takes them.
    pub(in crate::http) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The job of this id, if it is known.
    pub(super) fn get(&self, key: &Key) -> Option<Job> {
        let mut inner = self.store.lock();
        inner.forget_expired(Instant::now(), self.store.limits.ttl);
        inner
            .entries
            .get(key)
            .map(|entry| Job(entry.receiver.clone()))
    }

    /// Joins the job of this id, or begins it. Only a new one that outlives this call takes `call` along.
    pub(super) fn submit(
        &self,
        key: Key,
        (recipe, read): (Arc<ServedRecipe>, Read),
        deadline: Instant,
        call: &mut Option<Call>,
    ) -> Result<Job, ApiError> {
        let digest = read.digest.unwrap_or_else(|| read.items.digest());
        let running = match self.store.begin(key, digest)? {
            Begun::New(running) => running,
            Begun::Known(job) => return Ok(job),
        };
        let job = running.job();
        let share = read.share;
        let mut answers = Box::pin(answer_items(recipe, read.items, deadline));
        // Polled once here: what is refused at once (a full queue, draining) is for this caller to know, not for a
        // later reader of the result. The task polls again, so that this waker need not wake anything.
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match answers.as_mut().poll(&mut context) {
            Poll::Ready(Err(error)) => {
                running.refuse(error.clone());
                return Err(error);
            }
            Poll::Ready(Ok(answers)) => running.finish(Ok(Arc::new(answers))),
            Poll::Pending => {
                let call = call.take();
                self.tasks.spawn(async move {
                    let finished = answers.await.map(Arc::new);
                    drop(share);
                    if let Some(call) = call {
                        let outcome = finished.as_deref().map_err(Clone::clone).and_then(verdict);
                        call.end(outcome.unwrap_or_else(|error| error.outcome()));
                    }
                    running.finish(finished);
                });
            }
        }
        Ok(job)
    }
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

#[derive(Clone, Copy, Debug)]
struct Limits {
    ttl: Duration,
    results: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Store {
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

enum Begun {
    New(Running),
    Known(Job),
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, key: Key, digest: Digest) -> Result<Begun, ApiError> {
        let mut inner = self.lock();
        inner.forget_expired(Instant::now(), self.limits.ttl);
        if let Some(entry) = inner.entries.get(&key) {
            if entry.digest != digest {
                return Err(ApiError::Conflict(
                    "this unique_id was given to a request with another body".into(),
                ));
            }
            // A failure is not a result: sent again, the request runs again.
            if !matches!(*entry.receiver.borrow(), Some(Err(_))) {
                return Ok(Begun::Known(Job(entry.receiver.clone())));
            }
            inner.remove(&key);
        }
        if inner.entries.len() >= self.limits.results && !inner.forget_oldest() {
            return Err(ApiError::Busy(
                "as many requests with a unique_id run as may (--max-results)".into(),
            ));
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
struct Running {
    store: Arc<Store>,
    key: Key,
    serial: u64,
    sender: watch::Sender<Option<Finished>>,
}

impl Running {
    fn job(&self) -> Job {
        Job(self.sender.subscribe())
    }

    /// Remembers how it ended, and tells who waits.
    fn finish(self, finished: Finished) {
        self.publish(finished);
    }

    /// It never began: tells who waits, and forgets it.
    fn refuse(self, error: ApiError) {
        self.store.lock().remove(&self.key);
        self.sender.send_replace(Some(Err(error)));
    }

    fn publish(&self, finished: Finished) {
        let bytes = finished.as_deref().map_or(0, json_size);
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
        Ok(Arc::new(vec![Ok(Output::Json(text.into()))]))
    }

    fn knows(store: &Arc<Store>, id: &str) -> bool {
        store.lock().entries.contains_key(&key(id))
    }

    #[test]
    fn an_id_is_one_job_until_it_fails_and_another_body_is_refused() {
        let store = store(60_000, 10, 1000);
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
        let store = store(60_000, 100, 1000);
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
