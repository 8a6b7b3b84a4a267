//! The command line as validated: what is wrong with it is found before anything is loaded or a port is bound.

use std::{
    collections::BTreeMap, net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use axum::http::HeaderValue;
use candle_core::{DType, Device, utils::cuda_is_available};
use galley_core::{DeviceName, Entry, InputLimits, LoadOptions, MemoryBudget, usual_dtype};
use url::{Origin, Url};

use crate::{
    access::{Access, Keyring, Tls},
    cli::{AccessArgs, AutoSize, BatchingArgs, DtypeArg, ModelArgs, Objective, ServeArgs},
    engine::EngineConfig,
    http::HttpConfig,
    jobs::JobsConfig,
    memory,
    traces::Traces,
};

/// What `galley serve` runs with.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// Where to listen for gRPC, if at all.
    pub grpc_address: Option<SocketAddr>,
    /// The recipes, in the order given, each once.
    pub recipes: Vec<&'static Entry>,
    /// How they are loaded.
    pub model: ModelConfig,
    /// The engine's settings.
    pub engine: EngineConfig,
    /// Batches that a device has in hand at once; `None` is what suits it.
    pub batches_in_flight: Option<NonZeroUsize>,
    /// The HTTP side's settings; without the table of jobs, which is opened first.
    pub http: HttpConfig,
    /// The table of asynchronous requests, if there is one.
    pub jobs: Option<JobsConfig>,
    /// How long draining may take.
    pub drain_timeout: Duration,
    /// How long requests are still taken when the end is announced.
    pub drain_delay: Duration,
}

/// Which model runs, and on what.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The devices; at least one.
    pub devices: Vec<Device>,
    /// The dtype of the computation.
    pub dtype: DType,
    /// Whether that was left to galley.
    pub dtype_is_auto: bool,
    /// Threads of the CPU pool.
    pub threads: usize,
    weights: galley_core::WeightSource,
    options: BTreeMap<String, BTreeMap<String, String>>,
    limits: InputLimits,
    decode_memory: MemoryBudget,
}

impl ServeConfig {
    /// Validates what was typed.
    ///
    /// # Errors
    /// A value makes no sense or names what does not exist; the message says which and what was expected.
    pub fn new(args: &ServeArgs) -> anyhow::Result<Self> {
        let names: Vec<&str> = match args.recipes.is_empty() {
            true => galley_catalog::DEFAULT_RECIPES.to_vec(),
            false => args.recipes.iter().map(|name| name.trim()).collect(),
        };
        let mut recipes: Vec<&'static Entry> = Vec::new();
        for name in names {
            let entry = galley_catalog::find(name)?;
            ensure!(
                recipes.iter().all(|other| other.name != entry.name),
                "--recipes: {name} is named twice"
            );
            recipes.push(entry);
        }
        ensure!(
            !args.timeout.is_zero(),
            "--timeout: expected a time above 0"
        );
        for (option, time) in [
            ("--body-timeout", args.body_timeout),
            ("--write-timeout", args.write_timeout),
            ("--keep-alive-timeout", args.keep_alive_timeout),
            ("--header-timeout", args.header_timeout),
        ] {
            ensure!(!time.is_zero(), "{option}: expected a time above 0");
        }
        ensure!(
            args.port == 0 || args.grpc_port != Some(args.port),
            "--grpc-port: expected another port than --port, got {}",
            args.port
        );
        let address = args.host.address(args.port)?.ip();
        let defaults = HttpConfig::default();
        let max_body = args.max_body.as_u64();
        let http = HttpConfig {
            max_body,
            max_decompressed: args
                .max_decompressed
                .map_or(max_body.saturating_mul(4), |size| size.as_u64()),
            max_buffered: args.max_buffered.as_u64().max(max_body),
            timeout: args.timeout,
            body_timeout: args.body_timeout,
            write_timeout: args.write_timeout,
            keep_alive_timeout: args.keep_alive_timeout,
            header_timeout: args.header_timeout,
            drain_linger: args.drain_linger,
            max_connections: args.max_connections.get(),
            result_ttl: args.result_ttl,
            max_results: args.max_results.get(),
            access: access(&args.access)?,
            open_metrics: args.access.open_metrics,
            traces: args.otlp_endpoint.as_deref().map(Traces::to).transpose()?,
            cors_origins: args
                .access
                .cors_origin
                .iter()
                .map(|origin| cors_origin(origin.trim()))
                .collect::<anyhow::Result<_>>()?,
            ..defaults
        };
        Ok(Self {
            address: SocketAddr::new(address, args.port),
            grpc_address: args.grpc_port.map(|port| SocketAddr::new(address, port)),
            model: ModelConfig::new(&args.model, &recipes)?,
            engine: EngineConfig {
                objectives: objectives(&args.slo, &recipes)?,
                ..engine(&args.batching)
            },
            recipes,
            batches_in_flight: args.batching.batches_in_flight,
            http,
            jobs: args.jobs.config()?,
            drain_timeout: args
                .drain_timeout
                .unwrap_or(args.timeout.saturating_add(Duration::from_secs(5))),
            drain_delay: args.drain_delay,
        })
    }
}

impl ModelConfig {
    /// Validates what was typed, for these recipes.
    ///
    /// # Errors
    /// A device, dtype or option cannot be had.
    pub fn new(args: &ModelArgs, recipes: &[&'static Entry]) -> anyhow::Result<Self> {
        let devices = args
            .device
            .iter()
            .map(|name| device(name.trim()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(
            !devices.is_empty(),
            "--device: expected auto, cpu or cuda:N"
        );
        if let galley_core::WeightSource::Dir(path) = &args.weights {
            ensure!(
                recipes.len() == 1,
                "--weights {}: a folder holds the weights of one recipe, but {} are served",
                path.display(),
                recipes.len()
            );
        }
        Ok(Self {
            dtype: dtype(args.dtype, &devices)?,
            dtype_is_auto: args.dtype == DtypeArg::Auto,
            devices,
            threads: args
                .threads
                .map_or_else(available_threads, NonZeroUsize::get),
            weights: args.weights.clone(),
            options: own_options(&args.options, recipes)?,
            limits: InputLimits {
                max_pixels: args.max_pixels,
                max_text_bytes: usize::try_from(args.max_text.as_u64()).unwrap_or(usize::MAX),
            },
            decode_memory: MemoryBudget::new(
                args.max_decode_memory
                    .map_or_else(memory::for_decoding, |size| size.as_u64()),
            ),
        })
    }

    /// How a recipe is loaded onto a device.
    pub fn load_options(&self, recipe: &str, device: &Device) -> LoadOptions {
        LoadOptions {
            device: device.clone(),
            dtype: self.dtype,
            weights: self.weights.clone(),
            options: self.options.get(recipe).cloned().unwrap_or_default(),
            limits: self.limits,
            decode_memory: self.decode_memory.clone(),
        }
    }

    /// Sizes the CPU pool, which must not have been used yet.
    ///
    /// # Errors
    /// It has been.
    pub fn start_threads(&self) -> anyhow::Result<()> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .thread_name(|n| format!("cpu {n}"))
            .build_global()
            .context("cannot start the CPU pool")
    }
}

/// The engine's settings.
pub(crate) fn engine(args: &BatchingArgs) -> EngineConfig {
    EngineConfig {
        max_batch_size: match args.max_batch_size {
            AutoSize::Auto => None,
            AutoSize::Fixed(size) => Some(size.get()),
        },
        max_queue_delay: args.max_queue_delay,
        max_queue_size: args.max_queue_size.get(),
        ..EngineConfig::default()
    }
}

/// Each recipe's objective: its own, or else that of all.
fn objectives(
    typed: &[Objective],
    recipes: &[&'static Entry],
) -> anyhow::Result<BTreeMap<String, Duration>> {
    let mut named: BTreeMap<Option<&str>, Duration> = BTreeMap::new();
    for objective in typed {
        let recipe = objective.recipe.as_deref();
        let name = recipe.unwrap_or("all recipes");
        ensure!(
            recipe.is_none_or(|name| recipes.iter().any(|entry| entry.name == name)),
            "--slo: {name} is not among the recipes"
        );
        ensure!(
            named.insert(recipe, objective.within).is_none(),
            "--slo: expected one objective for {name}, got two"
        );
    }
    let of = |entry: &&Entry| {
        let within = named.get(&Some(entry.name)).or_else(|| named.get(&None));
        Some((entry.name.to_owned(), *within?))
    };
    Ok(recipes.iter().filter_map(of).collect())
}

fn access(args: &AccessArgs) -> anyhow::Result<Access> {
    let keys = args
        .api_key_file
        .as_deref()
        .map(Keyring::open)
        .transpose()?;
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(Tls::open(cert, key)?),
        (None, None) => None,
        (Some(_), None) => bail!("--tls-cert: expected --tls-key with it"),
        (None, Some(_)) => bail!("--tls-key: expected --tls-cert with it"),
    };
    Ok(Access {
        keys: keys.map(Arc::new),
        tls: tls.map(Arc::new),
    })
}

/// An origin as browsers send it: a page's scheme, host and port, and nothing after them.
fn cors_origin(text: &str) -> anyhow::Result<HeaderValue> {
    let expected =
        || format!("--cors-origin: expected http://HOST or https://HOST[:PORT], got {text:?}");
    let url = Url::parse(text).with_context(expected)?;
    let origin = match url.origin() {
        origin @ Origin::Tuple(..) => origin.ascii_serialization(),
        Origin::Opaque(_) => bail!(expected()),
    };
    ensure!(
        ["http", "https"].contains(&url.scheme()) && url.as_str().trim_end_matches('/') == origin,
        expected()
    );
    HeaderValue::from_str(&origin).with_context(expected)
}

/// The cores that this process may run on, container quotas respected.
fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn device(name: &str) -> anyhow::Result<Device> {
    let name: DeviceName = name
        .parse()
        .map_err(|reason| anyhow!("--device: {reason}"))?;
    let device = name.open().map_err(|reason| anyhow!("--device {reason}"))?;
    if name == DeviceName::Auto && cuda_is_available() && device.is_cpu() {
        tracing::warn!("no CUDA device answers, the CPU is used; --device cuda:0 says why");
    }
    Ok(device)
}

/// One dtype for all devices, as answers must not depend on which of them gives them.
fn dtype(wanted: DtypeArg, devices: &[Device]) -> anyhow::Result<DType> {
    let cpu = devices.iter().find(|device| device.is_cpu());
    match wanted {
        DtypeArg::F32 => Ok(DType::F32),
        DtypeArg::Auto => Ok(cpu.or(devices.first()).map_or(DType::F32, usual_dtype)),
        DtypeArg::F16 if cpu.is_some() => bail!("--dtype f16: the CPU computes in f32 or bf16"),
        DtypeArg::F16 => Ok(DType::F16),
        DtypeArg::Bf16 if devices.iter().any(Device::is_cuda) => {
            bail!("--dtype bf16: CUDA devices compute in f16 or f32")
        }
        DtypeArg::Bf16 => Ok(DType::BF16),
    }
}

/// `RECIPE.KEY=VALUE`, or `KEY=VALUE` where there is only one recipe.
fn own_options(
    options: &[String],
    recipes: &[&'static Entry],
) -> anyhow::Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut own: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for option in options {
        let (key, value) = option
            .split_once('=')
            .with_context(|| format!("--option: expected RECIPE.KEY=VALUE, got {option:?}"))?;
        let (recipe, key) = match (key.split_once('.'), recipes) {
            (Some(parts), _) => parts,
            (None, [only]) => (only.name, key),
            (None, _) => bail!("--option: expected RECIPE.KEY=VALUE, got {option:?}"),
        };
        ensure!(
            recipes.iter().any(|entry| entry.name == recipe),
            "--option {option}: {recipe} is not among the recipes"
        );
        own.entry(recipe.into())
            .or_default()
            .insert(key.into(), value.into());
    }
    Ok(own)
}

/// Reads a file that the user named.
///
/// # Errors
/// It cannot be read; the message names it.
pub fn read(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests;
