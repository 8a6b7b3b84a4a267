//! The threads of a device: the first warms up its recipes, then each pulls batches and runs them, one at a time.
//!
//! One is enough for a CPU. On a device of its own that computes while its thread waits, a second one collects, copies and
//! starts the next batch in that time.
//!
//! A CPU has one more for what is short beside what is long: a text need not wait for a batch of images to end. It is a pool
//! of its own, so that its passes line up behind no others' steps, and the operating system shares the cores out.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use galley_core::{AnyRecipe, ErasedRecipe, ForwardError, Prepared, RawOutput};

use super::{
    EngineConfig, State, StateSender,
    halving::run_halving,
    measuring::Measuring,
    pending::{Job, Loss},
    served::Served,
    statistics::Ride,
};
use crate::batching::{Limits, Next, QueueId, Run, Seat};

/// How long nothing must have been asked before a device measures instead: whoever comes then waits for its batch.
const IDLE: Duration = Duration::from_secs(1);
/// What goes beside a batch takes at most one in so many parts of its time.
const BESIDE: u32 = 8;

/// The batches that a device runs, and what they are expected to take.
pub(super) type AtWork = Arc<Mutex<Vec<(QueueId, Duration)>>>;

/// One thread of a device, which has its own copy of every recipe.
pub(super) struct DeviceThread {
    pub(super) name: String,
    /// Its place among the devices.
    pub(super) device: usize,
    pub(super) recipes: Vec<(AnyRecipe, Arc<Served>)>,
    /// Batches that the device has in hand at once, each on a thread.
    pub(super) batches_in_flight: NonZeroUsize,
    /// Whether it is the one that measures.
    pub(super) is_first: bool,
    /// Where the device's threads wait for each other while they warm up.
    pub(super) meet: Arc<Barrier>,
    /// Which batches it takes.
    pub(super) seat: Seat,
    /// Of all its device's threads.
    pub(super) at_work: AtWork,
    /// When the device last ended a batch.
    pub(super) last_end: Arc<Mutex<Instant>>,
    pub(super) config: EngineConfig,
    pub(super) state: StateSender,
}

impl DeviceThread {
    /// Warms up and serves until the queues are closed and empty.
    pub(super) fn run(self) {
        if self.seat == Seat::Beside {
            return self.pull_beside();
        }
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
        let recipes = self.recipes.iter();
        recipes
            .map(|(recipe, served)| {
                Measuring::new(Arc::clone(recipe), Arc::clone(served), self.device)
            })
            .collect()
    }

    fn warm_up(&self, measuring: &mut Measuring) -> Result<(), ForwardError> {
        let recipe = measuring.recipe.info().name;
        let took = measuring.first_pass()?;
        tracing::info!(recipe, device = self.name, ?took, "first pass");
        let start = Instant::now();
        // A size that was asked for is measured however long that takes.
        let budget = match self.config.max_batch_size {
            Some(_) => Duration::MAX,
            None => self.config.warmup_budget,
        };
        measuring.search(budget, || self.state.now() != State::Draining)?;
        let learnt = &measuring.served.learnt;
        let (limits, measured) = (learnt.limits(self.device), learnt.sizes(self.device));
        tracing::info!(
            recipe, device = self.name, max_batch_size = limits.as_ref().map(|limits| limits.max_batch_size),
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
        let limits = |id: QueueId| self.limits(id);
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
                self.work(run);
            }
        }
    }

    /// Runs what can go beside the other threads' batches until the queues are closed.
    fn pull_beside(&self) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
        let _pool = match pool.use_current_thread().build() {
            Ok(pool) => pool,
            Err(error) => {
                tracing::warn!(device = self.name, %error, "short batches wait for long ones");
                return;
            }
        };
        let Some((_, first)) = self.recipes.first() else {
            return;
        };
        let limits = |id: QueueId| {
            let limits = self.limits(id)?;
            let at_work = self.at_work();
            let shortest = at_work.iter().map(|&(_, time)| time).min()?;
            let longest = limits.longest.min(shortest / BESIDE);
            let is_at_work = at_work.iter().any(|&(queue, _)| queue == id);
            (!is_at_work).then_some(Limits { longest, ..limits })
        };
        while let Some(run) = first.ready.next_beside(limits) {
            self.work(run);
        }
    }

    fn limits(&self, id: QueueId) -> Option<Limits> {
        self.recipes[id.0].1.learnt.limits(self.device)
    }

    fn at_work(&self) -> MutexGuard<'_, Vec<(QueueId, Duration)>> {
        // Nothing that may panic runs under the lock.
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, run: Run<Job>) {
        let (recipe, served) = &self.recipes[run.queue.0];
        let work = (run.queue, run.predicted);
        served.made_room();
        self.at_work().push(work);
        served.ready.began();
        self.run_batch(recipe.as_ref(), served, run);
        let mut at_work = self.at_work();
        if let Some(place) = at_work.iter().position(|&other| other == work) {
            at_work.swap_remove(place);
        }
    }

    /// Goes on with a search that had no time to end.
    fn measure_on(&self, measuring: &mut Vec<Measuring>) {
        // Beside another batch it would measure that one too.
        if !self.at_work().is_empty() {
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
        let mut cost = 0;
        for queued in run.batch {
            let job = queued.item;
            served.metrics.queue_duration.record(start - queued.since);
            if !job.pending.is_abandoned() {
                queued_at.push(queued.since);
                cost += u64::from(queued.cost);
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
        let busy = match self.seat {
            Seat::Own => self.busy(start, end),
            Seat::Beside => end - start,
        };
        served.ready.ran(run.queue, run.predicted, busy);
        served.metrics.forward_duration.record(end - start);
        served.metrics.batch_size.record(batch_size as f64);
        let decoded = recipe.decoded();
        (served.metrics.images_on_device).increment(decoded.on_device);
        served.metrics.images_on_cpu.increment(decoded.on_cpu);
        match result {
            Ok(raw) => {
                // What shares the cores tells nothing of what a batch takes.
                if self.seat == Seat::Own {
                    self.learn(served, batch_size, cost, busy.as_secs_f64());
                }
                // Neither this batch nor the next one is small for want of items.
                let is_behind = run.left > 0 && !served.ready.is_empty(run.queue);
                served.answered(batch_size, is_behind);
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

    fn learn(&self, served: &Served, batch_size: usize, cost: u64, busy: f64) {
        let predicted = served.learnt.ran(self.device, batch_size, cost, busy);
        if predicted > 0.0 {
            let ratio = &served.metrics.forward_prediction_ratio;
            ratio.record(busy / predicted);
        }
        served.learnt_more();
    }

    /// How long the device worked for a batch: until it ended the one before, it worked for that.
    fn busy(&self, start: Instant, end: Instant) -> Duration {
        let mut last = self.last_end.lock().unwrap_or_else(PoisonError::into_inner);
        let since = start.max(*last);
        *last = end.max(*last);
        end.saturating_duration_since(since)
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
