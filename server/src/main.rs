//! The `galley` command: parses, validates and hands over.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context;
use galley::{
    cli::{Command, ServeArgs},
    config::{ModelConfig, ServeConfig},
    health::{self, HealthConfig},
    jobs::JobTable,
    log::Log,
    predict, pull, recipes_table, serve, service_links,
    signals::Signals,
    stream::{
        self, StreamArgs, StreamCommand, StreamConfig,
        broker::{feed, setup},
    },
};
use galley_core::LoadError;

/// The exit status of wrong configuration, as clap has it for wrong arguments.
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let (cli, ignored) = service_links::parse();
    let result = Log::start(&cli.log, cli.log_format)
        .map_err(wrong)
        .and_then(|log| {
            service_links::warn(&ignored);
            let result = run(cli.command);
            log.finish();
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { error, status }) => {
            // Nobody may be reading; the status says it too.
            let _ = writeln!(io::stderr(), "galley: {}", sentence(&error));
            ExitCode::from(status)
        }
    }
}

struct Failure {
    error: anyhow::Error,
    status: u8,
}

impl From<anyhow::Error> for Failure {
    /// A recipe that does not exist, or cannot be had as asked for, is wrong configuration whichever command meets it.
    fn from(error: anyhow::Error) -> Self {
        let of_bench = matches!(
            error.downcast_ref(),
            Some(galley_loadgen::Error::Load(_) | galley_loadgen::Error::Option { .. })
        );
        let status = match of_bench || error.is::<LoadError>() {
            true => WRONG_CONFIGURATION,
            false => 1,
        };
        Self { error, status }
    }
}

/// An error with its causes, none of them twice: some errors' own messages end with their cause's.
fn sentence(error: &anyhow::Error) -> String {
    let messages = error.chain().map(ToString::to_string);
    let one = |message: String, cause: String| match message.ends_with(&cause) {
        true => message,
        false => format!("{message}: {cause}"),
    };
    messages.reduce(one).unwrap_or_default()
}

fn wrong(error: impl Into<anyhow::Error>) -> Failure {
    Failure {
        error: error.into(),
        status: WRONG_CONFIGURATION,
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => {
            log_panics_without_their_message();
            let runtime = tokio::runtime::Runtime::new().map_err(anyhow::Error::from)?;
            let result = runtime.block_on(serve(args));
            // After a signal weights may still be loading, or a batch running; nobody waits for them any more.
            runtime.shutdown_background();
            result
        }
        Command::Predict(args) => {
            let entry = galley_catalog::find(&args.recipe).map_err(wrong)?;
            let config = ModelConfig::new(&args.model, &[entry]).map_err(wrong)?;
            config.start_threads()?;
            Ok(predict::run(&args, &config, &mut std::io::stdout().lock())?)
        }
        Command::Stream(StreamCommand::Run(args)) => {
            log_panics_without_their_message();
            let runtime = tokio::runtime::Runtime::new().map_err(anyhow::Error::from)?;
            let result = runtime.block_on(stream(args));
            runtime.shutdown_background();
            result
        }
        Command::Stream(StreamCommand::Setup(args)) => Ok(block_on(setup::run(&args))?),
        Command::Feed(args) => Ok(block_on(feed::run(&args))?),
        Command::Recipes(args) => Ok(recipes_table::run(&args)?),
        Command::Pull(args) => Ok(pull::run(&args)?),
        Command::Bench(args) => match galley_loadgen::run(&args.command, &bench_context()) {
            Err(error) if has_no_reader(&error) => Ok(()),
            result => Ok(result?),
        },
        Command::Health(args) => Ok(health::run(&HealthConfig::new(&args).map_err(wrong)?)?),
    }
}

/// Waits for what needs no more than one thread.
fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(future);
    // A thread may still read a list that nobody wants.
    runtime.shutdown_background();
    result
}

/// Whether a benchmark ended because nobody reads its output any more.
fn has_no_reader(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref();
    error.is_some_and(galley_loadgen::Error::has_no_reader)
}

/// Serves; a signal ends it at any time, from the first moment on.
async fn serve(args: Box<ServeArgs>) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    // Weights may take minutes, and reading them is not to be interrupted half way.
    let loading = async {
        let config = tokio::task::spawn_blocking(move || ServeConfig::new(&args)).await;
        let mut config = config.map_err(anyhow::Error::from)?.map_err(wrong)?;
        config.model.start_threads()?;
        if let Some(jobs) = &config.jobs {
            let table = JobTable::open(jobs).await.context("--jobs");
            config.http.jobs = Some(table.map_err(wrong)?);
        }
        let own = config.clone();
        let load = move || serve::load(&own.recipes, &own.model, own.batches_in_flight);
        let devices = tokio::task::spawn_blocking(load).await;
        let devices = devices.map_err(anyhow::Error::from)?.map_err(wrong)?;
        Ok::<_, Failure>((config, devices))
    };
    let (config, devices) = tokio::select! {
        loaded = loading => loaded?,
        () = signals.end() => {
            tracing::info!("ended while loading");
            return Ok(());
        }
    };
    Ok(serve::run(config, devices, signals).await?)
}

/// Streams; a signal ends it at any time, from the first moment on.
async fn stream(args: Box<StreamArgs>) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let loading = async {
        let config = StreamConfig::new(&args).map_err(wrong)?;
        config.model.start_threads()?;
        let table = stream::open(&config).await.map_err(wrong)?;
        let own = config.clone();
        let load = move || serve::load(&[own.entry], &own.model, own.batches_in_flight);
        let devices = tokio::task::spawn_blocking(load).await;
        let devices = devices.map_err(anyhow::Error::from)?.map_err(wrong)?;
        Ok::<_, Failure>((config, table, devices))
    };
    let (config, table, devices) = tokio::select! {
        loaded = loading => loaded?,
        () = signals.end() => {
            tracing::info!("ended while loading");
            return Ok(());
        }
    };
    Ok(stream::run(config, table, devices, signals).await?)
}

fn bench_context() -> galley_loadgen::Context {
    galley_loadgen::Context {
        // A build outside a checkout, such as an image's, is told its commit by the environment; in a checkout the
        // benchmark finds it by itself.
        commit: option_env!("GALLEY_COMMIT").map(Into::into),
        ..galley_loadgen::Context::default()
    }
}

/// A panic's message may quote the request that brought it about, which is no matter for a log; its place says enough.
fn log_panics_without_their_message() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name(), "panicked");
    }));
}
