//! How a message ended: the words of metrics, of the summary and of the log.

pub use crate::metrics::StreamOutcome as Outcome;
