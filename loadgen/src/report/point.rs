//! The records of `bench load`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::packed::Packed;
use crate::stats::Latency;

/// A rate that was offered for a while, in an open loop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What for: `search`, `draw`, `rates` (those that were asked for) or `replay`.
    pub purpose: String,
    /// Which repeat, from 0.
    pub repeat: usize,
    /// When requests were due: `poisson`, `uniform` or `replay`.
    pub arrivals: String,
    /// The seed of the arrivals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Examples in a request.
    pub batch: usize,
    /// Requests a second that were offered.
    pub rate: f64,
    /// The time in which the requests that count were due.
    pub seconds: f64,
    /// Requests that count.
    pub requests: usize,
    /// Those of them that were answered well.
    pub requests_ok: usize,
    /// From when a request was due, of those answered well; absent if none was.
    pub latency_ms: Option<Latency>,
    /// Percentiles of all requests, a failed one being later than any other.
    pub percentiles: Vec<Percentile>,
    /// What became of each objective.
    pub objectives: Vec<Judged>,
    /// Failed requests by kind.
    pub errors: BTreeMap<String, u64>,
    /// How late the client sent requests.
    pub late_ms: Option<Latency>,
    /// Whether the client was the bound, so that the figures are not the server's.
    pub client_bound: bool,
    /// Why it ended: `decided`, `known`, `longest`, `replayed` or `interrupted`.
    pub ended: String,
    /// The latencies of requests answered well, in the order in which they were due.
    pub samples_ms: Packed,
}

impl Point {
    /// Failed requests of any kind.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// A percentile of a point's latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentile {
    /// Which.
    pub percent: f64,
    /// Absent where more requests failed than are above it.
    pub ms: Option<f64>,
    /// Half of its 95 % confidence interval as a part of it; absent where that has no upper end.
    pub known_to: Option<f64>,
}

/// What became of an objective at a point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The objective: `p99=50ms`.
    pub objective: String,
    /// Its limit.
    pub limit_ms: f64,
    /// Requests answered well within the limit.
    pub within: usize,
    /// The same a second.
    pub goodput_per_s: f64,
    /// Whether it was kept.
    pub kept: bool,
    /// Whether that is sure at 99 %; otherwise it is what was seen.
    pub decided: bool,
}

/// The result of a search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Which repeat, from 0.
    pub repeat: usize,
    /// The objective.
    pub objective: String,
    /// Examples in a request.
    pub batch: usize,
    /// The highest rate that kept it, in requests a second; absent where none did.
    pub rate: Option<f64>,
    /// Whether the client could offer no more, so that the server's own rate is higher.
    pub client_bound: bool,
}
