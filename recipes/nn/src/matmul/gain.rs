//! What bf16 would give on this machine, measured rather than guessed.

use std::time::{Duration, Instant};

use super::{Matrix, Product};
use crate::simd::{Level, Precision};

/// Rows, inputs and outputs of the product that is timed: work for a millisecond, in the near caches.
const SHAPE: [usize; 3] = [96, 256, 512];
const RUNS: usize = 5;

/// How many times as fast matrix products are in bf16 as in f32 on one core of this machine, if it has bf16 at all.
///
/// Takes a few milliseconds. The whole of a model gains less than its products do.
pub fn bf16_gain() -> Option<f64> {
    let bf16 = Precision::bf16()?;
    let [f32, bf16] = [Precision::F32, bf16].map(time);
    Some(f32.as_secs_f64() / bf16.as_secs_f64())
}

/// The least time of a few runs.
fn time(precision: Precision) -> Duration {
    let [rows, inputs, outputs] = SHAPE;
    let weight = vec![0.5; inputs * outputs];
    let x = vec![0.5; rows * inputs];
    let matrix = Matrix::pack((inputs, outputs), precision, &weight, Some);
    let mut out = vec![0.0; rows * outputs];
    let mut run = || {
        let start = Instant::now();
        Product::new(&x, rows, &matrix).compute_here(Level::detect(), &mut out);
        start.elapsed()
    };
    let first = run();
    (1..RUNS).map(|_| run()).fold(first, Duration::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_is_measured_where_there_is_bf16() {
        let gain = bf16_gain();
        assert_eq!(gain.is_some(), Precision::bf16().is_some());
        assert!(gain.is_none_or(|gain| gain.is_finite() && gain > 0.0));
    }
}
