//! A recipe as the protocols see it: inputs in, answers out, whatever else runs at the time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use galley_core::{AnyRecipe, Input, InputError, Output, RecipeInfo, Signature};
use opentelemetry::KeyValue;
use tokio::sync::{oneshot, watch};

use super::{
    InferError, State,
    admission::Admission,
    lately::Lately,
    learnt::Learnt,
    pending::{Job, Loss, Pending, Slot},
    preparer::Raw,
    request::Request,
    statistics::{Recorder, Statistics},
};
use crate::{
    batching::{Dispatcher, QueueId, Speed, Wanted},
    metrics::{Outcome, Protocol, RecipeMetrics},
    traces,
};

/// How long a probe may take before the engine counts as stuck.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// One answer for each input, in the inputs' order.
pub type Answers = Vec<Result<Output, InputError>>;

/// A recipe that is being served.
pub struct Served {
    pub(super) recipe: AnyRecipe,
    pub(super) queue: QueueId,
    /// Inputs on their way to the CPU pool.
    pub(super) raw: Arc<Dispatcher<Raw>>,
    /// Items on their way to a device.
    pub(super) ready: Arc<Dispatcher<Job>>,
    pub(super) admission: Arc<Admission>,
    pub(super) learnt: Learnt,
    /// Within what time requests are to be answered, if that was asked for (`--slo`).
    pub(super) objective: Option<Duration>,
    pub(super) max_queue_delay: Duration,
    /// Whether inputs wait only because enough are prepared.
    pub(super) held: AtomicBool,
    pub(super) state: watch::Receiver<State>,
    pub(super) metrics: RecipeMetrics,
    pub(super) last_answer: Lately,
    /// Refused or not.
    pub(super) last_asked: Lately,
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

    /// The most items of a batch, on the device that takes most.
    pub fn max_batch_size(&self) -> usize {
        self.learnt.max_batch_size()
    }

    /// How long an item may wait for its batch to fill (`--max-queue-delay`).
    pub fn max_queue_delay(&self) -> Duration {
        self.max_queue_delay
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
    pub fn has_room(&self, deadline: Instant) -> Result<(), InferError> {
        self.state.borrow().accepts()?;
        self.admission.check(1, self.due(deadline))
    }

    /// When a request that comes now is to be answered.
    fn due(&self, deadline: Instant) -> Instant {
        let objective = self
            .objective
            .and_then(|time| Instant::now().checked_add(time));
        objective.map_or(deadline, |due| due.min(deadline))
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
        self.last_asked.set();
        let tally = self.statistics.begin();
        let due = self.due(deadline);
        let (_admitted, permits) = self.admission.admit(inputs.len(), due)?;
        let _in_flight = InFlight::new(&self.metrics.in_flight);
        let pending = Pending::new(inputs.len());
        let request = Request {
            served: self,
            wanted: Wanted {
                request: pending.id(),
                due,
                deadline,
            },
            pending,
        };
        let inline = inputs.iter().map(Input::size).sum::<usize>() <= self.info().inline_bytes;
        let answered = async {
            request.enqueue(inputs, permits, inline);
            request.pending.wait().await
        };
        let slots = tokio::time::timeout_at(deadline.into(), answered)
            .await
            .map_err(|_| InferError::Deadline)?
            .map_err(of_loss)?;
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
            Err(InferError::QueueFull { .. } | InferError::TooLate { .. }) => return Ok(()),
            // So is one that answered others in the meantime.
            Err(InferError::Deadline) if self.last_answer.within(PROBE_TIMEOUT) => return Ok(()),
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

    /// What was learnt has changed: predictions follow.
    pub(super) fn learnt_more(&self) {
        if let Some(speed) = self.learnt.speed() {
            self.ready.set_speed(self.queue, speed);
            self.raw.set_speed(self.queue, self.rest(speed));
        }
        self.admission.expect(self.learnt.seconds_per_item());
    }

    /// What an input that is prepared next still takes until it is answered. One with less time left would take it from others.
    fn rest(&self, forward: Speed) -> Speed {
        let before = self.ready.len(self.queue) as f64 * self.admission.seconds_per_item();
        // Inputs differ, so one that is alone is tried.
        let prepare = match self.raw.len(self.queue) > 1 {
            true => self.learnt.prepare_seconds(),
            false => 0.0,
        };
        Speed {
            fixed: before
                + prepare
                + forward
                    .predict(self.learnt.usual_cost() as u64)
                    .as_secs_f64(),
            per_cost: 0.0,
        }
    }

    /// Items were given up, as their time was over or too short.
    pub(super) fn gave_up(&self) {
        self.answered(0, false);
    }

    /// Items were answered, by a device that is behind or may be.
    pub(super) fn answered(&self, items: usize, is_behind: bool) {
        let saturated = is_behind || self.admission.waiting() >= self.learnt.in_hand();
        self.admission.answered(items, saturated);
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
            Slot::Done(prepared, raw, _) => Ok(self.recipe.finish(prepared, raw)),
            Slot::Refused(refusal) => Ok(Err(refusal)),
            Slot::Waiting => Err(InferError::Failed("an item was lost".into())),
        }
    }
}

fn of_loss(loss: Loss) -> InferError {
    match loss {
        Loss::Expired => InferError::Deadline,
        Loss::Closed => InferError::Unavailable("the server is shutting down".into()),
        Loss::Failed(reason) => InferError::Failed(reason),
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
