//! The record of two builds in turn.

use serde::{Deserialize, Serialize};

use crate::stats::Latency;

/// A pass of each of two builds, one right after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The recipe.
    pub recipe: String,
    /// The weights, as the recipe names them.
    pub weights: String,
    /// The dtype.
    pub dtype: String,
    /// Items in a native batch, or in a request.
    pub batch: usize,
    /// Requests in flight; absent where it ran in process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// Which round, from 0.
    pub repeat: usize,
    /// Whether the old build went first.
    pub old_first: bool,
    /// This build's pass.
    pub new: BuildPass,
    /// The other's.
    pub old: BuildPass,
}

/// A pass of a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BuildPass {
    /// Items in the pass.
    pub examples: usize,
    /// What it took.
    pub seconds: f64,
    /// Items a second.
    pub items_per_s: f64,
    /// Latency of a batch, or of a request.
    pub latency_ms: Latency,
}
