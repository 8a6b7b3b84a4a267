//! The command lines of what reads earlier runs: `galley bench report` and `galley bench history`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `galley bench report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Folders of earlier runs
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Put their comparisons, or their loads, of one recipe together, in this folder
    #[arg(long, value_name = "DIR", env = "GALLEY_BENCH_REPORT_OUT")]
    pub out: Option<PathBuf>,
}

/// `galley bench history`.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// Folders of runs, or folders that hold such
    #[arg(default_value = "bench-results", value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// What machines cost an hour, in TOML; docs/benchmarks.md has an example [default: no costs]
    #[arg(long, value_name = "FILE", env = "GALLEY_BENCH_PRICES")]
    pub prices: Option<PathBuf>,
    /// The folder for history.md, history.html and history.json [default: the first DIR]
    #[arg(long, value_name = "DIR", env = "GALLEY_BENCH_HISTORY_OUT")]
    pub out: Option<PathBuf>,
    /// End with exit status 1 where a ratio is worse than it was
    #[arg(long, value_enum, value_name = "WHAT", env = "GALLEY_BENCH_FAIL_ON")]
    pub fail_on: Option<FailOn>,
}

/// What a benchmark fails for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A ratio of figures of one sitting that is worse than it was.
    Regression,
}
