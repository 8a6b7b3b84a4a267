//! Finding a recipe's batch size on a device: first passes that do not count, and then a search that may be put off.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use galley_core::{AnyRecipe, ErasedRecipe, ForwardError, Prepared};

use super::{device::guarded_forward, right_fit::Search, served::Served};
use crate::batching::Speed;

/// Passes of a batch size that a device has not run yet, and that do not count: memory is taken in the first, and what
/// records its launches does so in the second.
const FIRST_PASSES: usize = 2;

/// A search that devices of one kind share: each adds to it what it measures.
pub(super) type SharedSearch = Arc<Mutex<Search>>;

/// One recipe on one device.
pub(super) struct Measuring {
    pub(super) recipe: AnyRecipe,
    pub(super) served: Arc<Served>,
    /// None where the batch size was asked for.
    pub(super) search: Option<SharedSearch>,
    /// The devices that the search is for.
    pub(super) devices: Vec<usize>,
    /// This one.
    pub(super) device: usize,
    samples: Vec<Prepared>,
    seen: BTreeSet<usize>,
}

impl Measuring {
    pub(super) fn new(
        recipe: AnyRecipe,
        served: Arc<Served>,
        search: Option<SharedSearch>,
        (device, devices): (usize, Vec<usize>),
    ) -> Self {
        Self {
            recipe,
            served,
            search,
            devices,
            device,
            samples: Vec::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Whether there is something left to measure.
    pub(super) fn is_unfinished(&self) -> bool {
        self.search
            .as_ref()
            .is_some_and(|search| lock(search).next().is_some())
    }

    /// Loads, compiles and takes memory: whatever a device does only once, and what no batch size is to be blamed for.
    pub(super) fn first_pass(&mut self) -> Result<Duration, ForwardError> {
        let start = Instant::now();
        self.run(1)?;
        Ok(start.elapsed())
    }

    /// Measures until the search has ended, `budget` is spent or nobody wants to know any more, but something in any case.
    pub(super) fn search(
        &mut self,
        budget: Duration,
        wanted: impl Fn() -> bool,
    ) -> Result<(), ForwardError> {
        let start = Instant::now();
        while self.step()? && start.elapsed() < budget && wanted() {}
        self.settle();
        Ok(())
    }

    /// Measures one batch, if one is left to be measured.
    pub(super) fn step(&mut self) -> Result<bool, ForwardError> {
        let Some(search) = self.search.clone() else {
            return Ok(false);
        };
        let Some(size) = lock(&search).next() else {
            return Ok(false);
        };
        match self.measure(size) {
            Ok(time) => lock(&search).add(size, time),
            Err(ForwardError::OutOfMemory) if size > 1 => lock(&search).out_of_memory(size),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Makes what has been found so far the bounds of batches, on all devices of the kind.
    pub(super) fn settle(&self) {
        let Some(search) = self.search.as_ref().map(|search| lock(search)) else {
            return;
        };
        let speed = search.speed(self.served.learnt.typical());
        if let (Some(batch_size), Some(speed)) = (search.fit(), speed) {
            drop(search);
            for &device in &self.devices {
                self.served.learnt.set(device, batch_size, speed);
            }
            self.served.learnt_more();
        }
    }

    /// Takes the batch size that was asked for, which is not second-guessed, only stepped down from where memory is short.
    pub(super) fn take(&mut self, mut size: usize) -> Result<(), ForwardError> {
        let single = self.measure(1)?;
        let batch = loop {
            match self.measure(size) {
                Err(ForwardError::OutOfMemory) if size > 1 => size /= 2,
                result => break result?,
            }
        };
        let typical = self.served.learnt.typical();
        let measured = [(1, single), (size, batch)];
        let measured = measured.map(|(size, time)| (size as u64 * typical, time.as_secs_f64()));
        let speed = Speed::through(measured).unwrap_or_default();
        self.served.learnt.set(self.device, size, speed);
        self.served.learnt_more();
        Ok(())
    }

    fn measure(&mut self, size: usize) -> Result<Duration, ForwardError> {
        if self.seen.insert(size) {
            for _ in 0..FIRST_PASSES {
                self.run(size)?;
            }
        }
        let start = Instant::now();
        self.run(size)?;
        Ok(start.elapsed())
    }

    fn run(&mut self, size: usize) -> Result<(), ForwardError> {
        let recipe: &dyn ErasedRecipe = self.recipe.as_ref();
        let more = (self.samples.len()..size).map(|seed| recipe.sample(None, seed as u64));
        self.samples.extend(more);
        let batch: Vec<&Prepared> = self.samples[..size].iter().collect();
        guarded_forward(recipe, &batch).map(drop)
    }
}

pub(super) fn lock(search: &SharedSearch) -> MutexGuard<'_, Search> {
    // Nothing that may panic runs under the lock.
    search.lock().unwrap_or_else(PoisonError::into_inner)
}
