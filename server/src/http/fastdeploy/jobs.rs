//! Requests that brought a `unique_id`: each is run once, whoever asks for it however often, and its result is
//! remembered for a while.
//!
//! A job is a task of its own, so that neither the caller's going away nor a second caller's deadline ends it.
//! Requests without an id of the client's never come here, but for asynchronous ones. Those are in a table where there is one
//! (`durable`), and in memory otherwise, as are all that are waited for.

use std::{
    future::pending,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use opentelemetry::trace::FutureExt;
use tokio_util::task::TaskTracker;

use super::{
    body::Read,
    durable::Durable,
    infer::answer_items,
    store::{Begun, Finished, Job, Key, Limits, Store},
    stored::Stored,
};
use crate::{
    http::{
        AppState, HttpConfig,
        error::ApiError,
        state::{Call, ServedRecipe},
    },
    metrics::Registry,
};

/// All jobs.
#[derive(Debug)]
pub(in crate::http) struct Jobs {
    store: Arc<Store>,
    tasks: TaskTracker,
    /// Those that are asynchronous, where there is a table for them.
    durable: Option<Arc<Durable>>,
}

impl Jobs {
    pub(in crate::http) fn new(
        config: &HttpConfig,
        recipes: &[Arc<ServedRecipe>],
        registry: &Registry,
    ) -> Self {
        let limits = Limits {
            ttl: config.result_ttl,
            results: config.max_results.max(1),
            bytes: config.max_result_bytes,
        };
        Self {
            store: Store::new(limits),
            tasks: TaskTracker::new(),
            durable: Durable::new(config, recipes, registry),
        }
    }

    /// Does what the table of jobs needs, for ever.
    pub(in crate::http) async fn keep(&self, state: &AppState) {
        match &self.durable {
            Some(durable) => durable.keep(state).await,
            None => pending().await,
        }
    }

    /// Forgets expired results.
    pub(in crate::http) fn sweep(&self, now: Instant) {
        self.store.sweep(now);
    }

    /// Waits until every job has ended, or is back in the table. New ones may begin meanwhile, as long as the engine takes them.
    pub(in crate::http) async fn finish(&self) {
        if let Some(durable) = &self.durable {
            durable.leave().await;
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// How the job of this id ended, if it is known and has.
    pub(super) async fn find(&self, key: &Key) -> Result<Option<Option<Finished>>, ApiError> {
        match (self.store.get(key), &self.durable) {
            (Some(job), _) => Ok(Some(job.finished())),
            (None, Some(durable)) => durable.find(key).await,
            (None, None) => Ok(None),
        }
    }

    /// Joins or begins the job of this id, which nobody waits for.
    pub(super) async fn accept(
        &self,
        key: Key,
        work: (Arc<ServedRecipe>, Read),
        timeout: Duration,
        call: &mut Option<Call>,
    ) -> Result<(), ApiError> {
        match &self.durable {
            Some(durable) => durable.submit(key, work, timeout, call).await,
            None => {
                let deadline = Instant::now() + timeout;
                self.submit(key, work, deadline, call).map(drop)
            }
        }
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
        // Whoever asked first, the job is part of that trace.
        let answers = answer_items(recipe, read.items, deadline).with_current_context();
        let mut answers = Box::pin(answers);
        // Polled once here: what is refused at once (a full queue, draining) is for this caller to know, not for a
        // later reader of the result. The task polls again, so that this waker need not wake anything.
        let mut context = Context::from_waker(Waker::noop());
        match answers.as_mut().poll(&mut context) {
            Poll::Ready(Err(error)) => {
                running.refuse(error.clone());
                return Err(error);
            }
            Poll::Ready(Ok(answers)) => running.finish(Stored::new(&answers).map(Arc::new)),
            Poll::Pending => {
                let call = call.take();
                self.tasks.spawn(async move {
                    let finished = answers.await.and_then(|answers| Stored::new(&answers));
                    drop(share);
                    if let Some(call) = call {
                        let outcome = match &finished {
                            Ok(stored) => stored.verdict.clone(),
                            Err(error) => Err(error.clone()),
                        };
                        call.end(outcome.unwrap_or_else(|error| error.outcome()));
                    }
                    running.finish(finished.map(Arc::new));
                });
            }
        }
        Ok(job)
    }
}
