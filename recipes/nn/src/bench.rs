//! The operators at the shapes that the recipes meet, ready to be timed (`galley bench operators`).
//!
//! Each module lists its own cases; this one only strings them together, so that the benchmark needs no knowledge of
//! any operator.

use candle_core::Result;

/// One operator at one shape, with its inputs and weights already made.
pub struct OperatorCase {
    /// What it is: `depthwise 3x3`, `pointwise`, `bilstm`.
    pub operator: &'static str,
    /// The shape of one item's input, without the batch: `[height, width, channels]` or `[tokens, features]`.
    pub shape: Vec<usize>,
    /// How many items one run takes.
    pub batch: usize,
    /// Runs it once, on the CPU.
    pub run: Box<dyn FnMut() -> Result<()>>,
}

/// Every operator of this crate.
///
/// # Errors
/// Making the inputs failed.
pub fn operator_cases() -> Result<Vec<OperatorCase>> {
    let cases = vec![
        crate::image::bench_cases()?,
        crate::lstm::bench_cases()?,
        crate::text::bench_cases()?,
    ];
    Ok(cases.into_iter().flatten().collect())
}
