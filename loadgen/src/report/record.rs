//! What a run leaves behind: one JSON object a line in `results.jsonl`, from which every table can be written again.

use std::collections::BTreeMap;

use galley_core::Architecture;
use serde::{Deserialize, Serialize};

use super::machine::Machine;
pub use super::{
    client::{Bound, ClientTime},
    packed::Packed,
    point::{Found, Judged, Percentile, Point},
    round::{BuildPass, Round},
    steps::{Ended, Steps, Training},
};
use crate::stats::Latency;

/// The version of the schema; readers refuse later ones. Version 1 lacks what is optional below, `loaded` and `missing`; version 2
/// lacks `point` and `found`; version 3 lacks `steps` and `ended`. What is optional may be absent from any.
pub const SCHEMA: u32 = 4;

/// The schema in words, for the README of each run.
pub(super) const SCHEMA_TEXT: &str = include_str!("schema.md");

/// A line of `results.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// How the figures came about.
    Run(Box<Run>),
    /// A pass in process.
    Native(Native),
    /// A pass over HTTP.
    Served(Served),
    /// A pass through a stream's worker.
    Streamed(Streamed),
    /// The model or an operator alone.
    Model(Model),
    /// Another dtype's logits against those in f32.
    Agreement(Agreement),
    /// A recipe on a device in a dtype.
    Loaded(Loaded),
    /// What could not run.
    Missing(Missing),
    /// A rate that was offered.
    Point(Point),
    /// The result of a search.
    Found(Found),
    /// A pass of each of two builds.
    Round(Round),
    /// Steps of a model.
    Steps(Box<Steps>),
    /// What became of a model's benchmark.
    Ended(Ended),
}

/// How the figures of a folder came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The subcommand: `native`, `served`, `matrix`, `stream`, `model`, `operators`, `agreement`, `compare`, `against`, `models`.
    pub what: String,
    /// The command line, without paths of this machine.
    pub command: String,
    /// When it began, in UTC.
    pub date: String,
    /// The version of galley.
    pub galley: String,
    /// The commit it was built from, where known.
    pub commit: Option<String>,
    /// The recipe; absent for operators.
    pub recipe: Option<String>,
    /// The weights, as the recipe names them.
    pub weights: String,
    /// The dtype.
    pub dtype: String,
    /// The device.
    pub device: String,
    /// The corpus and what its examples are.
    pub corpus: Option<String>,
    /// Examples in each pass.
    pub examples: usize,
    /// Examples asked for, before `--seconds` shrank them.
    pub examples_wanted: usize,
    /// What each example is made to cost, in the recipe's unit; absent where examples are as the corpus has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// Passes of each kind.
    pub repeats: usize,
    /// Threads of the CPU pool in process.
    pub threads: usize,
    /// Threads of the load generator.
    pub client_threads: Option<usize>,
    /// The server's name in a report that has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What the server said of itself.
    pub server: Option<ServerInfo>,
    /// The build that this one is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// The machine.
    pub machine: Machine,
}

/// What a server says of itself in `/meta`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The recipe.
    #[serde(default)]
    pub name: Option<String>,
    /// The kind of input it takes.
    #[serde(default)]
    pub input_type: Option<String>,
    /// Its weights.
    #[serde(default)]
    pub weights: Option<String>,
    /// Its dtype.
    #[serde(default)]
    pub dtype: Option<String>,
    /// Its device.
    #[serde(default)]
    pub device: Option<String>,
    /// Its batch limit.
    #[serde(default)]
    pub max_batch_size: Option<u64>,
    /// Its version.
    #[serde(default)]
    pub version: Option<String>,
}

/// One pass over the examples in process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Native {
    /// The device, in a run that compares some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The dtype, in a run that compares some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Examples in a batch.
    pub batch: usize,
    /// Batches that went through their stages at the same time, where it was more than one. Parts of `seconds` are their means then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches_in_flight: Option<usize>,
    /// Which repeat, from 0.
    pub repeat: usize,
    /// Examples in the pass.
    pub examples: usize,
    /// Time of all batches, prepare, forward and finish.
    pub seconds: f64,
    /// The part of `seconds` spent in prepare.
    pub prepare_seconds: f64,
    /// Examples a second, with prepare.
    pub items_per_s: f64,
    /// Examples a second, without prepare.
    pub items_per_s_without_prepare: f64,
    /// Latency of a batch with prepare.
    pub latency_ms: Latency,
    /// Latency of a batch without prepare.
    pub latency_without_prepare_ms: Latency,
    /// The process's peak memory during the pass, where the system tells.
    pub peak_rss_bytes: Option<u64>,
    /// The part of `seconds` spent in finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_seconds: Option<f64>,
    /// What an example costs in the mean, in the recipe's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// The part of `examples` that the device decoded, of image files on a device that can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded_on_device: Option<f64>,
    /// What each batch took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<Samples>,
    /// The most of the device's memory that was in use, by whomever, where the device tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_peak_bytes: Option<u64>,
    /// What the pass consumed, where there is a counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
}

/// What each batch of a pass took, in milliseconds and in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Prepare, on all cores.
    pub prepare_ms: Packed,
    /// Forward: the model.
    pub forward_ms: Packed,
    /// Finish, on all cores.
    pub finish_ms: Packed,
}

/// What a device consumed during a pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// Energy.
    pub joules: f64,
    /// Over so long.
    pub seconds: f64,
    /// Whose counter it is: `nvml` counts the card, `rapl` the processor's packages.
    pub source: String,
    /// The clock of the multiprocessors, in the mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<f64>,
    /// Why clocks were held down at times, in NVML's words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttled: Vec<String>,
}

/// A recipe on a device in a dtype.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// The device.
    pub device: String,
    /// The dtype of the computation.
    pub dtype: String,
    /// What loading took.
    pub seconds: f64,
    /// The weights, as the recipe names them.
    pub weights: String,
    /// What an example's cost is counted in.
    pub cost_unit: String,
    /// The model in figures.
    pub architecture: Architecture,
    /// The device's model; absent for the CPU, which the machine names.
    pub device_name: Option<String>,
    /// The device's memory.
    pub device_memory_bytes: Option<u64>,
    /// The version of the device's driver.
    pub driver: Option<String>,
    /// The process's memory when it was loaded, where the system tells.
    pub resident_bytes: Option<u64>,
}

/// What was asked for and could not run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    /// The device.
    pub device: String,
    /// The dtype; absent where none runs.
    pub dtype: Option<String>,
    /// The batch size; absent where none runs.
    pub batch: Option<usize>,
    /// Why.
    pub reason: String,
}

/// One pass over the examples through HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Examples in a request.
    pub batch: usize,
    /// Requests in flight.
    pub concurrency: usize,
    /// Requests a second offered, in an open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Which repeat, from 0.
    pub repeat: usize,
    /// Examples sent.
    pub examples: usize,
    /// Requests sent.
    pub requests: usize,
    /// From the first request to the end of the last answer.
    pub seconds: f64,
    /// Examples answered well, a second.
    pub items_per_s: f64,
    /// Requests answered well, a second.
    pub requests_per_s: f64,
    /// Examples answered well.
    pub items_ok: usize,
    /// Latency of a request that was answered well; absent if none was.
    pub latency_ms: Option<Latency>,
    /// Failed requests by kind.
    pub errors: BTreeMap<String, u64>,
    /// The server's peak memory since it started, where this program started it.
    pub server_peak_rss_bytes: Option<u64>,
    /// What the load generator did meanwhile, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientTime>,
}

impl Served {
    /// Failed requests of any kind.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// One pass over the examples through `galley stream`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Streamed {
    /// Where messages came from: `list` or `nats`.
    pub source: String,
    /// Where rows went: `sqlite` or `postgres`.
    pub table: String,
    /// Messages published a second while they were worked on; none where all were there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Which repeat, from 0.
    pub repeat: usize,
    /// Messages, each of which has a row.
    pub examples: usize,
    /// Rows whose answers were compared with those in process.
    pub compared: usize,
    /// From the first delivery to the last row.
    pub seconds: f64,
    /// From the worker's start to the first delivery.
    pub startup_seconds: f64,
    /// Rows a second.
    pub items_per_s: f64,
    /// Bytes of inputs a second.
    pub bytes_per_s: f64,
    /// `items_per_s` over that of the native pass before.
    pub native_ratio: f64,
    /// From publishing, or from the beginning of work on a message, to its row.
    pub latency_ms: Latency,
    /// The mean of each stage in milliseconds.
    pub stages_ms: BTreeMap<String, f64>,
    /// Items in a batch, in the mean.
    pub batch_size: Option<f64>,
    /// The worker's memory: seconds since its start, and bytes.
    pub resident: Vec<(f64, u64)>,
    /// The worker's peak memory, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

/// The model or an operator alone, in the keys that other frameworks' figures are recorded with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Who ran it: `galley`.
    pub peer: String,
    /// The recipe or operator.
    pub model: String,
    /// Items in a batch.
    pub batch: usize,
    /// The shape of the batch.
    pub shape: Vec<usize>,
    /// The median time of a batch, in milliseconds.
    pub ms: f64,
    /// The mean time of a batch whose input lies in the device's memory already, in milliseconds; none on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_ms: Option<f64>,
    /// Items a second at that time.
    pub items_per_s: f64,
    /// Over how many runs.
    pub runs: usize,
    /// The dtype.
    pub dtype: String,
    /// The weights.
    pub weights: String,
}

/// Another dtype's logits against those in f32, over a corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The recipe.
    pub model: String,
    /// The weights.
    pub weights: String,
    /// The dtype that is compared with f32.
    pub dtype: String,
    /// The device that is compared with the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Examples compared.
    pub examples: usize,
    /// Those of them whose labels all agree.
    pub agreeing_examples: usize,
    /// Rows of logits compared, each of which gives a label.
    pub labels: usize,
    /// Those of them whose highest logit is the same one.
    pub agreeing_labels: usize,
    /// The largest difference of a logit.
    pub largest_deviation: f64,
    /// The largest difference of a score: of a row's softmax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest_score_difference: Option<f64>,
    /// The mean difference of a logit.
    pub mean_deviation: f64,
    /// The standard deviation of the f32 logits about their row's mean.
    pub logit_spread: f64,
}
