//! The HTTP side, end to end: real engines with recipes made for testing, real sockets where they matter.

mod activity;
mod bodies;
mod connections;
mod jobs;
mod limits;
mod outcomes;
mod routes;
mod support;
