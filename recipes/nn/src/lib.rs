//! Fused neural-network operators for candle.

pub mod bench;
pub mod image;
