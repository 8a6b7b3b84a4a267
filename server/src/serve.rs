//! `galley serve`: load, bind, warm up, serve, drain.

use std::{future::pending, io::Write, sync::Arc, time::Instant};

use anyhow::{Context, bail};
use galley_core::LoadError;
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    config::{ModelConfig, ServeConfig},
    engine::{Device, Engine},
    http::{self, AppState},
    metrics::Registry,
};

/// Loads the recipes onto each device.
///
/// # Errors
/// Weights are missing or wrong, or the device cannot run the recipe.
pub fn load(config: &ServeConfig) -> Result<Vec<Device>, LoadError> {
    config
        .model
        .devices
        .iter()
        .map(|device| load_onto(config, &config.model, device))
        .collect()
}

fn load_onto(
    config: &ServeConfig,
    model: &ModelConfig,
    device: &candle_core::Device,
) -> Result<Device, LoadError> {
    let mut recipes = Vec::new();
    let mut name = String::new();
    for entry in &config.recipes {
        let start = Instant::now();
        let options = model.load_options(entry.name, device);
        let recipe = galley_catalog::load(entry.name, &options)?;
        let info = recipe.info();
        tracing::info!(
            recipe = info.name, weights = info.weights, dtype = info.dtype, device = info.device, took = ?start.elapsed(),
            "loaded"
        );
        name = options.device_name();
        recipes.push(recipe);
    }
    Ok(Device { name, recipes })
}

/// Serves until a signal comes and everything accepted is answered.
///
/// # Errors
/// The address cannot be bound, a device cannot run its recipes, or draining took too long.
pub async fn run(config: ServeConfig, devices: Vec<Device>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.address)
        .await
        .with_context(|| format!("cannot listen on {}", config.address))?;
    let address = listener
        .local_addr()
        .context("cannot read the address bound")?;
    let registry = Arc::new(Registry::new().context("cannot set up metrics")?);
    let engine = Engine::start(devices, &config.engine, &registry)
        .context("cannot start the device threads")?;
    let state = AppState::new(Arc::clone(&engine), registry, config.http.clone());

    // The port answers during warm-up too, so that probes see a server that is alive and not yet ready.
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let mut server = tokio::spawn(http::serve(listener, state, shutdown));
    let mut signals = Signals::new()?;
    tokio::select! {
        ready = engine.ready() => {
            if let Err(reason) = ready {
                bail!("{reason}");
            }
            let names: Vec<_> = config.recipes.iter().map(|entry| entry.name).collect();
            // Nobody may be reading; the server serves all the same.
            let _ = writeln!(std::io::stdout(), "galley is ready at http://{address} serving {}", names.join(", "));
            let _ = std::io::stdout().flush();
            signals.next().await;
        }
        () = signals.next() => {}
    }

    tracing::info!("draining");
    engine.drain();
    let _ = stop.send(());
    let drained = async {
        let result = (&mut server).await;
        engine.shut_down().await;
        result
    };
    tokio::select! {
        result = drained => result.context("the server panicked")?.context("the server failed")?,
        () = signals.next() => bail!("ended by a second signal before everything was answered"),
        () = tokio::time::sleep(config.drain_timeout) => bail!("not everything was answered within --drain-timeout"),
    }
    tracing::info!("drained");
    Ok(())
}

/// Ctrl-C and, on Unix, SIGTERM.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        let came = tokio::select! {
            came = self.terminate.recv() => came,
            came = self.interrupt.recv() => came,
        };
        if came.is_none() {
            pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {})
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            pending::<()>().await;
        }
    }
}
