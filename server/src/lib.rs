//! Galley, the server: recipes behind HTTP, with requests of many callers batched dynamically.
//!
//! - [`http`] knows HTTP: routes, wire types, which error has which status. Nothing else does.
//! - [`batching`] holds the queues and decides what a batch is made of.
//! - [`engine`] owns the devices and runs batches.
//! - [`stream`] takes messages from a source and puts their answers into a table.
//! - [`jobs`] keeps asynchronous requests in a table; [`database`] is how SQLite and PostgreSQL are reached.
//! - [`access`] holds API keys and the TLS certificate.
//! - [`metrics`] is every metric, in one place; [`traces`] sends spans of requests. With the feature `cuda`,
//!   `nvidia` asks the driver how devices do.
//! - [`log`] is how lines get to stderr, [`signals`] what ends a server.
//! - [`cli`] is the command line as typed, [`config`] as validated, with [`host`] and [`service_links`] as parts of it; [`serve`], [`predict`], [`pull`],
//!   [`recipes_table`] and [`health`] are its commands.

pub mod access;
pub mod batching;
pub mod cli;
pub mod config;
mod crypto;
pub mod database;
pub mod engine;
pub mod health;
pub mod host;
pub mod http;
pub mod jobs;
pub mod log;
mod memory;
pub mod metrics;
#[cfg(feature = "cuda")]
mod nvidia;
pub mod predict;
pub mod pull;
pub mod recipes_table;
pub mod serve;
pub mod service_links;
pub mod signals;
mod stdout;
pub mod stream;
pub mod traces;
