//! Native and served benchmark runs, and their reports.

pub mod corpus;
mod error;

pub use error::{Error, Result};
