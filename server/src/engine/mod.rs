//! The engine: operating-system threads for each device, warm-up, right-fitting, running batches.
//!
//! A request enters through [`Served::infer`]. Its items are prepared on the caller's thread or the CPU pool, wait in
//! the recipe's queue, are run by a device thread that pulls them in batches, and are finished where they were prepared.

mod admission;
mod device;
mod error;
mod fit;
mod halving;
mod lately;
mod learnt;
mod measuring;
mod pending;
mod preparer;
mod preparing;
mod request;
mod served;
mod state;
mod statistics;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use galley_core::AnyRecipe;
use tokio::sync::watch;

pub use error::InferError;
pub use halving::run_halving;
pub use served::{Answers, Served};
pub use state::State;
pub use statistics::{BatchTimes, Statistics, Total};

use self::{
    admission::Admission,
    device::{AtWork, DeviceThread},
    fit::Bounds,
    lately::Lately,
    learnt::Learnt,
    pending::Job,
    preparer::{Preparer, Raw, Slots},
    state::StateSender,
    statistics::Recorder,
};
use crate::{
    batching::{Dispatcher, Policy, QueueId, Seat, longest_batch},
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
    /// By recipe, within what time its requests are to be answered.
    pub objectives: BTreeMap<String, Duration>,
    /// The most items of a recipe that may wait, however fast they are answered.
    pub max_queue_size: usize,
    /// About how long measuring may take for each recipe before it is served; first passes do not count.
    pub warmup_budget: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_batch_size: None,
            largest_batch_size: 1024,
            max_queue_delay: Duration::ZERO,
            objectives: BTreeMap::new(),
            max_queue_size: 65_536,
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
    /// Whether a short batch may go beside a long one of another recipe, on a thread more.
    pub beside: bool,
}

/// The recipes that are served and the devices that run them.
pub struct Engine {
    recipes: Vec<Arc<Served>>,
    raw: Arc<Dispatcher<Raw>>,
    ready: Arc<Dispatcher<Job>>,
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
        let count = first.recipes.len();
        let raw = Arc::new(Dispatcher::new(Policy::new(count, Duration::ZERO)));
        let ready = Arc::new(Dispatcher::new(Policy::new(count, config.max_queue_delay)));
        let state = StateSender::new(devices.len());
        let threads = rayon::current_num_threads();
        let batches_in_flight = first.batches_in_flight.get();
        let serve = |(place, recipe): (usize, &AnyRecipe)| {
            let metrics = registry.recipe(recipe.info().name);
            let typical = u64::from(recipe.sample(None, 0).cost());
            Arc::new(Served {
                recipe: Arc::clone(recipe),
                queue: QueueId(place),
                raw: Arc::clone(&raw),
                ready: Arc::clone(&ready),
                admission: Admission::new(config.max_queue_size, metrics.queue_depth.clone()),
                learnt: Learnt::new(
                    (devices.len(), batches_in_flight),
                    threads,
                    config.bounds(recipe, batches_in_flight),
                    typical,
                ),
                objective: config.objective(recipe),
                max_queue_delay: config.max_queue_delay,
                held: AtomicBool::new(false),
                state: state.subscribe(),
                metrics,
                last_answer: Lately::never(),
                last_asked: Lately::never(),
                statistics: Recorder::default(),
            })
        };
        let recipes: Vec<Arc<Served>> = first.recipes.iter().enumerate().map(serve).collect();
        let preparer = Preparer {
            recipes: recipes.clone(),
            raw: Arc::clone(&raw),
            slots: Slots::new(threads),
        };
        let engine = Arc::new(Self {
            recipes,
            raw,
            ready,
            state,
            threads: Mutex::default(),
        });
        engine.spawn("prepare", move || preparer.run())?;
        engine.start_devices(devices, config)?;
        Ok(engine)
    }

    fn start_devices(&self, devices: Vec<Device>, config: &EngineConfig) -> std::io::Result<()> {
        for (place, device) in devices.into_iter().enumerate() {
            let recipes: Vec<_> = device
                .recipes
                .into_iter()
                .zip(self.recipes.iter().cloned())
                .collect();
            let meet = Arc::new(Barrier::new(device.batches_in_flight.get()));
            let at_work = AtWork::default();
            let last_end = Arc::new(Mutex::new(Instant::now()));
            let own = std::iter::repeat_n(Seat::Own, device.batches_in_flight.get());
            let beside = (device.beside && recipes.len() > 1).then_some(Seat::Beside);
            for (number, seat) in own.chain(beside).enumerate() {
                let thread = DeviceThread {
                    name: device.name.clone(),
                    device: place,
                    recipes: recipes.clone(),
                    batches_in_flight: device.batches_in_flight,
                    is_first: number == 0,
                    meet: Arc::clone(&meet),
                    seat,
                    at_work: Arc::clone(&at_work),
                    last_end: Arc::clone(&last_end),
                    config: config.clone(),
                    state: self.state.clone(),
                };
                self.spawn(&format!("device {}", device.name), move || thread.run())?;
            }
        }
        Ok(())
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = thread::Builder::new().name(name.into()).spawn(run)?;
        self.threads().push(thread);
        Ok(())
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
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
        // What is still to be prepared is run too: the preparer, which goes first, leaves when it has none.
        self.raw.close();
        let mut threads = std::mem::take(&mut *self.threads());
        let ready = Arc::clone(&self.ready);
        // Joining blocks, for as long as the last batch takes.
        let joined = tokio::task::spawn_blocking(move || {
            let preparer = threads.drain(..threads.len().min(1));
            let preparer = preparer.filter_map(|thread| thread.join().err()).count();
            ready.close();
            let devices = threads.into_iter().filter_map(|thread| thread.join().err());
            preparer + devices.count()
        });
        if joined.await.unwrap_or(0) > 0 {
            tracing::error!("a device thread panicked");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.raw.close();
        self.ready.close();
    }
}

impl EngineConfig {
    /// By when a recipe's requests are to be answered, if that was asked for.
    fn objective(&self, recipe: &AnyRecipe) -> Option<Duration> {
        self.objectives.get(recipe.info().name).copied()
    }

    /// What a recipe's batches may be at most.
    fn bounds(&self, recipe: &AnyRecipe, batches_in_flight: usize) -> Bounds {
        let largest = self.max_batch_size.unwrap_or(self.largest_batch_size);
        let longest = self.objective(recipe).map_or(Duration::MAX, |objective| {
            longest_batch(objective, batches_in_flight)
        });
        Bounds {
            largest: recipe
                .info()
                .max_batch_size
                .map_or(largest, |most| largest.min(most)),
            is_fixed: self.max_batch_size.is_some(),
            longest,
        }
    }
}
