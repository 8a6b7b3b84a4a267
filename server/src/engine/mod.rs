//! The engine: operating-system threads for each device, warm-up, right-fitting, running batches.
//!
//! A request enters through [`Served::infer`]. Its items are prepared on the caller's thread or the CPU pool, wait in
//! the recipe's queue, are run by a device thread that pulls them in batches, and are finished where they were prepared.

mod admission;
mod device;
mod halving;
mod pending;
mod right_fit;
mod served;
mod state;
mod statistics;
#[cfg(test)]
mod tests;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Barrier, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use galley_core::AnyRecipe;
use tokio::sync::{Semaphore, watch};

pub use halving::run_halving;
pub use right_fit::{Fit, Measured, right_fit};
pub use served::{Answers, InferError, Served};
pub use state::State;
pub use statistics::{BatchTimes, Statistics, Total};

use self::{
    admission::Admission, device::DeviceThread, pending::Job, served::LastAnswer,
    state::StateSender, statistics::Recorder,
};
use crate::{
    batching::{Dispatcher, Policy, QueueId},
    metrics::Registry,
};

/// The engine's settings.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The batch limit; `None` finds it by measuring.
    pub max_batch_size: Option<usize>,
    /// The largest batch that measuring tries.
    pub largest_batch_size: usize,
    /// How long an item may wait for its batch to fill.
    pub max_queue_delay: Duration,
    /// The most items of a recipe that may wait.
    pub max_queue_size: usize,
    /// About how long measuring may take for each recipe.
    pub warmup_budget: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_batch_size: None,
            largest_batch_size: 1024,
            max_queue_delay: Duration::ZERO,
            max_queue_size: 4096,
            warmup_budget: Duration::from_secs(2),
        }
    }
}

/// A device by name, with its own copy of every recipe, in the same order on each device.
pub struct Device {
    /// `cpu`, `cuda:0`.
    pub name: String,
    /// The recipes as loaded onto it.
    pub recipes: Vec<AnyRecipe>,
    /// How many batches it has in hand at once, each on a thread of its own.
    pub batches_in_flight: NonZeroUsize,
}

/// The recipes that are served and the devices that run them.
pub struct Engine {
    recipes: Vec<Arc<Served>>,
    dispatcher: Arc<Dispatcher<Job>>,
    state: StateSender,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("recipes", &self.recipes)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the threads of each device. They warm up first: see [`Engine::ready`].
    ///
    /// # Errors
    /// The operating system gives no thread.
    ///
    /// # Panics
    /// There is no device, or devices differ in their recipes.
    pub fn start(
        devices: Vec<Device>,
        config: &EngineConfig,
        registry: &Registry,
    ) -> std::io::Result<Arc<Self>> {
        let first = devices.first().expect("an engine has a device");
        assert!(
            devices
                .iter()
                .all(|device| device.recipes.len() == first.recipes.len()),
            "devices have the same recipes"
        );
        let policy = Policy {
            max_batch_size: config.max_batch_size.unwrap_or(1),
            max_batch_cost: u64::MAX,
            max_queue_delay: config.max_queue_delay,
        };
        let dispatcher = Arc::new(Dispatcher::new(vec![policy; first.recipes.len()]));
        let state = StateSender::new(devices.len());
        let prepare_slots = Arc::new(Semaphore::new(rayon::current_num_threads()));
        let serve = |(place, recipe): (usize, &AnyRecipe)| {
            let metrics = registry.recipe(recipe.info().name);
            Arc::new(Served {
                recipe: Arc::clone(recipe),
                queue: QueueId(place),
                dispatcher: Arc::clone(&dispatcher),
                admission: Admission::new(config.max_queue_size, metrics.queue_depth.clone()),
                prepare_slots: Arc::clone(&prepare_slots),
                state: state.subscribe(),
                metrics,
                last_answer: LastAnswer::never(),
                statistics: Recorder::default(),
            })
        };
        let recipes: Vec<Arc<Served>> = first.recipes.iter().enumerate().map(serve).collect();
        let mut threads = Vec::new();
        for device in devices {
            let recipes: Vec<_> = device
                .recipes
                .into_iter()
                .zip(recipes.iter().cloned())
                .collect();
            let meet = Arc::new(Barrier::new(device.batches_in_flight.get()));
            for place in 0..device.batches_in_flight.get() {
                let thread = DeviceThread {
                    name: device.name.clone(),
                    recipes: recipes.clone(),
                    batches_in_flight: device.batches_in_flight,
                    is_first: place == 0,
                    meet: Arc::clone(&meet),
                    config: config.clone(),
                    state: state.clone(),
                };
                threads.push(
                    thread::Builder::new()
                        .name(format!("device {}", thread.name))
                        .spawn(move || thread.run())?,
                );
            }
        }
        Ok(Arc::new(Self {
            recipes,
            dispatcher,
            state,
            threads: Mutex::new(threads),
        }))
    }

    /// The recipes, in the order given.
    pub fn recipes(&self) -> &[Arc<Served>] {
        &self.recipes
    }

    /// The recipe of this name.
    pub fn recipe(&self, name: &str) -> Option<&Arc<Served>> {
        self.recipes
            .iter()
            .find(|served| served.info().name == name)
    }

    /// What the engine is doing, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// What the engine is doing now.
    pub fn state_now(&self) -> State {
        self.state.now()
    }

    /// Waits for the end of the warm-up.
    ///
    /// # Errors
    /// A device cannot run a recipe; the reason is for operators.
    pub async fn ready(&self) -> Result<(), String> {
        let mut state = self.state();
        let state = state.wait_for(|state| *state != State::WarmingUp).await;
        match state.as_deref() {
            Ok(State::Failed(reason)) => Err(reason.clone()),
            _ => Ok(()),
        }
    }

    /// Takes no new requests from now on.
    pub fn drain(&self) {
        self.state.drain();
    }

    /// Takes no new items either, runs those that wait, and ends the device threads.
    pub async fn shut_down(&self) {
        self.drain();
        self.dispatcher.close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // Joining blocks, for as long as the last batch takes.
        let joined = tokio::task::spawn_blocking(move || {
            threads
                .into_iter()
                .filter_map(|thread| thread.join().err())
                .count()
        });
        if joined.await.unwrap_or(0) > 0 {
            tracing::error!("a device thread panicked");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.dispatcher.close();
    }
}
