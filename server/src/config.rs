//! The command line as validated: what is wrong with it is found before anything is loaded or a port is bound.

use std::{
    collections::BTreeMap, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration,
};

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Device};
use galley_core::{Entry, InputLimits, LoadOptions};

use crate::{
    cli::{AutoSize, DtypeArg, ModelArgs, ServeArgs},
    engine::EngineConfig,
    http::HttpConfig,
};

/// What `galley serve` runs with.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// The recipes, in the order given, each once.
    pub recipes: Vec<&'static Entry>,
    /// How they are loaded.
    pub model: ModelConfig,
    /// The engine's settings.
    pub engine: EngineConfig,
    /// The HTTP side's settings.
    pub http: HttpConfig,
    /// How long draining may take.
    pub drain_timeout: Duration,
}

/// Which model runs, and on what.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The devices; at least one.
    pub devices: Vec<Device>,
    /// The dtype of the computation.
    pub dtype: DType,
    /// Threads of the CPU pool.
    pub threads: usize,
    weights: galley_core::WeightSource,
    options: BTreeMap<String, BTreeMap<String, String>>,
    limits: InputLimits,
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
        let defaults = HttpConfig::default();
        let max_body = args.max_body.as_u64();
        let http = HttpConfig {
            max_body,
            max_decompressed: args
                .max_decompressed
                .map_or(max_body.saturating_mul(4), |size| size.as_u64()),
            max_buffered: args.max_buffered.as_u64().max(max_body),
            timeout: args.timeout,
            header_timeout: args.header_timeout,
            max_connections: args.max_connections.get(),
            result_ttl: args.result_ttl,
            max_results: args.max_results.get(),
            ..defaults
        };
        let engine = EngineConfig {
            max_batch_size: match args.max_batch_size {
                AutoSize::Auto => None,
                AutoSize::Fixed(size) => Some(size.get()),
            },
            max_queue_delay: args.max_queue_delay,
            max_queue_size: args.max_queue_size.get(),
            ..EngineConfig::default()
        };
        Ok(Self {
            address: SocketAddr::new(args.host, args.port),
            model: ModelConfig::new(&args.model, &recipes)?,
            recipes,
            engine,
            http,
            drain_timeout: args.drain_timeout,
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

/// The cores that this process may run on, container quotas respected.
fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn device(name: &str) -> anyhow::Result<Device> {
    if let Some(number) = name.strip_prefix("cuda:") {
        let ordinal: usize = number
            .parse()
            .ok()
            .with_context(|| format!("--device: expected a number after cuda:, got {number:?}"))?;
        ensure!(
            candle_core::utils::cuda_is_available(),
            "--device {name}: this build of galley has no CUDA support"
        );
        return Device::new_cuda(ordinal).with_context(|| format!("--device {name}"));
    }
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Device::cuda_if_available(0).context("--device auto"),
        _ => bail!("--device: expected auto, cpu or cuda:N, got {name:?}"),
    }
}

fn dtype(wanted: DtypeArg, devices: &[Device]) -> anyhow::Result<DType> {
    let cpu = devices.iter().any(Device::is_cpu);
    match wanted {
        DtypeArg::F32 => Ok(DType::F32),
        DtypeArg::Auto => Ok(if cpu { DType::F32 } else { DType::F16 }),
        DtypeArg::F16 | DtypeArg::Bf16 if cpu => bail!("--dtype: the CPU runs f32 only"),
        DtypeArg::F16 => Ok(DType::F16),
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
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn config(args: &str) -> anyhow::Result<ServeConfig> {
        let cli = Cli::try_parse_from(format!("galley serve {args}").split_whitespace())?;
        match cli.command {
            Command::Serve(args) => ServeConfig::new(&args),
            other => panic!("expected serve, got {other:?}"),
        }
    }

    #[test]
    fn without_arguments_the_bundled_recipes_run_on_the_cpu() {
        let config = config("").unwrap();
        let names: Vec<_> = config.recipes.iter().map(|entry| entry.name).collect();
        assert_eq!(names, galley_catalog::DEFAULT_RECIPES);
        assert!(config.recipes.iter().all(|entry| entry.bundled.is_some()));
        assert_eq!(config.address.to_string(), "127.0.0.1:8080");
        assert_eq!(config.model.dtype, DType::F32);
        assert_eq!(config.engine.max_batch_size, None);
        assert_eq!(config.http.max_body, 32 << 20);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (args, named) in [
            ("--recipes nonsense", "nonsense"),
            ("--recipes echo,echo", "twice"),
            ("--device tpu", "--device"),
            ("--device cuda:x", "cuda:"),
            ("--dtype f16", "--dtype"),
            ("--timeout 0s", "--timeout"),
            ("--timeout 5parsecs", "--timeout"),
            ("--max-batch-size 0", "--max-batch-size"),
            ("--max-queue-size 0", "--max-queue-size"),
            ("--max-body lots", "--max-body"),
            ("--option sleep=1s", "--option"),
            ("--recipes echo --option other.sleep=1s", "other"),
            ("--weights synthetic:x", "--weights"),
            ("--recipes echo,deepsegment_en --weights .", "--weights"),
        ] {
            let error = format!("{:#}", config(args).expect_err(args));
            assert!(error.contains(named), "{args}: {error}");
        }
    }

    #[test]
    fn an_option_needs_no_recipe_where_there_is_only_one() {
        for args in [
            "--recipes echo --option sleep=5ms",
            "--recipes echo --option echo.sleep=5ms",
        ] {
            let config = config(args).unwrap();
            assert_eq!(
                config.model.load_options("echo", &Device::Cpu).options["sleep"],
                "5ms"
            );
        }
    }
}
