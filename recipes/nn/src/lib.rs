//! Fused neural-network operators for candle: what its stock operators do slowly or not at all.
//!
//! Each operator has a CPU implementation; the CUDA side comes beside it. This is the one crate with `unsafe` code and
//! CPU intrinsics, so that all others can do without.
#![allow(
    unsafe_code,
    reason = "SIMD intrinsics live in this crate so that no other needs them"
)]

mod activation;
mod aligned;
pub mod bench;
mod host;
pub mod image;
pub mod lstm;
mod matmul;
pub mod pool;
mod simd;
pub mod text;
