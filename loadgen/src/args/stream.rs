//! The command line of `galley bench stream`.

use std::{ffi::OsString, fmt, num::NonZeroUsize, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use tokio_postgres::{Config, config::SslMode};

use super::{OutputArgs, RecipeArgs, SizeArgs, target::duration};

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
    /// Where rows go: a file, which is or becomes an SQLite database, or postgres://USER:PASSWORD@HOST/DATABASE [default: a file
    /// in a temporary folder]
    #[arg(
        long,
        value_name = "TABLE",
        hide_env_values = true,
        env = "GALLEY_BENCH_TO"
    )]
    pub to: Option<StreamTable>,
    /// Publish so many messages a second while they are worked on, such as 60/s, to see how long each takes from being published
    /// to its row; from a broker only [default: all of them are there before]
    #[arg(long, value_name = "RATE", value_parser = rate, env = "GALLEY_BENCH_RATE")]
    pub rate: Option<f64>,
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

impl FromStr for StreamSource {
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

/// Where the rows of a benchmark go.
#[derive(Clone, PartialEq, Eq)]
pub enum StreamTable {
    /// A file.
    Sqlite(PathBuf),
    /// A PostgreSQL database, by its URL.
    Postgres(String),
}

impl StreamTable {
    /// As `galley stream --to` takes it.
    pub(crate) fn argument(&self) -> OsString {
        match self {
            Self::Sqlite(path) => path.into(),
            Self::Postgres(url) => url.into(),
        }
    }

    /// What records call it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }
}

/// Without the address, as it may hold a password.
impl fmt::Debug for StreamTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

impl FromStr for StreamTable {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("://") {
            None if text.is_empty() => {
                Err("expected a file or postgres://HOST/DATABASE, got nothing")
            }
            None => Ok(Self::Sqlite(text.into())),
            Some(("postgres" | "postgresql", _)) => {
                let config: Result<Config, _> = text.parse();
                match config.map(|config| config.get_ssl_mode()) {
                    Ok(SslMode::Disable | SslMode::Prefer) => Ok(Self::Postgres(text.to_owned())),
                    _ => Err(
                        "expected postgres://HOST/DATABASE, and not encrypted, as the benchmark reads the rows so",
                    ),
                }
            }
            Some(_) => Err("expected a file or postgres://HOST/DATABASE"),
        }
    }
}

/// A rate as `galley feed` takes it, in messages a second.
fn rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.strip_suffix("/s").unwrap_or(text).parse();
    let rate = rate
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or("expected a number of messages a second, such as 60/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_files_or_databases_and_passwords_are_not_repeated() {
        let table = |text: &str| text.parse::<StreamTable>();
        assert_eq!(table("a.db"), Ok(StreamTable::Sqlite("a.db".into())));
        let url = "postgres://me:secret@localhost/answers";
        assert_eq!(table(url), Ok(StreamTable::Postgres(url.into())));
        assert!(!format!("{:?}", table(url)).contains("secret"));
        for wrong in [
            "",
            "mysql://me:secret@localhost/x",
            "postgres://me:secret@host:port/x",
            "postgres://me:secret@localhost/x?sslmode=require",
            "postgres://me:secret@localhost/x?sslmode=verify-full",
        ] {
            let error = table(wrong).unwrap_err();
            assert!(
                error.contains("postgres://HOST") && !error.contains("secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_rate_is_a_number_a_second() {
        assert_eq!((rate("60/s"), rate("0.5")), (Ok(60.0), Ok(0.5)));
        for wrong in ["", "0/s", "-1", "60/m", "inf", "NaN/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
