//! Asynchronous requests that outlive their process: each is in the table before it is accepted, and whoever holds its lease runs
//! it. A replica works on what it accepted itself, and on what others let go.
//!
//! A job has its lease from when it is taken until its end is written, and the lease is renewed meanwhile. What is not written
//! for want of a database is tried again for as long as the process lives.

mod job;

use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::trace::FutureExt;
use tokio::{
    sync::{RwLock, Semaphore},
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::job::Job;
use super::{
    body::Read,
    store::{Finished, Key},
    stored,
};
use crate::{
    http::{
        AppState, HttpConfig,
        error::ApiError,
        state::{Call, ServedRecipe},
    },
    jobs::{Begun, Bounds, End, JobInput, JobTable, New},
    metrics::{JobEvent, JobMetrics, Registry},
};

/// The most jobs of others that are in hand.
const ROOM: usize = 64;

/// The jobs in the table that this process has in hand.
#[derive(Debug)]
pub(super) struct Durable {
    table: JobTable,
    bounds: Bounds,
    tasks: TaskTracker,
    /// Leases to be renewed.
    held: Mutex<HashSet<String>>,
    /// Held by all that run, or by one that processes have ended of.
    alone: Arc<RwLock<()>>,
    room: Arc<Semaphore>,
    /// Nothing that could be done elsewhere is waited for any more.
    leaving: CancellationToken,
    metrics: HashMap<&'static str, JobMetrics>,
}

impl Durable {
    pub(super) fn new(
        config: &HttpConfig,
        recipes: &[Arc<ServedRecipe>],
        registry: &Registry,
    ) -> Option<Arc<Self>> {
        let metrics = |recipe: &Arc<ServedRecipe>| (recipe.name(), registry.jobs(recipe.name()));
        Some(Arc::new(Self {
            table: config.jobs.clone()?,
            bounds: Bounds {
                ttl: config.result_ttl,
                jobs: config.max_results.max(1),
                bytes: config.max_result_bytes,
            },
            tasks: TaskTracker::new(),
            held: Mutex::default(),
            alone: Arc::default(),
            room: Arc::new(Semaphore::new(ROOM)),
            leaving: CancellationToken::new(),
            metrics: recipes.iter().map(metrics).collect(),
        }))
    }

    /// Stores a job and begins it. What is known goes on as it is.
    pub(super) async fn submit(
        self: &Arc<Self>,
        key: Key,
        (recipe, read): (Arc<ServedRecipe>, Read),
        timeout: Duration,
        call: &mut Option<Call>,
    ) -> Result<(), ApiError> {
        recipe.served.has_room(Instant::now() + timeout)?;
        let (form, body) = read.source.unwrap_or_default();
        let new = New {
            recipe: key.recipe,
            id: key.id,
            digest: read.digest.unwrap_or_else(|| read.items.digest()),
            input: JobInput {
                timeout,
                form,
                body,
            },
        };
        match self.table.begin(new, self.bounds).await.map_err(refused)? {
            Begun::Known => Ok(()),
            Begun::Conflict => Err(ApiError::other_body()),
            Begun::Full => Err(ApiError::too_many_jobs()),
            Begun::New(lease) => {
                let job = Job::new(self, &recipe, lease);
                job.count(JobEvent::Stored);
                let run = job.begin((read.items, read.share), timeout, call.take());
                // Whoever asked, the job is part of that trace.
                self.tasks.spawn(run.with_current_context());
                Ok(())
            }
        }
    }

    /// How the job of that id ended, if it is known and has.
    pub(super) async fn find(&self, key: &Key) -> Result<Option<Option<Finished>>, ApiError> {
        let found = self.table.find(key.recipe, &key.id, self.bounds.ttl).await;
        let finished = |end: End| stored::from_end(end).map(Arc::new);
        Ok(found.map_err(refused)?.map(|end| end.map(finished)))
    }

    /// Gives back what has not ended, and waits until what has is written.
    pub(super) async fn leave(&self) {
        self.leaving.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Renews leases, takes over jobs and forgets results, for ever.
    pub(super) async fn keep(self: &Arc<Self>, state: &AppState) {
        tokio::join!(self.renew(), self.look(state), self.sweep());
    }

    async fn renew(&self) {
        let mut ticks = ticks(self.table.lease() / 3);
        loop {
            ticks.tick().await;
            let held: Vec<String> = self.held().iter().cloned().collect();
            // What is in vain is logged already, and tried again soon.
            if !held.is_empty() {
                let _ = self.table.renew(held).await;
            }
        }
    }

    async fn sweep(&self) {
        let mut ticks = ticks(self.table.lease() / 3);
        loop {
            ticks.tick().await;
            let _ = self.table.sweep(self.bounds).await;
        }
    }

    async fn look(self: &Arc<Self>, state: &AppState) {
        let mut ticks = ticks(self.table.lease() / 15);
        loop {
            ticks.tick().await;
            self.take_over(state).await;
        }
    }

    async fn take_over(self: &Arc<Self>, state: &AppState) {
        for recipe in state.recipes() {
            // As many as there is room for, and again as long as there are more.
            loop {
                let Ok(first) = Arc::clone(&self.room).acquire_owned().await else {
                    return;
                };
                if !state.is_ready() {
                    return;
                }
                let limit = 1 + self.room.available_permits();
                let taken = self.table.take(recipe.name(), limit).await;
                let taken = taken.unwrap_or_default();
                if !taken.is_empty() {
                    tracing::info!(recipe = recipe.name(), jobs = taken.len(), "took over jobs");
                }
                let all = taken.len() < limit;
                let mut room = Some(first);
                for lease in taken {
                    let room = room
                        .take()
                        .or_else(|| Arc::clone(&self.room).try_acquire_owned().ok());
                    let job = Job::new(self, recipe, lease);
                    job.count(JobEvent::TakenOver);
                    self.tasks.spawn(job.resume(state.clone(), room));
                }
                if all {
                    break;
                }
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a table's error is to a caller: what was not stored is not accepted.
fn refused(error: impl Display) -> ApiError {
    tracing::debug!(%error, "a job is refused");
    ApiError::NoTable
}

fn ticks(time: Duration) -> Interval {
    let mut ticks = interval(time.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
