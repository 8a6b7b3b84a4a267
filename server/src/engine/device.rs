//! The threads of a device: the first warms up its recipes, then each pulls batches and runs them, one at a time.
//!
//! One is enough for a CPU. On a device of its own that computes while its thread waits, a second one collects, copies and
//! starts the next batch in that time.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use galley_core::{AnyRecipe, ErasedRecipe, ForwardError, Prepared, RawOutput};

use super::{
    EngineConfig, State, StateSender,
    halving::run_halving,
    measuring::{Measuring, SharedSearch, lock},
    pending::{Job, Loss},
    served::Served,
    statistics::Ride,
};
use crate::batching::{Next, QueueId, Run};

/// How long nothing must have been asked before a device measures instead: whoever comes then waits for its batch.
const IDLE: Duration = Duration::from_secs(1);

/// One thread of a device, which has its own copy of every recipe.
pub(super) struct DeviceThread {
    pub(super) name: String,
    /// Its place among the devices, and those of its kind, itself included.
    pub(super) device: usize,
    pub(super) alike: Vec<usize>,
    pub(super) recipes: Vec<(AnyRecipe, Arc<Served>)>,
    /// For each recipe the search for its batch size; none where that was asked for.
    pub(super) searches: Vec<Option<SharedSearch>>,
    /// Batches that the device has in hand at once, each on a thread.
    pub(super) batches_in_flight: NonZeroUsize,
    /// Whether it is the one that measures.
    pub(super) is_first: bool,
    /// Where the device's threads wait for each other while they warm up.
    pub(super) meet: Arc<Barrier>,
    /// How many batches the device is running.
    pub(super) running: Arc<AtomicUsize>,
    pub(super) config: EngineConfig,
    pub(super) state: StateSender,
}

impl DeviceThread {
    /// Warms up and serves until the queues are closed and empty.
    pub(super) fn run(self) {
        let mut measuring = match self.is_first {
            true => self.measuring(),
            false => Vec::new(),
        };
        for measuring in &mut measuring {
            if self.state.now() == State::Draining {
                break;
            }
            if let Err(error) = self.warm_up(measuring) {
                self.fail(&error);
                break;
            }
        }
        if self.batches_in_flight > NonZeroUsize::MIN {
            for (recipe, served) in &self.recipes {
                self.meet.wait();
                self.rehearse(recipe.as_ref(), served);
            }
        }
        if self.meet.wait().is_leader() {
            self.state.device_ready();
        }
        self.pull(measuring);
    }

    fn measuring(&self) -> Vec<Measuring> {
        let recipes = self.recipes.iter().zip(&self.searches);
        recipes
            .map(|((recipe, served), search)| {
                let places = (self.device, self.alike.clone());
                Measuring::new(
                    Arc::clone(recipe),
                    Arc::clone(served),
                    search.clone(),
                    places,
                )
            })
            .collect()
    }

    fn warm_up(&self, measuring: &mut Measuring) -> Result<(), ForwardError> {
        let recipe = measuring.recipe.info().name;
        let took = measuring.first_pass()?;
        tracing::info!(recipe, device = self.name, ?took, "first pass");
        let start = Instant::now();
        let mut measured = Vec::new();
        match (self.config.max_batch_size, measuring.search.clone()) {
            (Some(size), _) => {
                let largest = measuring.recipe.info().max_batch_size.unwrap_or(usize::MAX);
                measuring.take(size.min(largest))?;
            }
            (None, None) => {}
            (None, Some(search)) => {
                measuring.search(self.config.warmup_budget, || {
                    self.state.now() != State::Draining
                })?;
                measured = lock(&search).measured();
            }
        }
        let limits = measuring.served.learnt.limits(self.device);
        tracing::info!(
            recipe, device = self.name, max_batch_size = limits.map(|limits| limits.max_batch_size),
            max_batch_cost = limits.map(|limits| limits.max_batch_cost), ?measured, took = ?start.elapsed(), "warmed up"
        );
        if measuring.is_unfinished() {
            tracing::warn!(
                recipe,
                device = self.name,
                "the best batch size is not known for sure yet: measuring goes on when nothing else is to be done"
            );
        }
        Ok(())
    }

    /// A batch as large as any, so that its memory is there before the first request, and fits beside that of the others.
    fn rehearse(&self, recipe: &dyn ErasedRecipe, served: &Served) {
        let samples: Vec<Prepared> = (0..served.max_batch_size())
            .map(|seed| recipe.sample(None, seed as u64))
            .collect();
        if let Err(error) = self.forward(recipe, served, &samples.iter().collect::<Vec<_>>()) {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &ForwardError) {
        tracing::error!(device = self.name, %error, "warm-up failed");
        self.state.fail(format!("warm-up failed: {error}"));
    }

    /// Runs batches until the queues are closed and empty.
    fn pull(&self, mut measuring: Vec<Measuring>) {
        let Some((_, first)) = self.recipes.first() else {
            return;
        };
        let ready = &first.ready;
        let limits = |id: QueueId| self.recipes[id.0].1.learnt.limits(self.device);
        measuring.retain(Measuring::is_unfinished);
        loop {
            let patience = (!measuring.is_empty()).then_some(IDLE);
            let due = match ready.next(limits, patience) {
                Next::Due(due) => due,
                Next::Closed => return,
                Next::Idle => {
                    self.measure_on(&mut measuring);
                    continue;
                }
            };
            let mut queues: Vec<QueueId> = due.lost.iter().map(|(id, _)| *id).collect();
            queues.dedup();
            for (_, queued) in due.lost {
                queued.item.pending.lose(Loss::Expired);
            }
            for id in queues {
                let served = &self.recipes[id.0].1;
                served.made_room();
                served.gave_up();
            }
            if let Some(run) = due.run {
                let (recipe, served) = &self.recipes[run.queue.0];
                served.made_room();
                self.running.fetch_add(1, Ordering::SeqCst);
                self.run_batch(recipe.as_ref(), served, run);
                self.running.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// Goes on with a search that had no time to end.
    fn measure_on(&self, measuring: &mut Vec<Measuring>) {
        // Beside another batch it would measure that one too.
        if self.running.load(Ordering::SeqCst) > 0 {
            return;
        }
        // What is refused under overload, or still prepared, reaches no device and is no idleness.
        if self
            .recipes
            .iter()
            .any(|(_, served)| served.last_asked.within(IDLE))
        {
            return;
        }
        let Some(last) = measuring.last_mut() else {
            return;
        };
        let recipe = last.recipe.info().name;
        match last.step() {
            Ok(true) => {}
            Ok(false) => {
                last.settle();
                let max_batch_size = last.served.max_batch_size();
                tracing::info!(
                    recipe,
                    device = self.name,
                    max_batch_size,
                    "batch size found"
                );
                measuring.pop();
            }
            Err(error) => {
                tracing::error!(recipe, device = self.name, %error, "measuring failed");
                measuring.pop();
            }
        }
    }

    fn run_batch(&self, recipe: &dyn ErasedRecipe, served: &Served, run: Run<Job>) {
        let start = Instant::now();
        let mut jobs = Vec::with_capacity(run.batch.len());
        let mut queued_at = Vec::with_capacity(run.batch.len());
        for queued in run.batch {
            let job = queued.item;
            served.metrics.queue_duration.record(start - queued.since);
            if !job.pending.is_abandoned() {
                queued_at.push(queued.since);
                jobs.push(job);
            }
        }
        if jobs.is_empty() {
            served.ready.ran(run.queue, run.predicted, Duration::ZERO);
            return;
        }
        let permits = jobs.iter_mut().map(|job| &mut job.permit);
        served.admission.run(permits);
        let items: Vec<&Prepared> = jobs.iter().map(|job| &job.prepared).collect();
        let result = self.forward(recipe, served, &items);
        let end = Instant::now();
        let batch_size = jobs.len();
        served.ready.ran(run.queue, run.predicted, end - start);
        served.metrics.forward_duration.record(end - start);
        served.metrics.batch_size.record(batch_size as f64);
        match result {
            Ok(raw) => {
                served.learnt.ran(self.device, run.predicted, end - start);
                served.learnt_more();
                served
                    .admission
                    .answered(batch_size, served.learnt.in_hand());
                served.metrics.items.increment(batch_size as u64);
                let prepare = jobs.iter().map(|job| job.prepare).sum();
                served.statistics.batch(batch_size, prepare, end - start);
                for ((job, queued), raw) in jobs.into_iter().zip(queued_at).zip(raw) {
                    let ride = Ride {
                        queued,
                        start,
                        end,
                        batch_size,
                    };
                    job.done(raw, ride);
                }
            }
            Err(error) => {
                tracing::error!(recipe = recipe.info().name, device = self.name, batch_size, %error, "a batch failed");
                let reason = match error {
                    ForwardError::OutOfMemory => "the device has too little memory for this input",
                    _ => "the device failed to run the batch",
                };
                for job in jobs {
                    job.pending.lose(Loss::Failed(reason.into()));
                }
                self.check_device(recipe);
            }
        }
    }

    fn forward(
        &self,
        recipe: &dyn ErasedRecipe,
        served: &Served,
        items: &[&Prepared],
    ) -> Result<Vec<RawOutput>, ForwardError> {
        run_halving(
            items,
            &mut |batch| guarded_forward(recipe, batch),
            &mut |size| {
                served.metrics.oom_retries.increment(1);
                if served.learnt.cap(self.device, size) {
                    tracing::warn!(
                        recipe = recipe.info().name,
                        device = self.name,
                        max_batch_size = size,
                        "out of memory, smaller batches from now on"
                    );
                }
            },
        )
    }

    /// After a failure: a device that cannot run a sample either is out of service.
    fn check_device(&self, recipe: &dyn ErasedRecipe) {
        let sample = recipe.sample(None, 0);
        match guarded_forward(recipe, &[&sample]) {
            Ok(_) => self.state.recover(),
            Err(error) => self
                .state
                .fail(format!("device {} fails: {error}", self.name)),
        }
    }
}

/// A forward pass in which a panic is an error like any other.
pub(super) fn guarded_forward(
    recipe: &dyn ErasedRecipe,
    batch: &[&Prepared],
) -> Result<Vec<RawOutput>, ForwardError> {
    catch_unwind(AssertUnwindSafe(|| recipe.forward(batch))).unwrap_or_else(|_| {
        Err(ForwardError::Failed(candle_core::Error::Msg(
            "the forward pass panicked".into(),
        )))
    })
}
