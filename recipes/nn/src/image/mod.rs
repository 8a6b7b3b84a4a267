//! Operators of convolutional image networks.

use candle_core::Result;

use crate::bench::OperatorCase;

/// The operators at the shapes of EfficientNet-B2.
///
/// # Errors
/// Making the inputs failed.
pub fn bench_cases() -> Result<Vec<OperatorCase>> {
    Ok(Vec::new())
}
