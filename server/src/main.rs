//! The `galley` command: parses, validates and hands over.

use std::{io::IsTerminal, process::ExitCode};

use galley::{
    cli::{Cli, Command, LogFormat},
    config::{ModelConfig, ServeConfig},
    health::{self, HealthConfig},
    predict, pull, recipes_table, serve, service_links,
};
use galley_core::LoadError;
use tracing_subscriber::EnvFilter;

/// The exit status of wrong configuration, as clap has it for wrong arguments.
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let (cli, ignored) = service_links::parse();
    let result = start_logging(&cli).and_then(|()| {
        service_links::warn(&ignored);
        run(cli.command)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { error, status }) => {
            eprintln!("galley: {}", sentence(&error));
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
            let config = ServeConfig::new(&args).map_err(wrong)?;
            log_panics_without_their_message();
            config.model.start_threads()?;
            let devices = serve::load(&config).map_err(wrong)?;
            let runtime = tokio::runtime::Runtime::new().map_err(anyhow::Error::from)?;
            let result = runtime.block_on(serve::run(config, devices));
            // After a second signal a batch may still be running; nobody waits for it any more.
            runtime.shutdown_background();
            Ok(result?)
        }
        Command::Predict(args) => {
            let entry = galley_catalog::find(&args.recipe).map_err(wrong)?;
            let config = ModelConfig::new(&args.model, &[entry]).map_err(wrong)?;
            config.start_threads()?;
            Ok(predict::run(&args, &config, &mut std::io::stdout().lock())?)
        }
        Command::Recipes(args) => Ok(recipes_table::run(&args)?),
        Command::Pull(args) => Ok(pull::run(&args)?),
        Command::Bench(args) => Ok(galley_loadgen::run(&args.command, &bench_context())?),
        Command::Health(args) => Ok(health::run(&HealthConfig::new(&args).map_err(wrong)?)?),
    }
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

fn start_logging(cli: &Cli) -> Result<(), Failure> {
    let filter =
        EnvFilter::try_new(&cli.log).map_err(|error| wrong(anyhow::anyhow!("--log: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
