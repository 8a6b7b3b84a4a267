//! One job in hand, from its lease to its end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::Either;
use tokio::{
    sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit},
    time::sleep,
};

use super::Durable;
use crate::{
    database::TableError,
    engine::InferError,
    http::{
        AppState,
        budget::Share,
        error::ApiError,
        fastdeploy::{
            body::read_again,
            infer::answer_items,
            items::Items,
            stored::{self, Stored},
        },
        state::{Call, ServedRecipe},
    },
    jobs::{End, JobTable, Lease, attempt::Attempt},
    metrics::{JobEvent, Protocol},
};

/// How long a table that does not answer is left alone, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// How long a process that ends tries to give a job back.
const LAST: Duration = Duration::from_secs(5);
/// After so long a job is tried again that found no room.
const AGAIN: Duration = Duration::from_secs(1);

/// A job in hand. Dropped, its lease is renewed no more.
pub(super) struct Job {
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

impl Job {
    pub(super) fn new(durable: &Arc<Durable>, recipe: &Arc<ServedRecipe>, lease: Lease) -> Self {
        durable.held().insert(lease.token.clone());
        Self {
            durable: Arc::clone(durable),
            recipe: Arc::clone(recipe),
            lease,
        }
    }

    /// It was accepted here just now.
    pub(super) async fn begin(
        self,
        (items, share): (Items, Share),
        timeout: Duration,
        call: Option<Call>,
    ) {
        let turn = Arc::clone(&self.durable.alone).read_owned().await;
        let work = Work {
            items,
            share,
            timeout,
            call,
            _turn: Either::Left(turn),
        };
        self.run(work).await;
    }

    /// Another process began it, or gave it back.
    pub(super) async fn resume(self, state: AppState, _room: Option<OwnedSemaphorePermit>) {
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

    pub(super) fn count(&self, event: JobEvent) {
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
