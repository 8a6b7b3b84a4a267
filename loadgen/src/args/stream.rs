//! The command line of `galley bench stream`.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Args;

use super::{OutputArgs, RecipeArgs, SizeArgs, duration};

/// `galley bench stream`.
#[derive(Clone, Debug, Args)]
pub struct StreamBenchArgs {
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Where messages come from: list, or nats://HOST/STREAM, which is made if it is not there and should be empty; may be
    /// repeated
    #[arg(
        long,
        default_value = "list",
        value_name = "SOURCE",
        hide_env_values = true,
        env = "GALLEY_BENCH_FROM"
    )]
    pub from: Vec<StreamSource>,
    /// Where rows go: a file, which is or becomes an SQLite database [default: one in a temporary folder]
    #[arg(long, value_name = "TABLE", env = "GALLEY_BENCH_TO", value_parser = table)]
    pub to: Option<PathBuf>,
    /// Items in a native batch
    #[arg(long, default_value = "32", env = "GALLEY_BENCH_BATCH")]
    pub batch: NonZeroUsize,
    /// How much is run.
    #[command(flatten)]
    pub size: SizeArgs,
    /// The program to start as `PROGRAM stream ...` [default: this one]
    #[arg(long, value_name = "PROGRAM", env = "GALLEY_BENCH_STREAM_PROGRAM")]
    pub stream_program: Option<PathBuf>,
    /// One more argument for `galley stream`, for instance --stream-arg=--max-batch-size=64; may be repeated
    #[arg(
        long = "stream-arg",
        value_name = "ARG",
        allow_hyphen_values = true,
        env = "GALLEY_BENCH_STREAM_ARG"
    )]
    pub stream_args: Vec<String>,
    /// How long a worker that is started may take until it serves its metrics
    #[arg(long, default_value = "5m", value_parser = duration, env = "GALLEY_BENCH_READY_TIMEOUT")]
    pub ready_timeout: Duration,
    /// Where the figures go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where the messages of a benchmark come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamSource {
    /// A list in a file.
    List,
    /// A stream of NATS JetStream, by its URL.
    Nats(String),
}

impl std::str::FromStr for StreamSource {
    type Err = &'static str;

    /// The message does not repeat the text, as it may hold a password.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "list" => Ok(Self::List),
            _ if text.starts_with("nats://") || text.starts_with("tls://") => {
                Ok(Self::Nats(text.to_owned()))
            }
            _ => Err("expected list or nats://HOST/STREAM"),
        }
    }
}

/// A server's rows are not read here.
fn table(text: &str) -> Result<PathBuf, String> {
    match text.contains("://") {
        true => Err("expected a file".into()),
        false => Ok(text.into()),
    }
}
