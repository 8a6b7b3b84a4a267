//! The HTTP side, end to end: real engines with recipes made for testing, real sockets where they matter.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod access;
mod activity;
mod bodies;
mod connections;
mod crowd;
mod durable;
mod encodings;
mod framing;
mod grpc;
mod grpc_access;
mod grpc_limits;
mod grpc_services;
mod grpc_streams;
mod jobs;
mod leaving;
mod limits;
mod odd_bodies;
mod oip;
mod oip_binary;
mod oip_models;
mod openapi;
mod outcomes;
mod page;
mod routes;
mod slow;
mod support;
mod tls;
mod traces;
mod wire;
