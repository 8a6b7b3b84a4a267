//! The command line of `galley bench`, as typed.

mod against;
mod compare;
mod history;
mod load;
mod models;
mod stream;
mod target;
mod training;

use std::{num::NonZeroUsize, path::PathBuf};

use candle_core::{DType, Device};
use clap::{Args, Subcommand, ValueEnum};
use galley_core::{DeviceName, WeightSource, usual_dtype};

pub use self::{
    against::AgainstArgs,
    compare::{CompareArgs, Length},
    history::{FailOn, HistoryArgs, ReportArgs},
    load::{ArrivalProcess, LoadArgs, Objective},
    models::{Action, Framework, ModelsArgs, Precision},
    stream::{StreamBenchArgs, StreamSource, StreamTable},
    target::{ProtocolArg, TargetArgs},
    training::TrainingArgs,
};

/// Measure a recipe in process and over HTTP, and what serving it costs.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub enum BenchCommand {
    /// Run a recipe in this process, without a server
    ///
    /// The same three stages that the server runs: prepare (on all cores), forward, finish, one batch after another.
    /// Gives throughput with and without prepare, and the latency of a batch.
    #[command(after_help = "Examples:
  galley bench native transformers_ner --batch 1,32 --examples 1024
  galley bench native efficientnet_b2 --weights synthetic --no-prepare --batch 1,8 --shape 288 --json")]
    Native(NativeArgs),
    /// Send a recipe's corpus to a server, a fixed number of requests in flight
    ///
    /// A closed loop: each of the concurrent clients sends its next request when it has read the answer to its last.
    /// Every example is sent once and every answer is checked. Without --url a `galley serve` is started as a process
    /// of its own, and stopped afterwards.
    #[command(after_help = "Examples:
  galley bench served echo --batch 1 --concurrency 64
  galley bench served deepsegment_en --url http://127.0.0.1:8080 --concurrency 16,64")]
    Served(ServedArgs),
    /// Compare native and served runs over batch sizes and concurrencies: the table of what serving costs
    ///
    /// Native and served runs alternate, so that a machine that drifts does so for both. Writes a table, the raw
    /// records and a description of the machine and of the command into a folder of its own.
    #[command(after_help = "Examples:
  galley bench matrix transformers_ner
  galley bench matrix efficientnet_lite0 --seconds 600 --batch 1,32 --concurrency 16,64")]
    Matrix(MatrixArgs),
    /// Time the operators that recipes are made of, each at the shapes that recipes meet
    Operators(OperatorsArgs),
    /// Compare a recipe's logits in another dtype, or on another device, with those in f32 on the CPU, over its corpus
    ///
    /// Says for how many inputs the label of the highest logit stays what it was, and how far logits move.
    #[command(after_help = "Examples:
  galley bench agreement transformers_ner --dtype bf16
  galley bench agreement efficientnet_lite0 --dtype bf16 --examples 500
  galley bench agreement transformers_ner --device cuda:0")]
    Agreement(AgreementArgs),
    /// Compare `galley stream`, from a list or a broker into a table, with the same recipe in process
    ///
    /// Native and streamed passes alternate. Images are written to files first, so that fetching them is real. After each
    /// pass the rows are counted, and a sample of the answers is compared with those in process: a wrong row ends the run.
    #[command(after_help = "Examples:
  galley bench stream efficientnet_lite0 --examples 2048
  galley bench stream echo --examples 200000 --repeats 1
  galley bench stream efficientnet_lite0 --from list --from nats://127.0.0.1/BENCH
  galley bench stream efficientnet_lite0 --from nats://127.0.0.1/BENCH --to postgres://me@localhost/bench --rate 60/s")]
    Stream(StreamBenchArgs),
    /// Compare devices, dtypes and batch sizes: which is fastest, quickest, thriftiest, and what each costs
    ///
    /// A recipe runs in this process on each device, in each dtype, in batches of each size. What cannot run is a row that says so.
    /// Writes a report with recommendations, tables and plots, and the raw records.
    #[command(after_help = "Examples:
  galley bench compare distilbert_sst2 --weights synthetic --length 128
  galley bench compare efficientnet_b2 --devices cpu,cuda:0 --dtypes f32,bf16,f16 --batch 1,8,16,32,64,128
  galley bench report cpu-folder gpu-folder --out both")]
    Compare(CompareArgs),
    /// Run SuperBench's model benchmarks: its 42 models on random inputs, with its steps and its metrics
    ///
    /// Writes results-summary.jsonl, which SuperBench's own result tools read, and beside it a report with what it lacks: spread,
    /// TFLOP/s and the share of the device's peak, memory, energy, copies apart.
    #[command(after_help = "Examples:
  galley bench models --models resnet50,bert-base,gpt2-small --device cuda:0 --num-steps 512
  galley bench models --models all --device cuda:0 --batch-size 1 --framework pytorch
  galley bench models resnet18 --action train,inference --precision float32 --batch-size 8 --num-warmup 2 --num-steps 8
  galley bench report cnn-folder text-folder --out both")]
    Models(ModelsArgs),
    /// Find the highest rate at which a server keeps an objective, and draw its latency against the load that it is offered
    ///
    /// An open loop: requests come at their times whatever became of the others, and latency counts from when a request was due. What
    /// is refused, fails or is late counts against the rate. Without --url a `galley serve` is started, and stopped afterwards.
    #[command(after_help = "Examples:
  galley bench load transformers_ner --slo p99=50ms,p99=200ms --repeats 3
  galley bench load efficientnet_lite0 --slo p99=50ms --url http://127.0.0.1:8000 --protocol oip --label triton
  galley bench load transformers_ner --slo p99=50ms --replay times.csv
  galley bench report galley-folder triton-folder --out both")]
    Load(LoadArgs),
    /// Write the reports of earlier runs again, from their results.jsonl, or put parts of a comparison together
    ///
    /// Parts of a comparison may come from different machines; the report of all says so. Loads of several servers go on one plot.
    #[command(after_help = "Examples:
  galley bench report bench-results/*/
  galley bench report here there --out both")]
    Report(ReportArgs),
    /// What became of speed over earlier runs: by date, by version, and where the last is slower than those before
    ///
    /// Only figures of the same machine, recipe, weights, dtype, device and way of running are compared. Ratios of one sitting may
    /// fail a build; absolute figures, which drift with the machine, only warn.
    #[command(after_help = "Examples:
  galley bench history
  galley bench history bench-results --prices prices.toml --out history
  galley bench history --fail-on regression")]
    History(HistoryArgs),
    /// Compare this build with another one: passes of both in turn, and the ratio with its interval
    ///
    /// Above 1, this build is faster. Each pass is a process of its own, and which build goes first alternates.
    #[command(after_help = "Examples:
  galley bench against ../before/galley
  galley bench against galley-0.1.0 transformers_ner --batch 1,32 --served --rounds 20
  galley bench against main/galley --fail-on regression")]
    Against(AgainstArgs),
}

/// Which recipe, and how it is run.
#[derive(Clone, Debug, Args)]
pub struct RecipeArgs {
    /// The recipe; `galley recipes` lists them
    #[arg(env = "GALLEY_BENCH_RECIPE")]
    pub recipe: String,
    /// Where the weights come from: bundled, hub, synthetic, synthetic:SEED or a folder
    #[arg(long, default_value = "auto", env = "GALLEY_BENCH_WEIGHTS")]
    pub weights: WeightSource,
    /// The device that runs the model: auto, cpu or cuda:N
    #[arg(long, default_value = "cpu", env = "GALLEY_BENCH_DEVICE")]
    pub device: DeviceName,
    /// The dtype of the computation; auto is f16 on CUDA devices and f32 on the CPU
    #[arg(long, default_value = "auto", env = "GALLEY_BENCH_DTYPE")]
    pub dtype: DtypeArg,
    /// An option of the recipe's own, for instance sleep=5ms; may be repeated
    #[arg(
        long = "option",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        env = "GALLEY_BENCH_OPTION"
    )]
    pub options: Vec<String>,
    /// Threads of the CPU pool, here and in a server that is started [default: all cores]
    #[arg(long, env = "GALLEY_BENCH_THREADS")]
    pub threads: Option<NonZeroUsize>,
}

/// The dtypes that a benchmark can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// Whatever suits the device.
    Auto,
    /// 16-bit floating point; CUDA devices only.
    F16,
    /// 32-bit floating point.
    F32,
    /// Matrix products in 16-bit floating point with the range of f32; f32 elsewhere.
    Bf16,
}

impl DtypeArg {
    /// What it is on a device.
    pub(crate) fn on(self, device: &Device) -> DType {
        match self {
            Self::Auto => usual_dtype(device),
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// How much is run.
#[derive(Clone, Debug, Args)]
pub struct SizeArgs {
    /// Distinct examples in each run
    #[arg(long, default_value = "8192", env = "GALLEY_BENCH_EXAMPLES")]
    pub examples: NonZeroUsize,
    /// How often each run is repeated; tables show the mean
    #[arg(long, default_value = "3", env = "GALLEY_BENCH_REPEATS")]
    pub repeats: NonZeroUsize,
    /// Roughly the seconds that everything may take: with a slow recipe or machine, fewer examples are run, and the
    /// table says so [default: no limit]
    #[arg(long, env = "GALLEY_BENCH_SECONDS")]
    pub seconds: Option<f64>,
}

/// Where the figures go.
#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// The folder for the results [default: bench-results/DATE-MACHINE-RECIPE]
    #[arg(long, value_name = "DIR", env = "GALLEY_BENCH_OUT")]
    pub out: Option<PathBuf>,
    /// The machine's name in reports [default: its processor and number of cores]
    #[arg(long, value_name = "NAME", env = "GALLEY_BENCH_MACHINE")]
    pub machine: Option<String>,
    /// Print one JSON line a figure instead of a table, and write no files unless --out says where
    #[arg(long, env = "GALLEY_BENCH_JSON")]
    pub json: bool,
}

/// `galley bench native`.
#[derive(Clone, Debug, Args)]
pub struct NativeArgs {
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Batch sizes
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,32,128",
        env = "GALLEY_BENCH_BATCH"
    )]
    pub batch: Vec<NonZeroUsize>,
    /// Batches that are prepared, run and finished at the same time, each by itself, as a server has several in hand
    #[arg(
        long,
        default_value = "1",
        conflicts_with = "no_prepare",
        env = "GALLEY_BENCH_BATCHES_IN_FLIGHT"
    )]
    pub batches_in_flight: NonZeroUsize,
    /// How much is run.
    #[command(flatten)]
    pub size: SizeArgs,
    /// Time the model alone, on made-up items; --seconds is then the time for each figure [default: 4]
    #[arg(long, env = "GALLEY_BENCH_NO_PREPARE")]
    pub no_prepare: bool,
    /// Sizes of the made-up items: pixels a side, tokens or words [default: the recipe's typical size]
    #[arg(
        long,
        value_delimiter = ',',
        requires = "no_prepare",
        env = "GALLEY_BENCH_SHAPE"
    )]
    pub shape: Vec<NonZeroUsize>,
    /// One batch of items of these sizes, one item each, in place of --batch and --shape
    #[arg(
        long,
        value_delimiter = ',',
        requires = "no_prepare",
        conflicts_with = "shape",
        value_name = "SIZES",
        env = "GALLEY_BENCH_MIXED"
    )]
    pub mixed: Vec<NonZeroUsize>,
    /// Where the figures go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `galley bench served`.
#[derive(Clone, Debug, Args)]
pub struct ServedArgs {
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Examples in a request
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1",
        env = "GALLEY_BENCH_BATCH"
    )]
    pub batch: Vec<NonZeroUsize>,
    /// Requests in flight
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "64",
        env = "GALLEY_BENCH_CONCURRENCY"
    )]
    pub concurrency: Vec<NonZeroUsize>,
    /// Offer this many requests a second instead of as many as are answered: an open loop, with latencies counted from
    /// when a request was due; --concurrency is then the most that may be in flight [default: closed loop]
    #[arg(long, value_name = "REQUESTS_PER_SECOND", env = "GALLEY_BENCH_RATE")]
    pub rate: Option<f64>,
    /// How much is run.
    #[command(flatten)]
    pub size: SizeArgs,
    /// The server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Where the figures go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `galley bench matrix`.
#[derive(Clone, Debug, Args)]
pub struct MatrixArgs {
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Batch sizes: of a native batch, and examples in a request
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,32,128",
        env = "GALLEY_BENCH_BATCH"
    )]
    pub batch: Vec<NonZeroUsize>,
    /// Requests in flight
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,16,64,256",
        env = "GALLEY_BENCH_CONCURRENCY"
    )]
    pub concurrency: Vec<NonZeroUsize>,
    /// How much is run.
    #[command(flatten)]
    pub size: SizeArgs,
    /// The server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Where the figures go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `galley bench operators`.
#[derive(Clone, Debug, Args)]
pub struct OperatorsArgs {
    /// Only operators whose name contains this
    #[arg(long, env = "GALLEY_BENCH_ONLY")]
    pub only: Option<String>,
    /// The device that runs them: auto, cpu or cuda:N, where the LSTM alone runs by itself
    #[arg(long, default_value = "cpu", env = "GALLEY_BENCH_DEVICE")]
    pub device: DeviceName,
    /// Seconds for each figure
    #[arg(long, default_value = "1", env = "GALLEY_BENCH_SECONDS")]
    pub seconds: f64,
    /// Threads of the CPU pool [default: all cores]
    #[arg(long, env = "GALLEY_BENCH_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// Where the figures go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `galley bench agreement`.
#[derive(Clone, Debug, Args)]
pub struct AgreementArgs {
    /// Which recipe, in which dtype and on which device.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Distinct examples that are compared
    #[arg(long, default_value = "2000", env = "GALLEY_BENCH_EXAMPLES")]
    pub examples: NonZeroUsize,
    /// Examples in a batch
    #[arg(long, default_value = "32", env = "GALLEY_BENCH_BATCH")]
    pub batch: NonZeroUsize,
    /// Where the figures go.
    #[command(flatten)]
    pub output: OutputArgs,
}
