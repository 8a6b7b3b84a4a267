//! `galley stream` as typed.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use bytesize::ByteSize;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

use super::broker::setup::SetupArgs;
use crate::{
    cli::{BatchingArgs, ModelArgs},
    host::Host,
};

/// `galley stream`, or what is done once before it.
///
/// By hand, as clap's own way would take a setting of the environment, which both may have, for a stream that lacks the rest.
#[derive(Clone, Debug)]
pub enum StreamCommand {
    /// `galley stream setup`.
    Setup(Box<SetupArgs>),
    /// `galley stream RECIPE`.
    Run(Box<StreamArgs>),
}

impl FromArgMatches for StreamCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Ok(match matches.subcommand_matches(SETUP) {
            Some(matches) => Self::Setup(Box::new(SetupArgs::from_arg_matches(matches)?)),
            None => Self::Run(Box::new(StreamArgs::from_arg_matches(matches)?)),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for StreamCommand {
    fn augment_args(command: Command) -> Command {
        let setup = SetupArgs::augment_args(Command::new(SETUP));
        StreamArgs::augment_args(command)
            .subcommand(setup)
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true)
            .disable_help_subcommand(true)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

const SETUP: &str = "setup";

/// `galley stream`.
#[derive(Args, Clone, Debug)]
pub struct StreamArgs {
    /// The recipe
    #[arg(env = "GALLEY_RECIPE")]
    pub recipe: String,
    /// Where messages come from: a file, or - for stdin, each line of which is one; or nats://USER:PASSWORD@HOST:PORT/STREAM, where
    /// login and port may be left out (tls:// to have it encrypted). A message is for image recipes a path or URI (file, http,
    /// https, s3, gs, az), for text recipes a text; or an object in JSON with uri or text, and perhaps an id
    #[arg(
        long,
        env = "GALLEY_STREAM_FROM",
        value_name = "SOURCE",
        hide_env_values = true
    )]
    pub from: String,
    /// The consumer of a NATS stream, which all workers share [default: galley-RECIPE]
    #[arg(long, env = "GALLEY_STREAM_CONSUMER", value_name = "NAME")]
    pub consumer: Option<String>,
    /// Where rows go: a file, which becomes an SQLite database, or postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(
        long,
        env = "GALLEY_STREAM_TO",
        value_name = "TABLE",
        hide_env_values = true
    )]
    pub to: String,
    /// What may be fetched: a folder, https://HOST/PATH, s3://BUCKET/PATH, or https: for all public hosts; several separated by
    /// commas. Nothing else is, but that a list may name any file. A host that is not public has to be named by its address
    #[arg(
        long,
        env = "GALLEY_ALLOW",
        value_delimiter = ',',
        value_name = "PREFIX",
        help_heading = "Fetching"
    )]
    pub allow: Vec<String>,
    /// The most inputs that are fetched at a time
    #[arg(
        long,
        env = "GALLEY_FETCHES",
        default_value = "64",
        value_name = "N",
        help_heading = "Fetching"
    )]
    pub fetches: NonZeroUsize,
    /// How long a server may take to answer, and again to send what it has
    #[arg(
        long, env = "GALLEY_FETCH_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration,
        value_name = "TIME", help_heading = "Fetching"
    )]
    pub fetch_timeout: Duration,
    /// How often a message is tried, and how many processes may die of it; then it is given up
    #[arg(
        long,
        env = "GALLEY_ATTEMPTS",
        default_value = "5",
        value_name = "N",
        help_heading = "Fetching"
    )]
    pub attempts: NonZeroU32,
    /// How long after each attempt that failed the next one is made; the last one counts for all after it
    #[arg(
        long, env = "GALLEY_RETRY_DELAYS", default_value = "1s,5s,30s,2m", value_parser = humantime::parse_duration,
        value_delimiter = ',', value_name = "TIMES", help_heading = "Fetching"
    )]
    pub retry_delays: Vec<Duration>,
    /// Which model runs, and on what.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How batches are made.
    #[command(flatten)]
    pub batching: BatchingArgs,
    /// The most bytes of an input
    #[arg(
        long,
        env = "GALLEY_MAX_BODY",
        default_value = "32MiB",
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub max_body: ByteSize,
    /// The most bytes of inputs in memory; what does not fit waits
    #[arg(
        long,
        env = "GALLEY_MAX_BUFFERED",
        default_value = "1GiB",
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub max_buffered: ByteSize,
    /// The most messages that are in hand; within it their number follows the rate at which rows are written
    #[arg(
        long,
        env = "GALLEY_MAX_IN_HAND",
        default_value = "16384",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub max_in_hand: NonZeroUsize,
    /// The port for /metrics, /livez and /readyz; 0 takes a free one, which the log names [default: none]
    #[arg(long, env = "GALLEY_METRICS_PORT", value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// The address of that port
    #[arg(long, env = "GALLEY_HOST", default_value = "127.0.0.1")]
    pub host: Host,
    /// What an hour of this machine costs, for the summary
    #[arg(long, env = "GALLEY_PRICE_PER_HOUR", value_name = "PRICE")]
    pub price_per_hour: Option<f64>,
    /// How long finishing what is in hand may take after SIGTERM or Ctrl-C
    #[arg(
        long, env = "GALLEY_DRAIN_TIMEOUT", default_value = "60s", value_parser = humantime::parse_duration,
        value_name = "TIME"
    )]
    pub drain_timeout: Duration,
}
