//! The HTTP side, end to end: real engines with recipes made for testing, real sockets where they matter.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod activity;
mod bodies;
mod connections;
mod jobs;
mod limits;
mod outcomes;
mod routes;
mod support;
