//! Asynchronous requests that outlive their process: each is in the table before it is accepted, and whoever holds its lease runs
//! it. A replica works on what it accepted itself, and on what others let go.
//!
//! A job has its lease from when it is taken until its end is written, and the lease is renewed meanwhile. What is not written
//! for want of a database is tried again for as long as the process lives.

use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::future::Either;
use opentelemetry::trace::FutureExt;
use tokio::{
    sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, RwLock, Semaphore},
    time::{Interval, MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    body::{Read, read_again},
    infer::answer_items,
    items::Items,
    store::{Finished, Key},
    stored::{self, Stored},
};
use crate::{
    database::TableError,
    engine::InferError,
    http::{
        AppState, HttpConfig,
        budget::Share,
        error::ApiError,
        state::{Call, ServedRecipe},
    },
    jobs::{Begun, Bounds, End, JobInput, JobTable, Lease, New, attempt::Attempt},
    metrics::{JobEvent, JobMetrics, Protocol, Registry},
};

/// The most jobs of others that are in hand.
const ROOM: usize = 64;
/// How long a table that does not answer is left alone, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// How long a process that ends tries to give a job back.
const LAST: Duration = Duration::from_secs(5);
/// After so long a job is tried again that found no room.
const AGAIN: Duration = Duration::from_secs(1);

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

/// A job in hand. Dropped, its lease is renewed no more.
struct Job {
    durable: Arc<Durable>,
    recipe: Arc<ServedRecipe>,
    lease: Lease,
}

/// What one attempt is made with.
struct Work {
    items: Items,
    share: Share,
    timeout: Duration,
    call: Option<Call>,
    /// Kept until the end is written, for until then another's death would count as this one's.
    _turn: Turn,
}

type Turn = Either<OwnedRwLockReadGuard<()>, OwnedRwLockWriteGuard<()>>;

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
                let job = self.hold(recipe, lease);
                job.count(JobEvent::Stored);
                let call = call.take();
                let run = async move {
                    let turn = Either::Left(Arc::clone(&job.durable.alone).read_owned().await);
                    let work = Work {
                        items: read.items,
                        share: read.share,
                        timeout,
                        call,
                        _turn: turn,
                    };
                    job.run(work).await;
                };
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
        tokio::join!(self.renew(), self.look(state));
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
                    let job = self.hold(Arc::clone(recipe), lease);
                    job.count(JobEvent::TakenOver);
                    self.tasks.spawn(job.resume(state.clone(), room));
                }
                if all {
                    break;
                }
            }
        }
    }

    fn hold(self: &Arc<Self>, recipe: Arc<ServedRecipe>, lease: Lease) -> Job {
        self.held().insert(lease.token.clone());
        Job {
            durable: Arc::clone(self),
            recipe,
            lease,
        }
    }

    fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// Another process began it, or gave it back.
    async fn resume(self, state: AppState, _room: Option<OwnedSemaphorePermit>) {
        let alone = Arc::clone(&self.durable.alone);
        let turn = match Attempt::next(self.lease.begun, self.durable.table.attempts()) {
            Attempt::Together => Either::Left(alone.read_owned().await),
            Attempt::Alone => Either::Right(alone.write_owned().await),
            Attempt::GiveUp => return self.give_up().await,
        };
        let mut share = state.budget().share();
        if share.grow(self.lease.size).is_err() {
            return self.release(AGAIN).await;
        }
        let start = self.unless_leaving(|table| table.start(&self.lease));
        let input = match start.await {
            Some(Some(input)) => input,
            Some(None) => return self.count(JobEvent::Superseded),
            None => return,
        };
        let call = Call::begin(&self.recipe, Protocol::FastDeploy, Instant::now());
        let takes = (
            self.recipe.served.info().input_kind,
            self.recipe.served.max_queue_size(),
        );
        match read_again(&input.form, (input.body, share), takes, state.config()).await {
            Ok((items, share)) => {
                let work = Work {
                    items,
                    share,
                    timeout: input.timeout,
                    call: Some(call),
                    _turn: turn,
                };
                self.run(work).await;
            }
            Err(error) => self.end(Err(error), Some(call)).await,
        }
    }

    /// Answers it, and writes that.
    async fn run(self, work: Work) {
        let deadline = Instant::now() + work.timeout;
        let answers = answer_items(Arc::clone(&self.recipe), work.items, deadline);
        let finished = tokio::select! {
            biased;
            () = self.durable.leaving.cancelled() => Err(InferError::Unavailable("the server is shutting down".into()).into()),
            answers = answers => answers.and_then(|answers| Stored::new(&answers)),
        };
        drop(work.share);
        self.end(finished, work.call).await;
    }

    /// Writes how it ended; where it only found no room, it goes back, and nobody's call has ended.
    async fn end(&self, finished: Result<Stored, ApiError>, call: Option<Call>) {
        if let Some(after) = finished.as_ref().err().and_then(goes_back) {
            return self.release(after).await;
        }
        if let Some(call) = call {
            let verdict = match &finished {
                Ok(stored) => stored.verdict.clone(),
                Err(error) => Err(error.clone()),
            };
            call.end(verdict.unwrap_or_else(|error| error.outcome()));
        }
        self.finish(stored::to_end(finished)).await;
    }

    async fn finish(&self, end: End) {
        let finish = self.patiently(|table| table.finish(&self.lease, &end));
        if !finish.await {
            // Its lease had ended, and the answer is somebody else's to give.
            self.count(JobEvent::Superseded);
        }
    }

    async fn give_up(&self) {
        let reason = format!(
            "given up: {} processes ended while it ran",
            self.lease.begun
        );
        tracing::warn!(recipe = self.recipe.name(), id = %self.lease.id, reason, "a job is given up");
        self.finish(stored::to_end(Err(InferError::Failed(reason).into())))
            .await;
        self.count(JobEvent::GaveUp);
    }

    async fn release(&self, after: Duration) {
        let release = self.unless_leaving(|table| table.release(&self.lease, after));
        match release.await {
            Some(true) => self.count(JobEvent::Released),
            Some(false) => self.count(JobEvent::Superseded),
            None => {}
        }
    }

    /// Asks the table until it answers, or the process ends: what the lease's end will bring about too.
    async fn unless_leaving<'a, T, F>(&'a self, ask: impl Fn(&'a JobTable) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, TableError>>,
    {
        let leaving = async {
            self.durable.leaving.cancelled().await;
            sleep(LAST).await;
        };
        tokio::select! {
            answer = self.patiently(ask) => Some(answer),
            () = leaving => None,
        }
    }

    /// Asks the table until it answers.
    async fn patiently<'a, T, F>(&'a self, ask: impl Fn(&'a JobTable) -> F) -> T
    where
        F: Future<Output = Result<T, TableError>>,
    {
        let [mut pause, longest] = PAUSES;
        loop {
            match ask(&self.durable.table).await {
                Ok(answer) => return answer,
                Err(_) => self.count(JobEvent::Retried),
            }
            sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }

    fn count(&self, event: JobEvent) {
        if let Some(metrics) = self.durable.metrics.get(self.recipe.name()) {
            metrics.count(event);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.durable.held().remove(&self.lease.token);
    }
}

/// After what time a job goes back that was not answered for want of room or of an engine.
fn goes_back(error: &ApiError) -> Option<Duration> {
    match error {
        ApiError::Infer(InferError::Unavailable(_)) => Some(Duration::ZERO),
        ApiError::Busy(_)
        | ApiError::Infer(InferError::QueueFull { .. } | InferError::TooLate { .. }) => Some(AGAIN),
        _ => None,
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
