//! The program itself: what its commands print, what they end with, and how a server of it lives and dies.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod bundled;
mod commands;
mod drain;
mod health;
mod log;
mod objective;
mod program;
mod raw;
mod raw_tensors;
mod signals;
mod wrong;
