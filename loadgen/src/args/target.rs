//! The server that a benchmark meets, on the command line.

use std::{net::IpAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use reqwest::Url;

use crate::report::cores;

/// How long a request may take, where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The server that is measured.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    /// A server that runs already, for instance http://127.0.0.1:8080 [default: start one]
    #[arg(long, env = "GALLEY_BENCH_URL")]
    pub url: Option<String>,
    /// How the server is asked; auto tries fastDeploy's protocol and then the Open Inference Protocol
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        env = "GALLEY_BENCH_PROTOCOL"
    )]
    pub protocol: ProtocolArg,
    /// What the server at --url calls the recipe [default: its own name]
    #[arg(
        long,
        value_name = "NAME",
        requires = "url",
        env = "GALLEY_BENCH_MODEL"
    )]
    pub model: Option<String>,
    /// The program to start as `PROGRAM serve ...` [default: this one]
    #[arg(
        long,
        value_name = "PROGRAM",
        conflicts_with = "url",
        env = "GALLEY_BENCH_SERVE_PROGRAM"
    )]
    pub serve_program: Option<PathBuf>,
    /// One more argument for `galley serve`, for instance --serve-arg=--max-batch-size=64; may be repeated
    #[arg(
        long = "serve-arg",
        value_name = "ARG",
        allow_hyphen_values = true,
        conflicts_with = "url",
        env = "GALLEY_BENCH_SERVE_ARG"
    )]
    pub serve_args: Vec<String>,
    /// How long a server that is started may take until it is ready
    #[arg(long, default_value = "5m", value_parser = duration, env = "GALLEY_BENCH_READY_TIMEOUT")]
    pub ready_timeout: Duration,
    /// How long a request may take before it counts as failed [default: 60s; for load ten times the longest objective, and at
    /// least 2s]
    #[arg(long, value_parser = duration, env = "GALLEY_BENCH_TIMEOUT")]
    pub timeout: Option<Duration>,
    /// Threads of the load generator [default: half of the cores, as a server beside it needs the others; all of them where --url
    /// names another machine]
    #[arg(long, env = "GALLEY_BENCH_CLIENT_THREADS")]
    pub client_threads: Option<NonZeroUsize>,
}

impl TargetArgs {
    /// How long a request may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }

    /// Threads of the load generator.
    pub(crate) fn client_threads(&self) -> usize {
        let beside = self.url.as_deref().is_none_or(is_here);
        self.client_threads
            .map_or_else(|| free(cores(), beside), NonZeroUsize::get)
    }
}

/// The cores that a client may take: a request costs a server more than who asks, so that with half of the cores the client is not what
/// bounds a server beside it.
fn free(cores: usize, beside: bool) -> usize {
    if beside { (cores / 2).max(1) } else { cores }
}

/// Whether a URL is of this machine, as far as its address says.
fn is_here(url: &str) -> bool {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtocolArg {
    /// Whatever it understands.
    Auto,
    /// fastDeploy's, which is galley's own.
    Fastdeploy,
    /// The Open Inference Protocol over REST, as Triton and KServe have it.
    Oip,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| {
        format!("expected a duration with its unit such as 60s or 500ms, got {text:?} ({error})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_takes_the_cores_that_no_server_beside_it_needs() {
        let threads = |cores| [free(cores, true), free(cores, false)];
        assert_eq!(
            [1, 2, 3, 16].map(threads),
            [[1, 1], [1, 2], [1, 3], [8, 16]]
        );
    }

    #[test]
    fn loopback_addresses_are_of_this_machine() {
        for url in [
            "http://localhost:80",
            "http://127.0.0.2/x",
            "http://[::1]:8080",
        ] {
            assert!(is_here(url), "{url}");
        }
        for url in [
            "http://localhost.example:80",
            "http://10.0.0.1",
            "http://[::2]",
            "127.0.0.1",
        ] {
            assert!(!is_here(url), "{url}");
        }
    }
}
