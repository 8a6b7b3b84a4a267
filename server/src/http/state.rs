//! What the handlers share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    HttpConfig,
    activity::{Activity, Arrival},
    budget::Budget,
    error::ApiError,
    fastdeploy::Jobs,
};
use crate::{
    engine::{Engine, Served, State},
    memory,
    metrics::{Outcome, Protocol, Registry},
};

/// The engine, the settings and what is remembered between requests. Cloning it is cheap and gives the same one.
#[derive(Clone, Debug)]
pub struct AppState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    config: HttpConfig,
    recipes: Vec<Arc<ServedRecipe>>,
    budget: Arc<Budget>,
    jobs: Jobs,
    started: Instant,
    leaving: watch::Sender<bool>,
}

/// A recipe and what its requests have come to.
#[derive(Debug)]
pub(super) struct ServedRecipe {
    pub(super) served: Arc<Served>,
    pub(super) activity: Activity,
}

impl AppState {
    /// The state of a server on this engine.
    pub fn new(engine: Arc<Engine>, registry: Arc<Registry>, config: HttpConfig) -> Self {
        let started = Instant::now();
        let serve = |served: &Arc<Served>| {
            Arc::new(ServedRecipe {
                served: Arc::clone(served),
                activity: Activity::new(started),
            })
        };
        let recipes: Vec<_> = engine.recipes().iter().map(serve).collect();
        Self(Arc::new(Shared {
            jobs: Jobs::new(&config, &recipes, &registry),
            recipes,
            budget: Budget::new(config.max_buffered, config.body_timeout),
            started,
            leaving: watch::Sender::new(false),
            engine,
            registry,
            config,
        }))
    }

    pub(super) fn config(&self) -> &HttpConfig {
        &self.0.config
    }

    pub(super) fn registry(&self) -> &Arc<Registry> {
        &self.0.registry
    }

    pub(super) fn recipes(&self) -> &[Arc<ServedRecipe>] {
        &self.0.recipes
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.0.budget
    }

    pub(super) fn jobs(&self) -> &Jobs {
        &self.0.jobs
    }

    pub(super) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    pub(super) fn engine_state(&self) -> State {
        self.0.engine.state_now()
    }

    /// What the engine is doing from now on.
    pub(super) fn watch_engine(&self) -> watch::Receiver<State> {
        self.0.engine.state()
    }

    /// Says from now on that the server is not ready, though requests are still taken, and that connections close: for
    /// load balancers, which need time to notice.
    pub fn leave(&self) {
        self.0.leaving.send_replace(true);
    }

    /// Whether requests should be sent here: not once the end is announced.
    pub(super) fn is_ready(&self) -> bool {
        self.engine_state() == State::Ready && !self.is_leaving()
    }

    /// Whether the end is announced.
    pub(super) fn is_leaving(&self) -> bool {
        *self.0.leaving.borrow()
    }

    /// Whether the end is announced, from now on.
    pub(super) fn watch_leaving(&self) -> watch::Receiver<bool> {
        self.0.leaving.subscribe()
    }

    /// Ends when the engine takes no new requests any more.
    pub(super) async fn until_draining(self) {
        let mut state = self.watch_engine();
        // The sender is gone only with the engine.
        let _ = state.wait_for(|state| *state == State::Draining).await;
    }

    /// Whether the engine takes no new requests. It is asked itself, as a copy of its state would lag behind, and a
    /// request refused meanwhile would not be told that its connection closes.
    pub(super) fn is_draining(&self) -> bool {
        self.0.engine.state_now() == State::Draining
    }

    /// What is to be done every second.
    pub(super) fn upkeep(&self) {
        let now = Instant::now();
        self.0.registry.upkeep();
        if let Some(bytes) = memory::resident_bytes() {
            let gauge = self.0.registry.device_memory("cpu".into(), "resident");
            gauge.set(bytes as f64);
        }
        self.0.jobs.sweep(now);
        for recipe in &self.0.recipes {
            recipe.activity.sample(now);
        }
    }

    /// The recipe of that name, or without a name the only one.
    pub(super) fn recipe(&self, name: Option<&str>) -> Result<&Arc<ServedRecipe>, ApiError> {
        match (name, self.recipes()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(ApiError::Malformed(format!(
                "several recipes are served, choose one with ?recipe=NAME or /recipes/NAME/...: {}",
                self.recipe_names()
            ))),
            (Some(name), recipes) => recipes
                .iter()
                .find(|recipe| recipe.name() == name)
                .ok_or_else(|| {
                    ApiError::NotFound(format!(
                        "no such recipe; the recipes are {}",
                        self.recipe_names()
                    ))
                }),
        }
    }

    pub(super) fn recipe_names(&self) -> String {
        let names: Vec<&str> = self.recipes().iter().map(|recipe| recipe.name()).collect();
        names.join(", ")
    }
}

impl ServedRecipe {
    pub(super) fn name(&self) -> &'static str {
        self.served.info().name
    }
}

/// A request until it has ended, whichever way: dropped before [`Call::end`], it was its caller that went away.
pub(super) struct Call {
    recipe: Arc<ServedRecipe>,
    protocol: Protocol,
    start: Instant,
    arrival: Arrival,
    outcome: Outcome,
}

impl Call {
    pub(super) fn begin(recipe: &Arc<ServedRecipe>, protocol: Protocol, start: Instant) -> Self {
        let arrival = recipe.activity.arrive(start);
        Self {
            recipe: Arc::clone(recipe),
            protocol,
            start,
            arrival,
            outcome: Outcome::Cancelled,
        }
    }

    /// It has been answered.
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.recipe.activity.end(self.arrival, self.outcome);
        self.recipe
            .served
            .metrics()
            .request(self.protocol, self.outcome, self.start.elapsed());
    }
}
