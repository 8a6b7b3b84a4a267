//! What is followed over runs, each in one place: an entry here is a column of the tables, a key of `history.json`, a line of the
//! glossary, and is judged.

use super::verdict::Better;
use crate::stats::Latency;

/// A pass's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pass {
    pub(super) items_per_s: f64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) over_native: Option<f64>,
}

/// Latencies of which the highest of a hundred is none of the few highest.
const TELLING: usize = 100;

impl Pass {
    /// Of a pass that timed so many latencies.
    pub(super) fn of(items_per_s: f64, latency: Option<Latency>, timed: usize) -> Self {
        Self {
            items_per_s,
            p50_ms: latency.map(|latency| latency.p50),
            p99_ms: latency
                .filter(|_| timed >= TELLING)
                .map(|latency| latency.p99),
            over_native: None,
        }
    }
}

/// A figure that is followed.
pub(super) struct Metric {
    /// Its key in `history.json`.
    pub(super) key: &'static str,
    /// Its head, with the unit.
    pub(super) head: &'static str,
    /// What it is, in a sentence.
    pub(super) about: &'static str,
    pub(super) better: Better,
    /// Whether both sides of it were measured in one sitting, so that it says something of the build where the machine drifts.
    pub(super) is_ratio: bool,
    pub(super) value: fn(&Pass) -> Option<f64>,
}

/// How many there are.
pub(super) const COUNT: usize = 4;
/// The number of throughput among them.
pub(super) const ITEMS_PER_S: usize = 0;

/// All, in order.
pub(super) const METRICS: [Metric; COUNT] = [
    Metric {
        key: "items_per_s",
        head: "items/s",
        about: "items answered in a second of a pass: without loading, start-up and warm-up",
        better: Better::Higher,
        is_ratio: false,
        value: |pass| Some(pass.items_per_s),
    },
    Metric {
        key: "p50_ms",
        head: "p50 ms",
        about: "half of the batches, requests or messages take at most this",
        better: Better::Lower,
        is_ratio: false,
        value: |pass| pass.p50_ms,
    },
    Metric {
        key: "p99_ms",
        head: "p99 ms",
        about: "99 % take at most this; left out where fewer than a hundred were timed",
        better: Better::Lower,
        is_ratio: false,
        value: |pass| pass.p99_ms,
    },
    Metric {
        key: "over_native",
        head: "served / native",
        about: "items a second served or streamed over those in process in the same sitting: above 1, serving is faster",
        better: Better::Higher,
        is_ratio: true,
        value: |pass| pass.over_native,
    },
];
