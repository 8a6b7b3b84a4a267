//! The threads of a device: the first warms up its recipes, then each pulls batches and runs them, one at a time.
//!
//! One is enough for a CPU. On a device of its own that computes while its thread waits, a second one collects, copies and
//! starts the next batch in that time.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use galley_core::{ErasedRecipe, ForwardError, Prepared, RawOutput};

use super::{
    EngineConfig, StateSender,
    halving::run_halving,
    pending::{Job, Loss},
    right_fit::{Fit, right_fit},
    served::Served,
    statistics::Ride,
};
use crate::batching::{Policy, Queued};

/// A batch size is measured for at least this long and this often; the fastest run counts, for noise only ever adds.
const MEASURING_TIME: Duration = Duration::from_millis(30);
const MEASURING_RUNS: u32 = 3;
/// What a batch may cost, in units of a typical item times the batch size: room for items of twice that size.
const COST_HEADROOM: u64 = 2;

/// One thread of a device, which has its own copy of every recipe.
pub(super) struct DeviceThread {
    pub(super) name: String,
    pub(super) recipes: Vec<(galley_core::AnyRecipe, Arc<Served>)>,
    /// Batches that the device has in hand at once, each on a thread.
    pub(super) batches_in_flight: NonZeroUsize,
    /// Whether it is the one that measures.
    pub(super) is_first: bool,
    /// Where the device's threads wait for each other while they warm up.
    pub(super) meet: Arc<Barrier>,
    pub(super) config: EngineConfig,
    pub(super) state: StateSender,
}

impl DeviceThread {
    /// Warms up and serves until the queues are closed and empty.
    pub(super) fn run(self) {
        if self.is_first
            && let Err(error) = self.warm_up()
        {
            self.fail(&error);
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
        self.pull();
    }

    /// A batch as large as any, so that its memory is there before the first request, and fits beside that of the others.
    fn rehearse(&self, recipe: &dyn ErasedRecipe, served: &Served) {
        let samples: Vec<Prepared> = (0..served.policy().max_batch_size)
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
    fn pull(&self) {
        let Some((_, first)) = self.recipes.first() else {
            return;
        };
        let dispatcher = &first.dispatcher;
        while let Some(due) = dispatcher.next() {
            for (_, queued) in due.expired {
                queued.item.lost(Loss::Expired);
            }
            if !due.batch.is_empty() {
                let (recipe, served) = &self.recipes[due.queue.0];
                self.run_batch(recipe.as_ref(), served, due.batch);
            }
        }
    }

    fn warm_up(&self) -> Result<(), ForwardError> {
        for (recipe, served) in &self.recipes {
            let start = Instant::now();
            let fit = self.fit(recipe.as_ref())?;
            let policy = self.policy(recipe.as_ref(), fit.batch_size);
            served.dispatcher.set_policy(served.queue, policy);
            tracing::info!(
                recipe = recipe.info().name, device = self.name, max_batch_size = policy.max_batch_size,
                max_batch_cost = policy.max_batch_cost, measured = ?fit.measured, took = ?start.elapsed(), "warmed up"
            );
        }
        Ok(())
    }

    fn fit(&self, recipe: &dyn ErasedRecipe) -> Result<Fit, ForwardError> {
        let start = Instant::now();
        let largest = recipe
            .info()
            .max_batch_size
            .unwrap_or(usize::MAX)
            .min(self.config.largest_batch_size);
        let fixed = self.config.max_batch_size.map(|size| size.min(largest));
        let mut samples: Vec<Prepared> = Vec::new();
        let mut measure = |size: usize| {
            samples.extend((samples.len()..size).map(|seed| recipe.sample(None, seed as u64)));
            let batch: Vec<&Prepared> = samples[..size].iter().collect();
            let begin = Instant::now();
            let mut fastest = Duration::MAX;
            let mut runs = 0;
            while runs < MEASURING_RUNS || begin.elapsed() < MEASURING_TIME {
                let start = Instant::now();
                guarded_forward(recipe, &batch)?;
                fastest = fastest.min(start.elapsed());
                runs += 1;
            }
            Ok(fastest)
        };
        match fixed {
            // A size that was asked for is not second-guessed, only stepped down from where memory is short.
            Some(mut size) => loop {
                match measure(size) {
                    Err(ForwardError::OutOfMemory) if size > 1 => size /= 2,
                    Err(error) => return Err(error),
                    Ok(_) => {
                        return Ok(Fit {
                            batch_size: size,
                            measured: Vec::new(),
                        });
                    }
                }
            },
            None => right_fit(largest, measure, || {
                start.elapsed() >= self.config.warmup_budget
            }),
        }
    }

    fn policy(&self, recipe: &dyn ErasedRecipe, max_batch_size: usize) -> Policy {
        let typical = u64::from(recipe.sample(None, 0).cost());
        Policy {
            max_batch_size,
            max_batch_cost: typical * max_batch_size as u64 * COST_HEADROOM,
            max_queue_delay: self.config.max_queue_delay,
        }
    }

    fn run_batch(&self, recipe: &dyn ErasedRecipe, served: &Served, batch: Vec<Queued<Job>>) {
        let start = Instant::now();
        let mut jobs = Vec::with_capacity(batch.len());
        let mut queued_at = Vec::with_capacity(batch.len());
        for queued in batch {
            let mut job = queued.item;
            drop(job.permit.take());
            served.metrics.queue_duration.record(start - queued.since);
            if !job.pending.is_abandoned() {
                queued_at.push(queued.since);
                jobs.push(job);
            }
        }
        if jobs.is_empty() {
            return;
        }
        let items: Vec<&Prepared> = jobs.iter().map(|job| &job.prepared).collect();
        let result = self.forward(recipe, served, &items);
        let end = Instant::now();
        let batch_size = jobs.len();
        served.metrics.forward_duration.record(end - start);
        served.metrics.batch_size.record(batch_size as f64);
        match result {
            Ok(raw) => {
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
                    job.lost(Loss::Failed(reason.into()));
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
                let policy = served.policy();
                if size < policy.max_batch_size {
                    tracing::warn!(
                        recipe = recipe.info().name,
                        device = self.name,
                        max_batch_size = size,
                        "out of memory, smaller batches from now on"
                    );
                    served
                        .dispatcher
                        .set_policy(served.queue, self.policy(recipe, size));
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
fn guarded_forward(
    recipe: &dyn ErasedRecipe,
    batch: &[&Prepared],
) -> Result<Vec<RawOutput>, ForwardError> {
    catch_unwind(AssertUnwindSafe(|| recipe.forward(batch))).unwrap_or_else(|_| {
        Err(ForwardError::Failed(candle_core::Error::Msg(
            "the forward pass panicked".into(),
        )))
    })
}
