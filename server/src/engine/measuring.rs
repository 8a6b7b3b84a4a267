//! Measuring a recipe's batches on a device while none are served: until its fit has seen enough, or as long as there is time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use galley_core::{AnyRecipe, ErasedRecipe, ForwardError, Prepared};

use super::{device::guarded_forward, served::Served};

/// One recipe on one device.
pub(super) struct Measuring {
    pub(super) recipe: AnyRecipe,
    pub(super) served: Arc<Served>,
    device: usize,
    samples: Vec<Prepared>,
}

impl Measuring {
    pub(super) fn new(recipe: AnyRecipe, served: Arc<Served>, device: usize) -> Self {
        Self {
            recipe,
            served,
            device,
            samples: Vec::new(),
        }
    }

    /// Whether there is something left to measure.
    pub(super) fn is_unfinished(&self) -> bool {
        self.served.learnt.next(self.device).is_some()
    }

    /// Loads, compiles and takes memory: whatever a device does only once, and what no batch size is to be blamed for.
    pub(super) fn first_pass(&mut self) -> Result<Duration, ForwardError> {
        self.run(1)
    }

    /// Measures until all is known, `budget` is spent or nobody wants to know any more, but something in any case.
    pub(super) fn search(
        &mut self,
        budget: Duration,
        wanted: impl Fn() -> bool,
    ) -> Result<(), ForwardError> {
        let start = Instant::now();
        while self.step()? && start.elapsed() < budget && wanted() {}
        Ok(())
    }

    /// Measures one batch, if one is left to be measured, after first passes if it has had none.
    pub(super) fn step(&mut self) -> Result<bool, ForwardError> {
        let served = Arc::clone(&self.served);
        let learnt = &served.learnt;
        let Some(size) = learnt.next(self.device) else {
            return Ok(false);
        };
        loop {
            match self.run(size) {
                Ok(time) if learnt.measured(self.device, size, time.as_secs_f64()) => break,
                Ok(_) => {}
                Err(ForwardError::OutOfMemory) if learnt.out_of_memory(self.device, size) => break,
                Err(error) => return Err(error),
            }
        }
        served.learnt_more();
        Ok(true)
    }

    fn run(&mut self, size: usize) -> Result<Duration, ForwardError> {
        let recipe: &dyn ErasedRecipe = self.recipe.as_ref();
        let more = (self.samples.len()..size).map(|seed| recipe.sample(None, seed as u64));
        self.samples.extend(more);
        let batch: Vec<&Prepared> = self.samples[..size].iter().collect();
        let start = Instant::now();
        guarded_forward(recipe, &batch).map(|_| start.elapsed())
    }
}
