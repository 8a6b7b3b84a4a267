//! The command line as typed. [`crate::config`] turns it into what is valid.

mod access;
mod jobs;
mod model;
mod objective;

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::access::AccessArgs;
pub use self::jobs::JobsArgs;
pub use self::model::{AutoSize, BatchingArgs, DtypeArg, ModelArgs};
pub use self::objective::Objective;

use crate::{
    host::Host,
    pull::PullArgs,
    recipes_table::RecipesArgs,
    stream::{StreamCommand, broker::feed::FeedArgs},
};

/// Serve models over HTTP, batching the requests of many callers, and measure what serving costs.
///
/// A recipe is a model together with its pre- and post-processing. `galley recipes` lists them; those with bundled
/// weights need no network. Every flag can also be set by the environment variable shown with it.
#[derive(Parser, Debug)]
#[command(name = "galley", version, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What is logged to stderr: error, warn, info, debug or trace, also by module (`info,galley::http=debug`). Of others'
    /// crates there is never more than info, as they may log what callers send
    #[arg(
        long,
        global = true,
        env = "GALLEY_LOG",
        default_value = "info,goose=warn,async_nats=warn",
        value_name = "FILTER",
        help_heading = "Logging"
    )]
    pub log: String,
    /// How log lines look
    #[arg(
        long,
        global = true,
        env = "GALLEY_LOG_FORMAT",
        default_value = "text",
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Serve recipes over HTTP
    ///
    /// Without arguments: the recipes with bundled real weights, on the CPU, at http://127.0.0.1:8080. When ready, one
    /// line on stdout says where. Ctrl-C or SIGTERM drains: no new requests, the accepted ones are answered.
    ///
    /// A client that ends its side of a connection together with its request (nc -N, socat) is answered; one that ends it
    /// later has gone, and what it asked for is not computed any more.
    #[command(after_help = "Examples:
  galley serve
  galley serve --recipes echo --port 9000 --option echo.sleep=5ms
  curl -F image=@photo.jpg http://127.0.0.1:8080/recipes/efficientnet_lite0/infer
  curl -d '[\"i came i saw i conquered\"]' http://127.0.0.1:8080/recipes/deepsegment_en/infer")]
    Serve(Box<ServeArgs>),
    /// Answer inputs on the command line, without a server
    ///
    /// Prints one JSON line for each input, in order.
    #[command(after_help = "Examples:
  galley predict efficientnet_lite0 photo.jpg other.png
  galley predict transformers_ner 'My name is Sarah Johnson and I live in Portland.'
  cat lines.txt | galley predict deepsegment_en -
  galley predict efficientnet_b0 --weights synthetic:1000 --raw pixels.safetensors")]
    Predict(PredictArgs),
    /// Answer what a list or a queue names, each once, into a table
    ///
    /// Every message gets one row in the table galley_answers: its answer, or why there is none. What has a row is not done
    /// again, so a run that was interrupted, however that was, goes on where it was. Ctrl-C or SIGTERM finishes what is in hand.
    /// Exit status 1: something was given up.
    #[command(after_help = "Examples:
  ls *.jpg | galley stream efficientnet_lite0 --from - --to answers.db
  galley stream efficientnet_lite0 --from uris.txt --to answers.db --allow s3://my-images/
  galley stream deepsegment_en --from texts.txt --to answers.db --metrics-port 9090
  galley stream setup efficientnet_lite0 --from nats://localhost/IMAGES
  galley stream efficientnet_lite0 --from nats://localhost/IMAGES --to postgres://me@localhost/answers --allow s3://my-images/
  sqlite3 answers.db 'select uri, status, answer from galley_answers'")]
    Stream(StreamCommand),
    /// Publish a list to a stream of NATS JetStream, for `galley stream`
    ///
    /// Each line goes under an id, its own if it is an object in JSON that has one, or else its digest: what is published twice
    /// is one message. Ends once the broker has said of each that it has it.
    #[command(after_help = "Examples:
  ls /data/*.jpg | galley feed - --to nats://localhost/IMAGES
  galley feed uris.txt --to nats://localhost/IMAGES --rate 250/s")]
    Feed(FeedArgs),
    /// List the recipes, their weights and what is present
    Recipes(RecipesArgs),
    /// Download a recipe's weights from the Hugging Face hub
    Pull(PullArgs),
    /// Measure a recipe in process and over HTTP, and what serving it costs
    Bench(Box<galley_loadgen::BenchArgs>),
    /// Ask a running server whether it takes requests: exit status 0 if so, 1 if not
    ///
    /// For the health checks of containers. In the environment of a `galley serve` it finds that server by itself.
    #[command(after_help = "Examples:
  galley health
  galley health --url https://galley.example.com --timeout 2s")]
    Health(HealthArgs),
}

/// `galley serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The recipes to serve, separated by commas [default: those with bundled weights]
    #[arg(
        long,
        env = "GALLEY_RECIPES",
        value_delimiter = ',',
        value_name = "NAMES"
    )]
    pub recipes: Vec<String>,
    /// The address to listen on, or a name (localhost) that has one: of several the first of IPv4
    #[arg(long, env = "GALLEY_HOST", default_value = "127.0.0.1")]
    pub host: Host,
    /// The port to listen on; 0 takes a free one
    #[arg(long, env = "GALLEY_PORT", default_value_t = 8080)]
    pub port: u16,
    /// The port to listen on for gRPC (Open Inference Protocol), at the same address; 0 takes a free one [default: no gRPC]
    #[arg(long, env = "GALLEY_GRPC_PORT", value_name = "PORT")]
    pub grpc_port: Option<u16>,
    /// Which model runs, and on what.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How batches are made.
    #[command(flatten)]
    pub batching: BatchingArgs,
    /// Within what time requests are to be answered, of all recipes (50ms) or of one (RECIPE=50ms); may be repeated. What
    /// cannot be by what is predicted is refused at once, and batches stay small enough for it [default: no objective]
    #[arg(
        long,
        env = "GALLEY_SLO",
        value_delimiter = ',',
        value_name = "[RECIPE=]TIME",
        help_heading = "Batching"
    )]
    pub slo: Vec<Objective>,
    /// How long an answer may take; a request may ask for less
    #[arg(
        long, env = "GALLEY_TIMEOUT", default_value = "60s", value_parser = humantime::parse_duration, value_name = "TIME",
        help_heading = "Limits"
    )]
    pub timeout: Duration,
    /// The most bytes of a request's body
    #[arg(
        long,
        env = "GALLEY_MAX_BODY",
        default_value = "32MiB",
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub max_body: ByteSize,
    /// The most bytes that a compressed body may decompress to [default: four times --max-body]
    #[arg(
        long,
        env = "GALLEY_MAX_DECOMPRESSED",
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub max_decompressed: Option<ByteSize>,
    /// The most bytes of bodies, and of answers that are not sent yet, that all requests together may hold; past it they are
    /// answered 429, and bodies that come too slowly give way
    #[arg(
        long,
        env = "GALLEY_MAX_BUFFERED",
        default_value = "1GiB",
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub max_buffered: ByteSize,
    /// How long a body may make no progress; its request is then answered 408
    #[arg(
        long, env = "GALLEY_BODY_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration,
        value_name = "TIME", help_heading = "Limits"
    )]
    pub body_timeout: Duration,
    /// How long a client may take nothing of its answer; its connection is then closed
    #[arg(
        long, env = "GALLEY_WRITE_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration,
        value_name = "TIME", help_heading = "Limits"
    )]
    pub write_timeout: Duration,
    /// How long a connection may stay idle between two requests. A balancer in front is to close its idle connections
    /// sooner, or requests are lost that it sends in that moment
    #[arg(
        long, env = "GALLEY_KEEP_ALIVE_TIMEOUT", default_value = "75s", value_parser = humantime::parse_duration,
        value_name = "TIME", help_heading = "Limits"
    )]
    pub keep_alive_timeout: Duration,
    /// How long a client may take to send a request's header, from its first byte, and a new connection its first one
    #[arg(
        long, env = "GALLEY_HEADER_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration,
        value_name = "TIME", help_heading = "Limits"
    )]
    pub header_timeout: Duration,
    /// The most connections at a time. Past it others take the place of those that have waited for their clients for
    /// longest, or wait; probes are answered all the same
    #[arg(
        long,
        env = "GALLEY_MAX_CONNECTIONS",
        default_value = "4096",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub max_connections: NonZeroUsize,
    /// How long the results of requests with a unique_id of the client's are kept
    #[arg(
        long, env = "GALLEY_RESULT_TTL", default_value = "10m", value_parser = humantime::parse_duration, value_name = "TIME",
        help_heading = "Limits"
    )]
    pub result_ttl: Duration,
    /// The most results that are kept
    #[arg(
        long,
        env = "GALLEY_MAX_RESULTS",
        default_value = "10000",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub max_results: NonZeroUsize,
    /// Where jobs are kept.
    #[command(flatten)]
    pub jobs: JobsArgs,
    /// Who may ask, and over what.
    #[command(flatten)]
    pub access: AccessArgs,
    /// A collector's OTLP port over HTTP (http://localhost:4318) that traces of requests are sent to; without it there are
    /// none. OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS and OTEL_SERVICE_NAME work as usual
    #[arg(
        long,
        env = "GALLEY_OTLP_ENDPOINT",
        value_name = "URL",
        help_heading = "Logging"
    )]
    pub otlp_endpoint: Option<String>,
    /// How long draining may take before the server ends anyway; five seconds more than --timeout unless set, so that what
    /// was accepted last is answered too
    #[arg(long, env = "GALLEY_DRAIN_TIMEOUT", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub drain_timeout: Option<Duration>,
    /// How long connections without a request stay open in a drain, so that their clients' next ones read that the server
    /// goes away
    #[arg(
        long, env = "GALLEY_DRAIN_LINGER", default_value = "500ms", value_parser = humantime::parse_duration,
        value_name = "TIME"
    )]
    pub drain_linger: Duration,
    /// How long requests are still taken after SIGTERM or Ctrl-C, while /readyz answers 503 already: the time that a load
    /// balancer needs to look elsewhere. A second signal ends it
    #[arg(
        long, env = "GALLEY_DRAIN_DELAY", default_value = "0s", value_parser = humantime::parse_duration,
        value_name = "TIME"
    )]
    pub drain_delay: Duration,
}

/// `galley predict`.
#[derive(Args, Clone, Debug)]
pub struct PredictArgs {
    /// The recipe
    #[arg(env = "GALLEY_RECIPE")]
    pub recipe: String,
    /// Image recipes: files, or - for one file on stdin. Text recipes: texts, JSON objects ({"text": ...}), @FILE for a
    /// file's text, or - for one text a line on stdin
    #[arg(required_unless_present = "raw", value_name = "INPUT")]
    pub inputs: Vec<String>,
    /// Run the model on its own input tensors: a safetensors file with `pixels` [n, 3, h, w] for image recipes, or
    /// `input_ids` and `attention_mask` [n, l] for transformers; prints the raw outputs, one JSON line an item
    #[arg(
        long,
        env = "GALLEY_RAW",
        value_name = "FILE",
        conflicts_with = "inputs"
    )]
    pub raw: Option<PathBuf>,
    /// The most inputs that are run together
    #[arg(
        long,
        env = "GALLEY_PREDICT_BATCH",
        default_value = "32",
        value_name = "N"
    )]
    pub batch: NonZeroUsize,
    /// Which model runs, and on what.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// `galley health`.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// The server's address [default: that of a `galley serve` with the same --host, --port and --tls-cert]
    #[arg(long, env = "GALLEY_HEALTH_URL", value_name = "URL")]
    pub url: Option<String>,
    /// The address that the server listens on
    #[arg(long, env = "GALLEY_HOST", default_value = "127.0.0.1")]
    pub host: Host,
    /// The port that the server listens on
    #[arg(long, env = "GALLEY_PORT", default_value_t = 8080)]
    pub port: u16,
    /// The server has a certificate, and so speaks https. The file is not read: on this machine's loopback any
    /// certificate will do
    #[arg(long, env = "GALLEY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// How long the answer may take
    #[arg(
        long, env = "GALLEY_HEALTH_TIMEOUT", default_value = "5s", value_parser = humantime::parse_duration,
        value_name = "TIME"
    )]
    pub timeout: Duration,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let name = arg.get_id().as_str();
                if arg.get_long().is_some() && !["help", "version"].contains(&name) {
                    let variable = arg
                        .get_env()
                        .and_then(|name| name.to_str())
                        .unwrap_or_default();
                    assert!(
                        variable.starts_with("GALLEY_"),
                        "{} --{name} has no variable",
                        command.get_name()
                    );
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
