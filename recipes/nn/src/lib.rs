//! Fused neural-network operators for candle: what its stock operators do slowly or not at all.
//!
//! Networks are built for a [`Backend`]: the CPU, or with the feature `cuda` an NVIDIA GPU. This is the one crate with
//! `unsafe` code, CPU intrinsics and CUDA kernels, so that all others can do without; [`jpeg`] is here for that alone.
#![allow(
    unsafe_code,
    reason = "SIMD intrinsics live in this crate so that no other needs them"
)]

mod activation;
mod aligned;
mod backend;
pub mod bench;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
mod cuda;
pub mod executor;
pub mod graph;
mod host;
pub mod image;
pub mod jpeg;
pub mod lstm;
mod matmul;
mod ops;
pub mod picture;
pub mod plan;
pub mod pool;
mod simd;
pub mod text;
pub mod train;
mod workspace;

pub use backend::{Backend, Libraries, device_uuid};
pub use matmul::bf16_gain;
pub use simd::Precision;
