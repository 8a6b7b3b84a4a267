//! One recipe as the protocols see it: inputs in, answers out, whatever else runs at the time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use galley_core::{AnyRecipe, Input, InputError, Output, RecipeInfo, Signature};
use opentelemetry::KeyValue;
use tokio::sync::{Semaphore, oneshot, watch};

use super::{
    State,
    admission::{Admission, Permit},
    pending::{Job, Loss, Pending, Slot},
    statistics::{Recorder, Statistics},
};
use crate::{
    batching::{Dispatcher, Policy, QueueId, Queued},
    metrics::{Outcome, Protocol, RecipeMetrics},
    traces,
};

/// How long a probe may take before the engine counts as stuck.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request was not answered at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// More items than the queue could ever hold.
    #[error("request of {items} items exceeds the limit of {limit} items (--max-queue-size)")]
    TooManyItems {
        /// The items of the request.
        items: usize,
        /// The queue's bound.
        limit: usize,
    },
    /// The queue has no room now.
    #[error("the queue is full")]
    QueueFull {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The server is warming up, draining or its device has failed.
    #[error("{0}")]
    Unavailable(String),
    /// The deadline passed first.
    #[error("timeout")]
    Deadline,
    /// The device or the recipe failed; the reason is fit for a caller's eyes.
    #[error("{0}")]
    Failed(String),
}

/// A full queue empties within a second, or else the device is stuck.
const QUEUE_FULL: InferError = InferError::QueueFull {
    retry_after: Duration::from_secs(1),
};

impl InferError {
    /// The outcome that metrics count it as.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::TooManyItems { .. } => Outcome::TooLarge,
            Self::QueueFull { .. } => Outcome::QueueFull,
            Self::Unavailable(_) => Outcome::Unavailable,
            Self::Deadline => Outcome::Timeout,
            Self::Failed(_) => Outcome::Failed,
        }
    }
}

/// One answer for each input, in the inputs' order.
pub type Answers = Vec<Result<Output, InputError>>;

/// A recipe that is being served.
pub struct Served {
    pub(super) recipe: AnyRecipe,
    pub(super) queue: QueueId,
    pub(super) dispatcher: Arc<Dispatcher<Job>>,
    pub(super) admission: Arc<Admission>,
    /// How many tasks of `prepare` the CPU pool is given at a time; more would keep a forward pass waiting in its line.
    pub(super) prepare_slots: Arc<Semaphore>,
    pub(super) state: watch::Receiver<State>,
    pub(super) metrics: RecipeMetrics,
    pub(super) last_answer: LastAnswer,
    pub(super) statistics: Recorder,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served")
            .field("recipe", &self.info().name)
            .finish_non_exhaustive()
    }
}

impl Served {
    /// What the recipe says of itself.
    pub fn info(&self) -> &RecipeInfo {
        self.recipe.info()
    }

    /// How its inputs and answers look as tensors.
    pub fn signature(&self) -> Signature {
        self.recipe.signature()
    }

    /// A small valid input.
    pub fn example(&self) -> Input {
        self.recipe.example()
    }

    /// The bounds of a batch now in force.
    pub fn policy(&self) -> Policy {
        self.dispatcher.policy(self.queue)
    }

    /// The most items that may wait, and so the most of one request (`--max-queue-size`).
    pub fn max_queue_size(&self) -> usize {
        self.admission.max()
    }

    /// The recipe's metrics.
    pub fn metrics(&self) -> &RecipeMetrics {
        &self.metrics
    }

    /// What its requests and batches have come to since the start.
    pub fn statistics(&self) -> Statistics {
        self.statistics.now()
    }

    /// Whether a request of even one item would be taken now. To be asked before anything is spent on reading it.
    ///
    /// # Errors
    /// As [`Served::infer`] would answer.
    pub fn has_room(&self) -> Result<(), InferError> {
        self.state.borrow().accepts()?;
        match self.admission.free() {
            0 => Err(QUEUE_FULL),
            _ => Ok(()),
        }
    }

    /// Answers inputs, in their order. An input that cannot be read has its error in its place.
    ///
    /// Dropping the future takes the items that still wait out of the queue.
    ///
    /// # Errors
    /// Nothing at all is answered: no room, no time, no device.
    pub async fn infer(
        self: &Arc<Self>,
        inputs: Vec<Input>,
        deadline: Instant,
    ) -> Result<Answers, InferError> {
        self.state.borrow().accepts()?;
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let tally = self.statistics.begin();
        let permits = self.admit(inputs.len())?;
        let _in_flight = InFlight::new(&self.metrics.in_flight);
        let request = Request {
            served: self,
            pending: Pending::new(inputs.len()),
            deadline,
        };
        let inline = inputs.iter().map(Input::size).sum::<usize>() <= self.info().inline_bytes;
        let answered = async {
            if inline {
                request.enqueue_inline(inputs, permits);
            } else {
                request.enqueue_pooled(inputs, permits).await;
            }
            request.pending.wait().await
        };
        let slots = tokio::time::timeout_at(deadline.into(), answered)
            .await
            .map_err(|_| InferError::Deadline)?;
        let rides = slots.iter().filter_map(Slot::ride);
        let last = rides.max_by_key(|ride| ride.end);
        let answers = if inline {
            self.finish(slots)
        } else {
            self.finish_pooled(slots).await
        }?;
        self.last_answer.set();
        if let Some(ride) = last {
            let stages = [
                ("prepare", tally.start()..ride.queued),
                ("queue", ride.queued..ride.start),
                ("forward", ride.start..ride.end),
                ("finish", ride.end..Instant::now()),
            ];
            traces::stages(stages, || {
                KeyValue::new("galley.batch_size", ride.batch_size as i64)
            });
            tally.succeed(ride);
        }
        Ok(answers)
    }

    /// Whether the engine answers: it has lately, or it does so now.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn probe(self: &Arc<Self>, lately: Duration) -> Result<(), InferError> {
        self.state.borrow().accepts()?;
        if self.last_answer.within(lately) {
            return Ok(());
        }
        let start = Instant::now();
        let result = match self
            .infer(vec![self.example()], start + PROBE_TIMEOUT)
            .await
        {
            // A full queue is a busy engine; whether it is a stuck one, the requests in it will show.
            Err(InferError::QueueFull { .. }) => return Ok(()),
            Err(error) => Err(error),
            Ok(answers) => match answers.into_iter().next() {
                Some(Err(error)) => Err(InferError::Failed(format!(
                    "the recipe refused its own example: {error}"
                ))),
                _ => Ok(()),
            },
        };
        let outcome = result
            .as_ref()
            .map_or_else(InferError::outcome, |()| Outcome::Ok);
        self.metrics
            .request(Protocol::Probe, outcome, start.elapsed());
        result
    }

    fn admit(&self, items: usize) -> Result<Vec<Permit>, InferError> {
        let limit = self.admission.max();
        if items > limit {
            return Err(InferError::TooManyItems { items, limit });
        }
        self.admission.admit(items).ok_or(QUEUE_FULL)
    }

    fn prepare(
        &self,
        pending: &Arc<Pending>,
        place: usize,
        input: Input,
        permit: Permit,
    ) -> Option<Job> {
        if pending.is_abandoned() {
            return None;
        }
        let start = Instant::now();
        // A decoder that panics on a hostile file must not take its thread, and with it the process, along.
        let prepared = catch_unwind(AssertUnwindSafe(|| self.recipe.prepare(input)));
        let prepare = start.elapsed();
        self.metrics.prepare_duration.record(prepare);
        match prepared {
            Ok(Ok(prepared)) => Some(Job {
                pending: Arc::clone(pending),
                place,
                prepared,
                prepare,
                permit: Some(permit),
            }),
            Ok(Err(refusal)) => {
                pending.fill(place, Slot::Refused(refusal));
                None
            }
            Err(_) => {
                tracing::error!(recipe = self.info().name, "prepare panicked");
                pending.fill(
                    place,
                    Slot::Lost(Loss::Failed("preparing the input failed".into())),
                );
                None
            }
        }
    }

    fn push(&self, jobs: Vec<Job>, deadline: Instant) {
        let since = Instant::now();
        let queued = jobs.into_iter().map(|item| Queued {
            cost: item.prepared.cost(),
            since,
            deadline: Some(deadline),
            item,
        });
        if let Err(refused) = self.dispatcher.push(self.queue, queued.collect()) {
            for queued in refused {
                queued.item.lost(Loss::Closed);
            }
        }
    }

    fn finish(&self, slots: Vec<Slot>) -> Result<Answers, InferError> {
        let batch_sizes = slots.iter().filter_map(Slot::ride);
        let batch_sizes: Vec<usize> = batch_sizes.map(|ride| ride.batch_size).collect();
        let start = Instant::now();
        let finished = catch_unwind(AssertUnwindSafe(|| {
            slots
                .into_iter()
                .map(|slot| self.finish_one(slot))
                .collect()
        }));
        let time = start.elapsed();
        self.metrics.finish_duration.record(time);
        self.statistics.finished(&batch_sizes, time);
        finished.unwrap_or_else(|_| {
            tracing::error!(recipe = self.info().name, "finish panicked");
            Err(InferError::Failed("finishing the answer failed".into()))
        })
    }

    async fn finish_pooled(self: &Arc<Self>, slots: Vec<Slot>) -> Result<Answers, InferError> {
        let (sender, receiver) = oneshot::channel();
        let served = Arc::clone(self);
        rayon::spawn(move || {
            // The caller may have gone; then nobody needs the answers.
            let _ = sender.send(served.finish(slots));
        });
        receiver
            .await
            .unwrap_or_else(|_| Err(InferError::Failed("finishing the answer failed".into())))
    }

    fn finish_one(&self, slot: Slot) -> Result<Result<Output, InputError>, InferError> {
        match slot {
            Slot::Done(prepared, raw, _) => Ok(Ok(self.recipe.finish(prepared, raw))),
            Slot::Refused(refusal) => Ok(Err(refusal)),
            Slot::Lost(Loss::Expired) => Err(InferError::Deadline),
            Slot::Lost(Loss::Closed) => Err(InferError::Unavailable(
                "the server is shutting down".into(),
            )),
            Slot::Lost(Loss::Failed(reason)) => Err(InferError::Failed(reason)),
            Slot::Waiting => Err(InferError::Failed("an item was lost".into())),
        }
    }
}

/// A request on its way through the stages. When it is dropped before its end, its items leave the queue.
struct Request<'a> {
    served: &'a Arc<Served>,
    pending: Arc<Pending>,
    deadline: Instant,
}

impl Request<'_> {
    /// Prepares small inputs here: handing them to another thread would take longer.
    fn enqueue_inline(&self, inputs: Vec<Input>, permits: Vec<Permit>) {
        let jobs = inputs.into_iter().zip(permits).enumerate();
        let jobs = jobs.filter_map(|(place, (input, permit))| {
            self.served.prepare(&self.pending, place, input, permit)
        });
        self.served.push(jobs.collect(), self.deadline);
    }

    /// Prepares inputs on the CPU pool, small ones several to a task; each task's items queue as soon as it is done.
    async fn enqueue_pooled(&self, inputs: Vec<Input>, permits: Vec<Permit>) {
        let target = self.served.info().inline_bytes;
        let mut group = Vec::new();
        let mut bytes = 0;
        let last = inputs.len() - 1;
        for (place, (input, permit)) in inputs.into_iter().zip(permits).enumerate() {
            bytes += input.size();
            group.push((place, input, permit));
            if bytes >= target || place == last {
                self.spawn_prepare(std::mem::take(&mut group)).await;
                bytes = 0;
            }
        }
    }

    async fn spawn_prepare(&self, group: Vec<(usize, Input, Permit)>) {
        let slot = Arc::clone(&self.served.prepare_slots).acquire_owned().await;
        let (served, pending, deadline) = (
            Arc::clone(self.served),
            Arc::clone(&self.pending),
            self.deadline,
        );
        rayon::spawn(move || {
            let jobs = group.into_iter().filter_map(|(place, input, permit)| {
                served.prepare(&pending, place, input, permit)
            });
            let jobs = jobs.collect();
            drop(slot);
            served.push(jobs, deadline);
        });
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if !self.pending.is_complete() {
            self.pending.abandon();
            drop(self.served.dispatcher.take_where(self.served.queue, |job| {
                Arc::ptr_eq(&job.pending, &self.pending)
            }));
        }
    }
}

/// Counts a request for as long as it lives.
struct InFlight<'a>(&'a metrics::Gauge);

impl<'a> InFlight<'a> {
    fn new(gauge: &'a metrics::Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// When the engine last answered.
pub(super) struct LastAnswer {
    start: Instant,
    /// Milliseconds from `start`, plus one; zero is never.
    at: AtomicU64,
}

impl LastAnswer {
    pub(super) fn never() -> Self {
        Self {
            start: Instant::now(),
            at: AtomicU64::new(0),
        }
    }

    fn set(&self) {
        self.at.store(self.now(), Ordering::Relaxed);
    }

    fn within(&self, duration: Duration) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        at != 0 && u128::from(self.now() - at) <= duration.as_millis()
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }
}
