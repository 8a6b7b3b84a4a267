//! Galley, the server: recipes behind HTTP, with requests of many callers batched dynamically.
//!
//! - [`http`] knows HTTP: routes, wire types, which error has which status. Nothing else does.
//! - [`batching`] holds the queues and decides what a batch is made of.
//! - [`engine`] owns the devices and runs batches.
//! - [`metrics`] is every metric, in one place.
//! - [`pull`] downloads weights from the hub.

pub mod batching;
pub mod engine;
pub mod http;
pub mod metrics;
pub mod pull;
pub mod recipes_table;
