//! `galley stream` as a program: what becomes of a list whatever happens to the process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod ends;
mod fetching;
mod inputs;
mod killed;
mod poison;
mod program;
mod table;
