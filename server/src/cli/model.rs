//! What commands that run a model have in common: which one, on what, and how batches are made.

use std::{num::NonZeroUsize, time::Duration};

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use galley_core::WeightSource;

/// Which model runs, and on what.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Devices: auto, cpu, or cuda:N, several separated by commas; auto is cuda:0 where this build and the machine have
    /// it
    #[arg(
        long,
        env = "GALLEY_DEVICE",
        default_value = "auto",
        value_delimiter = ',',
        help_heading = "Model"
    )]
    pub device: Vec<String>,
    /// The dtype of the computation; auto is f16 on CUDA devices and f32 on the CPU, where bf16 needs a processor with
    /// AVX512_BF16
    #[arg(
        long,
        env = "GALLEY_DTYPE",
        default_value = "auto",
        help_heading = "Model"
    )]
    pub dtype: DtypeArg,
    /// Weights: auto (bundled if there are, else hub), bundled, hub, synthetic or synthetic:SEED (random ones), or a folder
    #[arg(
        long,
        env = "GALLEY_WEIGHTS",
        default_value = "auto",
        value_name = "SOURCE",
        help_heading = "Model"
    )]
    pub weights: WeightSource,
    /// A recipe's own option, for instance transformers_ner.aggregation=simple; may be repeated
    #[arg(
        long = "option",
        env = "GALLEY_OPTION",
        value_delimiter = ',',
        value_name = "RECIPE.KEY=VALUE",
        help_heading = "Model"
    )]
    pub options: Vec<String>,
    /// Threads of the CPU pool [default: the cores that this process may use]
    #[arg(long, env = "GALLEY_THREADS", help_heading = "Model")]
    pub threads: Option<NonZeroUsize>,
    /// The most pixels that an image may have once decoded
    #[arg(long, env = "GALLEY_MAX_PIXELS", default_value_t = 64 << 20, help_heading = "Limits")]
    pub max_pixels: u64,
    /// The most bytes that decoding images may take, all together; what does not fit waits [default: a quarter of the
    /// container's memory limit, or of the machine's memory]
    #[arg(
        long,
        env = "GALLEY_MAX_DECODE_MEMORY",
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub max_decode_memory: Option<ByteSize>,
    /// The most bytes that a text may have
    #[arg(
        long,
        env = "GALLEY_MAX_TEXT",
        default_value = "1MiB",
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub max_text: ByteSize,
}

/// The dtypes that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// Whatever suits the device.
    Auto,
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point; CUDA devices only.
    F16,
    /// 16-bit floating point with the range of f32; the CPU only, for matrix products alone.
    Bf16,
}

/// How batches are made.
#[derive(Args, Clone, Debug)]
pub struct BatchingArgs {
    /// The most items of a batch; auto measures where throughput stops growing, at start-up and, if that was too short, in
    /// idle moments, and follows what batches take while serving
    #[arg(
        long,
        env = "GALLEY_MAX_BATCH_SIZE",
        default_value = "auto",
        value_name = "N|auto",
        help_heading = "Batching"
    )]
    pub max_batch_size: AutoSize,
    /// Batches that a device has in hand at once: while one is computed the next is collected and copied [default: 2 on
    /// CUDA devices, 1 on the CPU]
    #[arg(
        long,
        env = "GALLEY_BATCHES_IN_FLIGHT",
        value_name = "N",
        help_heading = "Batching"
    )]
    pub batches_in_flight: Option<NonZeroUsize>,
    /// How long an item may wait for its batch to fill; 0ms: an idle device starts at once
    #[arg(
        long, env = "GALLEY_MAX_QUEUE_DELAY", default_value = "0ms", value_parser = humantime::parse_duration,
        value_name = "TIME", help_heading = "Batching"
    )]
    pub max_queue_delay: Duration,
    /// The most items of a recipe that may wait, however fast they are answered; past it requests are answered 429. What
    /// by the rate of late cannot be answered within its time is refused long before
    #[arg(
        long,
        env = "GALLEY_MAX_QUEUE_SIZE",
        default_value = "65536",
        value_name = "N",
        help_heading = "Batching"
    )]
    pub max_queue_size: NonZeroUsize,
}

/// A size, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoSize {
    /// Found by measuring.
    Auto,
    /// Given.
    Fixed(NonZeroUsize),
}

impl std::str::FromStr for AutoSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Fixed)
                .map_err(|_| "expected auto or a number above 0".into()),
        }
    }
}
