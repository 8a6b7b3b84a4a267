//! The command line of `galley bench models`. Its options have SuperBench's names, with `-` for `_`, and its defaults.

use std::num::NonZeroUsize;

use candle_core::DType;
use clap::{Args, ValueEnum};
use galley_core::{BatchShape, DeviceName, WeightSource};

use super::{OutputArgs, TrainingArgs};

/// `galley bench models`.
#[derive(Clone, Debug, Args)]
pub struct ModelsArgs {
    /// Models by SuperBench's names, or all
    #[arg(value_name = "MODEL", required_unless_present = "models")]
    pub first: Vec<String>,
    /// More of them
    #[arg(long, value_delimiter = ',', env = "GALLEY_BENCH_MODELS")]
    pub models: Vec<String>,
    /// What each step does
    #[arg(
        long,
        alias = "model-action",
        value_enum,
        value_delimiter = ',',
        default_value = "inference",
        env = "GALLEY_BENCH_ACTION"
    )]
    pub action: Vec<Action>,
    /// Precisions of the computation; what a device does not compute in is left out, and said
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "float32,float16",
        env = "GALLEY_BENCH_PRECISION"
    )]
    pub precision: Vec<Precision>,
    /// Inputs in a batch; of each device, where several train
    #[arg(long, default_value = "32", env = "GALLEY_BENCH_BATCH_SIZE")]
    pub batch_size: NonZeroUsize,
    /// Steps that do not count, before those that do
    #[arg(long, default_value = "64", env = "GALLEY_BENCH_NUM_WARMUP")]
    pub num_warmup: usize,
    /// Steps that count; 0 for as many as --duration allows
    #[arg(long, default_value = "2048", env = "GALLEY_BENCH_NUM_STEPS")]
    pub num_steps: usize,
    /// Seconds after which steps end, loading and warm-up included; 0 for no such limit
    #[arg(long, default_value = "0", env = "GALLEY_BENCH_DURATION")]
    pub duration: f64,
    /// With --duration, look whether it is over after every so many steps only
    #[arg(long, default_value = "100", env = "GALLEY_BENCH_CHECK_FREQUENCY")]
    pub check_frequency: NonZeroUsize,
    /// Pixels of an image's side
    #[arg(long, default_value = "224", env = "GALLEY_BENCH_IMAGE_SIZE")]
    pub image_size: NonZeroUsize,
    /// Tokens, or rows, of a sequence
    #[arg(long, default_value = "512", env = "GALLEY_BENCH_SEQ_LEN")]
    pub seq_len: NonZeroUsize,
    /// Time the pass on a batch that lies in the device's memory already: neither the copy to it nor that of the answer counts
    #[arg(long, env = "GALLEY_BENCH_EXCLUDE_COPY_TIME")]
    pub exclude_copy_time: bool,
    /// Run everything so many times, each anew from loading on
    #[arg(long, default_value = "1", env = "GALLEY_BENCH_RUN_COUNT")]
    pub run_count: NonZeroUsize,
    /// The device: auto, cpu or cuda:N; or several of the last, cuda:0,cuda:1, that train together
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "cpu",
        env = "GALLEY_BENCH_DEVICE"
    )]
    pub device: Vec<DeviceName>,
    /// The framework's name in metrics: pytorch to compare with baselines that have it
    #[arg(
        long,
        value_enum,
        default_value = "galley",
        env = "GALLEY_BENCH_FRAMEWORK"
    )]
    pub framework: Framework,
    /// Where the weights come from: synthetic, synthetic:SEED, or a folder with a model's state dict in model.safetensors
    #[arg(long, default_value = "synthetic", env = "GALLEY_BENCH_WEIGHTS")]
    pub weights: WeightSource,
    /// Threads of the CPU pool [default: all cores]
    #[arg(long, env = "GALLEY_BENCH_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// How models are trained.
    #[command(flatten)]
    pub training: TrainingArgs,
    /// Where the figures go.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl ModelsArgs {
    /// The models' names, as they were given.
    pub(crate) fn names(&self) -> Vec<String> {
        [&self.first[..], &self.models].concat()
    }

    /// The batch that steps run on.
    pub(crate) fn batch_shape(&self) -> BatchShape {
        BatchShape {
            batch: self.batch_size.get(),
            image_size: self.image_size.get(),
            seq_len: self.seq_len.get(),
        }
    }
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Forward, backward and update.
    Train,
    /// Forward.
    Inference,
}

impl Action {
    /// Its name on the command line and in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Inference => "inference",
        }
    }
}

/// What a model computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32-bit floating point, and no TF32.
    Float32,
    /// The same, but the vendor's libraries round factors to TF32, ten bits of them: training on CUDA devices only.
    Tf32,
    /// 16-bit floating point; CUDA devices only.
    Float16,
    /// Matrix products in 16-bit floating point with the range of f32; processors that have it only.
    Bfloat16,
}

impl Precision {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Tf32 => "tf32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }

    /// What candle calls it.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::Float32 | Self::Tf32 => DType::F32,
            Self::Float16 => DType::F16,
            Self::Bfloat16 => DType::BF16,
        }
    }
}

/// Whose name metrics have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Framework {
    /// Galley's own.
    Galley,
    /// PyTorch's, though it is galley that runs.
    Pytorch,
}

impl Framework {
    /// Its name on the command line and in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Galley => "galley",
            Self::Pytorch => "pytorch",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        models: ModelsArgs,
    }

    fn parse(line: &str) -> Result<ModelsArgs, clap::Error> {
        let words = std::iter::once("models").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.models)
    }

    #[test]
    fn defaults_are_superbenchs() {
        let args = parse("--models all").unwrap();
        assert_eq!(args.names(), ["all"]);
        assert_eq!(args.action, [Action::Inference]);
        assert_eq!(args.precision, [Precision::Float32, Precision::Float16]);
        assert_eq!((args.batch_size.get(), args.num_warmup), (32, 64));
        assert_eq!((args.num_steps, args.duration), (2048, 0.0));
        assert_eq!((args.image_size.get(), args.seq_len.get()), (224, 512));
        assert_eq!((args.check_frequency.get(), args.run_count.get()), (100, 1));
        assert!(!args.exclude_copy_time && args.framework == Framework::Galley);
        assert_eq!(args.device, [DeviceName::Cpu]);
    }

    #[test]
    fn lists_are_of_commas_and_actions_go_by_both_names() {
        let line = "--models gpt2-small,resnet50 --model-action inference --precision float16";
        let args = parse(line).unwrap();
        assert_eq!(args.names(), ["gpt2-small", "resnet50"]);
        assert_eq!(args.precision, [Precision::Float16]);
        let args = parse("x y --models z --action train,inference").unwrap();
        assert_eq!(args.action, [Action::Train, Action::Inference]);
        assert_eq!(args.names(), ["x", "y", "z"]);
        let args = parse("x --device cuda:0,cuda:1").unwrap();
        assert_eq!(args.device, [0, 1].map(DeviceName::Cuda));
        for bad in [
            "",
            "--models x --precision fp16",
            "--models x --batch-size 0",
            "--models x --action dream",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
