//! The command line of `galley bench compare`.

use std::{fmt, num::NonZeroUsize, str::FromStr};

use clap::Args;
use galley_core::{DeviceName, WeightSource};

use super::{DtypeArg, OutputArgs};
use crate::corpus::CorpusKind;

/// `galley bench compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// The recipe; `galley recipes` lists them
    #[arg(env = "GALLEY_BENCH_RECIPE")]
    pub recipe: String,
    /// Devices: cpu or cuda:N
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "cpu",
        env = "GALLEY_BENCH_DEVICES"
    )]
    pub devices: Vec<DeviceName>,
    /// Dtypes of the computation
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "f32,bf16,f16",
        env = "GALLEY_BENCH_DTYPES"
    )]
    pub dtypes: Vec<DtypeArg>,
    /// Batch sizes
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,8,16,32,64,128",
        env = "GALLEY_BENCH_BATCH"
    )]
    pub batch: Vec<NonZeroUsize>,
    /// Make each input so many tokens or words long; corpus takes them as they are
    #[arg(long, default_value = "corpus", env = "GALLEY_BENCH_LENGTH")]
    pub length: Length,
    /// The inputs [default: those that suit the recipe]
    #[arg(long, value_enum, env = "GALLEY_BENCH_CORPUS")]
    pub corpus: Option<CorpusKind>,
    /// Where the weights come from: bundled, hub, synthetic, synthetic:SEED or a folder
    #[arg(long, default_value = "auto", env = "GALLEY_BENCH_WEIGHTS")]
    pub weights: WeightSource,
    /// An option of the recipe's own, for instance sleep=5ms; may be repeated
    #[arg(
        long = "option",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        env = "GALLEY_BENCH_OPTION"
    )]
    pub options: Vec<String>,
    /// Distinct inputs; a pass that takes more of them takes them in turn
    #[arg(long, default_value = "1024", env = "GALLEY_BENCH_EXAMPLES")]
    pub examples: NonZeroUsize,
    /// Passes over each batch size
    #[arg(long, default_value = "3", env = "GALLEY_BENCH_REPEATS")]
    pub repeats: NonZeroUsize,
    /// Roughly the seconds of a pass, in which at least three batches are run
    #[arg(long, default_value = "4", env = "GALLEY_BENCH_SECONDS")]
    pub seconds: f64,
    /// Inputs whose answers are compared with those of f32 on the CPU
    #[arg(long, default_value = "256", env = "GALLEY_BENCH_COMPARED")]
    pub compared: NonZeroUsize,
    /// Threads of the CPU pool [default: all cores]
    #[arg(long, env = "GALLEY_BENCH_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// Where the figures go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How long inputs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// As the corpus has them.
    Corpus,
    /// So much, in the recipe's own unit.
    Exactly(NonZeroUsize),
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "corpus" {
            return Ok(Self::Corpus);
        }
        let length = text.parse();
        length.map(Self::Exactly).map_err(|_| {
            format!("expected corpus or a number of tokens or words above 0, got {text:?}")
        })
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corpus => f.write_str("corpus"),
            Self::Exactly(length) => write!(f, "{length}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_back_as_they_print() {
        for text in ["corpus", "128"] {
            assert_eq!(text.parse::<Length>().unwrap().to_string(), text);
        }
        for text in ["", "0", "-1", "long"] {
            assert!(text.parse::<Length>().is_err(), "{text}");
        }
    }
}
