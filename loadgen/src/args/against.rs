//! The command line of `galley bench against`.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::Args;
use galley_core::{DeviceName, WeightSource};

use super::{DtypeArg, FailOn, OutputArgs};

/// `galley bench against`.
#[derive(Clone, Debug, Args)]
pub struct AgainstArgs {
    /// Another build of galley
    #[arg(value_name = "OLD_BINARY")]
    pub old: PathBuf,
    /// Recipes [default: those with bundled weights]
    #[arg(value_name = "RECIPE")]
    pub recipes: Vec<String>,
    /// The build that is compared with it [default: this one]
    #[arg(long, value_name = "PROGRAM", env = "GALLEY_BENCH_NEW_PROGRAM")]
    pub new_program: Option<PathBuf>,
    /// Batch sizes: of a native batch, and examples in a request
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,32",
        env = "GALLEY_BENCH_BATCH"
    )]
    pub batch: Vec<NonZeroUsize>,
    /// Compare served passes too, each by a server that is started for it
    #[arg(long, env = "GALLEY_BENCH_SERVED")]
    pub served: bool,
    /// Requests in flight of served passes
    #[arg(long, default_value = "64", env = "GALLEY_BENCH_CONCURRENCY")]
    pub concurrency: NonZeroUsize,
    /// Rounds, in each of which both builds pass over all sizes: at least 6; from 12 on one disturbed pass says little
    #[arg(
        long,
        default_value = "12",
        value_parser = clap::value_parser!(u64).range(6..=200),
        env = "GALLEY_BENCH_ROUNDS"
    )]
    pub rounds: u64,
    /// Roughly the seconds of a pass over one size
    #[arg(long, default_value = "4", env = "GALLEY_BENCH_SECONDS")]
    pub seconds: f64,
    /// The most examples of a pass
    #[arg(long, default_value = "8192", env = "GALLEY_BENCH_EXAMPLES")]
    pub examples: NonZeroUsize,
    /// Where the weights come from: bundled, hub, synthetic, synthetic:SEED or a folder
    #[arg(long, default_value = "auto", env = "GALLEY_BENCH_WEIGHTS")]
    pub weights: WeightSource,
    /// The device that runs the model: auto, cpu or cuda:N
    #[arg(long, default_value = "cpu", env = "GALLEY_BENCH_DEVICE")]
    pub device: DeviceName,
    /// The dtype of the computation; auto is f16 on CUDA devices and f32 on the CPU
    #[arg(long, default_value = "auto", env = "GALLEY_BENCH_DTYPE")]
    pub dtype: DtypeArg,
    /// Threads of the CPU pool [default: all cores]
    #[arg(long, env = "GALLEY_BENCH_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// End with exit status 1 where this build is slower by more than 5 % and the interval of the ratio ends below 1
    #[arg(long, value_enum, value_name = "WHAT", env = "GALLEY_BENCH_FAIL_ON")]
    pub fail_on: Option<FailOn>,
    /// Where the figures go.
    #[command(flatten)]
    pub output: OutputArgs,
}
