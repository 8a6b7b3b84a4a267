//! The command line of `galley bench load`.

use std::{fmt, num::NonZeroUsize, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};

use super::{OutputArgs, RecipeArgs, TargetArgs, target::duration};

/// `galley bench load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Objectives: a percentile of the latency and its limit, for instance p99=50ms; may be several
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "pNN=TIME",
        required_unless_present_any = ["rates", "replay"],
        env = "GALLEY_BENCH_SLO"
    )]
    pub slo: Vec<Objective>,
    /// When requests come
    #[arg(
        long,
        value_enum,
        default_value = "poisson",
        env = "GALLEY_BENCH_ARRIVALS"
    )]
    pub arrivals: ArrivalProcess,
    /// The seed of the arrivals
    #[arg(long, default_value = "1", env = "GALLEY_BENCH_SEED")]
    pub seed: u64,
    /// Offer these rates, in requests a second, and search for none
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "REQUESTS_PER_SECOND",
        conflicts_with = "replay",
        env = "GALLEY_BENCH_RATES"
    )]
    pub rates: Vec<f64>,
    /// Send at the times that this file has, a line each: CSV whose first column it is, or JSON with a key `time`, in seconds or as
    /// a date
    #[arg(long, value_name = "FILE", env = "GALLEY_BENCH_REPLAY")]
    pub replay: Option<PathBuf>,
    /// Examples in a request
    #[arg(long, default_value = "1", env = "GALLEY_BENCH_BATCH")]
    pub batch: NonZeroUsize,
    /// Distinct examples, which are sent in turn
    #[arg(long, default_value = "1024", env = "GALLEY_BENCH_EXAMPLES")]
    pub examples: NonZeroUsize,
    /// How often the search is made, each with other arrivals
    #[arg(long, default_value = "1", env = "GALLEY_BENCH_REPEATS")]
    pub repeats: NonZeroUsize,
    /// The longest that a rate is offered, though its percentile be not known to 5 % then
    #[arg(long, default_value = "60s", value_parser = duration, env = "GALLEY_BENCH_LONGEST")]
    pub longest: Duration,
    /// The server's name in reports and plots [default: galley, or with --url server]
    #[arg(long, value_name = "NAME", env = "GALLEY_BENCH_LABEL")]
    pub label: Option<String>,
    /// The server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Where the figures go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// When requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArrivalProcess {
    /// As from many callers who know nothing of each other: gaps are exponential.
    Poisson,
    /// In equal gaps.
    Uniform,
}

impl ArrivalProcess {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Uniform => "uniform",
        }
    }
}

/// A service level objective: so many percent of all requests are answered well within a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// From 50 to below 100.
    pub percent: f64,
    /// From when a request was due.
    pub limit: Duration,
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("expected a percentile and its limit such as p99=50ms, got {text:?}");
        let (percentile, limit) = text.split_once('=').ok_or_else(expected)?;
        let percent = percentile
            .strip_prefix('p')
            .and_then(|percent| percent.parse().ok())
            .filter(|percent| (50.0..100.0).contains(percent))
            .ok_or_else(|| format!("{}, a percentile from p50 to below p100", expected()))?;
        let limit = duration(limit)?;
        if limit.is_zero() {
            return Err(format!("{}, a limit above 0", expected()));
        }
        Ok(Self { percent, limit })
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = humantime::format_duration(self.limit).to_string();
        write!(f, "p{}={}", self.percent, limit.replace(' ', ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_read_back_as_they_print() {
        for text in ["p99=50ms", "p99.9=1s200ms", "p50=3us"] {
            assert_eq!(text.parse::<Objective>().unwrap().to_string(), text);
        }
        for text in [
            "", "p99", "99=50ms", "p100=1s", "p0=1s", "pNaN=1s", "p99=50", "p99=0s", "p99=",
        ] {
            assert!(text.parse::<Objective>().is_err(), "{text}");
        }
    }
}
