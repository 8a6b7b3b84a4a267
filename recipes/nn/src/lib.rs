//! Fused neural-network operators for candle.
