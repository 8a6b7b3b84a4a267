//! What a recipe costs, and what serving it costs: runs in process and over HTTP, and their reports.
//!
//! The server is met over HTTP only, a stream's worker by its metrics and its table; this crate never links them, so that a bug of
//! one cannot hide in the other.
//!
//! - [`corpus`]: the inputs, the same distinct examples on every machine.
//! - `native`: a recipe's three stages in process, and the model alone; `operators`: what models are made of.
//! - `agreement`: what a cheaper dtype changes in the answers.
//! - `compare`: devices, dtypes and batch sizes; `meter`: what a device holds and consumes meanwhile.
//! - `models`: SuperBench's model benchmarks, by its steps and metrics.
//! - `served`: clients that goose drives, and the server process that they meet.
//! - `load`: an open loop, and the highest rate that keeps an objective.
//! - `matrix`: native and served in turn, which gives the table of what serving costs.
//! - `against`: two builds in turn; `history`: what became of speed over earlier runs.
//! - `stream`: `galley stream` from a list or a broker, in turn with native.
//! - [`report`]: records, tables, plots and a description of the machine.
//!
//! A program embeds [`BenchArgs`] in its command line and hands the parsed [`BenchCommand`] to [`run()`].

mod against;
mod agreement;
pub mod args;
mod compare;
pub mod corpus;
mod error;
mod history;
mod interrupt;
mod load;
mod matrix;
mod meter;
mod models;
mod native;
mod operators;
mod output;
mod plan;
mod process;
mod progress;
pub mod report;
mod run;
mod scheduled;
mod served;
mod setup;
pub mod stats;
mod stream;

pub use args::{BenchArgs, BenchCommand};
pub use error::{Error, Result};
pub use run::run;
pub use setup::Context;
