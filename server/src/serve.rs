//! `galley serve`: load, bind, warm up, serve, drain.

use std::{io::Write, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Instant};

use anyhow::{Context, bail};
use galley_core::{Entry, InputKind, LoadError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{ModelConfig, ServeConfig},
    engine::{Device, Engine},
    http::{self, AppState},
    metrics::Registry,
    signals::Signals,
};

/// Loads the recipes onto each device.
///
/// # Errors
/// Weights are missing or wrong, or the device cannot run the recipe.
pub fn load(
    recipes: &[&'static Entry],
    model: &ModelConfig,
    batches_in_flight: Option<NonZeroUsize>,
) -> Result<Vec<Device>, LoadError> {
    let devices: Vec<Device> = model
        .devices
        .iter()
        .map(|device| load_onto(recipes, model, batches_in_flight, device))
        .collect::<Result<_, _>>()?;
    if model.dtype_is_auto && model.devices.iter().any(candle_core::Device::is_cpu) {
        announce_bf16();
    }
    announce_decoder(&devices);
    Ok(devices)
}

/// Says what the dtype that was not chosen would give.
fn announce_bf16() {
    if let Some(gain) = galley_catalog::bf16_gain() {
        tracing::info!(
            speed = format!("{gain:.1}x"),
            "computing in f32; with --dtype bf16 matrix products would have this speed, and three digits' precision"
        );
    }
}

/// Says once what decodes JPEG files where that might be a device.
fn announce_decoder(devices: &[Device]) {
    let recipes = devices.iter().flat_map(|device| &device.recipes);
    let mut images = recipes
        .filter(|recipe| {
            let info = recipe.info();
            info.input_kind == InputKind::File && info.device != "cpu"
        })
        .peekable();
    if images.peek().is_none() {
        return;
    }
    match images.find_map(|recipe| recipe.decoder()) {
        Some(decoder) => tracing::info!(
            decoder,
            "whole baseline JPEG files are decoded on the device"
        ),
        None => tracing::info!(
            "all JPEG files are decoded on the CPU: jpeg=cpu, or no libnvjpeg.so.13 or .12 that finds engines for it on the device"
        ),
    }
}

fn load_onto(
    entries: &[&'static Entry],
    model: &ModelConfig,
    batches_in_flight: Option<NonZeroUsize>,
    device: &candle_core::Device,
) -> Result<Device, LoadError> {
    let mut recipes = Vec::new();
    let mut name = String::new();
    for entry in entries {
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
    // A CPU computes on the very cores that would get the next batch ready.
    let usual = if device.is_cpu() { 1 } else { 2 };
    let batches_in_flight =
        batches_in_flight.unwrap_or(NonZeroUsize::MIN.saturating_add(usual - 1));
    Ok(Device {
        name,
        recipes,
        batches_in_flight,
        beside: device.is_cpu(),
    })
}

/// Serves until a signal comes and everything accepted is answered.
///
/// # Errors
/// The address cannot be bound, a device cannot run its recipes, or draining took too long.
pub async fn run(
    config: ServeConfig,
    devices: Vec<Device>,
    mut signals: Signals,
) -> anyhow::Result<()> {
    signals.reload_on_hangup(&config.http.access);
    let (listener, address) = bind(config.address).await?;
    let grpc = match config.grpc_address {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let grpc_address = grpc.as_ref().map(|(_, address)| *address);
    let registry = Arc::new(Registry::new().context("cannot set up metrics")?);
    let engine = Engine::start(devices, &config.engine, &registry)
        .context("cannot start the device threads")?;
    #[cfg(feature = "cuda")]
    crate::nvidia::watch(&config.model.devices, &registry);
    let state = AppState::new(Arc::clone(&engine), registry, config.http.clone());

    // The port answers during warm-up too, so that probes see a server that is alive and not yet ready.
    let stop = CancellationToken::new();
    let stopped = || stop.clone().cancelled_owned();
    let mut server = tokio::spawn(http::serve(listener, state.clone(), stopped()));
    let mut grpc_server = tokio::spawn(serve_grpc(grpc, state.clone(), stopped()));
    tokio::select! {
        ready = engine.ready() => {
            if let Err(reason) = ready {
                bail!("{reason}");
            }
            let names: Vec<_> = config.recipes.iter().map(|entry| entry.name).collect();
            // Nobody may be reading; the server serves all the same.
            // Encrypted, both are.
            let s = config.http.access.tls.as_ref().map_or("", |_| "s");
            let and_grpc = grpc_address.map(|address| format!(" and grpc{s}://{address}")).unwrap_or_default();
            let _ = writeln!(
                std::io::stdout(),
                "galley is ready at http{s}://{address}{and_grpc} serving {}",
                names.join(", ")
            );
            let _ = std::io::stdout().flush();
            signals.end().await;
            if !config.drain_delay.is_zero() {
                tracing::info!(delay = ?config.drain_delay, "leaving: not ready any more, but requests are taken");
                state.leave();
                tokio::select! {
                    () = tokio::time::sleep(config.drain_delay) => {}
                    () = signals.end() => {}
                }
            }
        }
        () = signals.end() => {}
    }

    tracing::info!("draining");
    engine.drain();
    stop.cancel();
    let drained = async {
        let results = tokio::join!(&mut server, &mut grpc_server);
        engine.shut_down().await;
        results
    };
    tokio::select! {
        (http, grpc) = drained => for result in [http, grpc] {
            result.context("the server panicked")?.context("the server failed")?;
        },
        () = signals.end() => bail!("ended by a second signal before everything was answered"),
        () = tokio::time::sleep(config.drain_timeout) => bail!("not everything was answered within --drain-timeout"),
    }
    if let Some(traces) = config.http.traces {
        // It has a limit of its own, and there are no requests any more that could be traced.
        let _ = tokio::task::spawn_blocking(move || traces.shut_down()).await;
    }
    tracing::info!("drained");
    Ok(())
}

pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let address = listener
        .local_addr()
        .context("cannot read the address bound")?;
    Ok((listener, address))
}

/// Serves gRPC if there is a port for it.
async fn serve_grpc(
    bound: Option<(TcpListener, SocketAddr)>,
    state: AppState,
    stopped: impl Future<Output = ()>,
) -> std::io::Result<()> {
    match bound {
        Some((listener, _)) => http::serve_grpc(listener, state, stopped).await,
        None => Ok(()),
    }
}
