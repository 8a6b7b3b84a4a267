//! Galley's matrix product beside those of crates that could have been used: `x [rows, inputs]` times a weight
//! `[inputs, outputs]`, f32, one thread, the weight laid out as each likes it best.
//!
//! Prints one JSON object a figure: the median of many runs, and the share of the multiplications in a second.

use std::{hint::black_box, time::Instant};

use candle_core::{Device, Tensor};
use galley_nn::text::{Activation, Linear};

/// Rows, inputs and outputs: BERT-base's layers for one text of 64 tokens and for eight, and a projection of an image network.
const SHAPES: [[usize; 3]; 6] = [
    [64, 768, 768],
    [64, 768, 3072],
    [64, 3072, 768],
    [512, 768, 3072],
    [512, 3072, 768],
    [5184, 144, 24],
];

fn median_ms(mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..31)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> candle_core::Result<()> {
    for [rows, inputs, outputs] in SHAPES {
        let x = Tensor::randn(0f32, 1.0, (rows, inputs), &Device::Cpu)?;
        let weight = Tensor::randn(0f32, 1.0, (outputs, inputs), &Device::Cpu)?;
        let bias = Tensor::zeros(outputs, candle_core::DType::F32, &Device::Cpu)?;
        let linear = Linear::new(&weight, &bias)?;
        let a: Vec<f32> = x.flatten_all()?.to_vec1()?;
        let b: Vec<f32> = weight.t()?.contiguous()?.flatten_all()?.to_vec1()?;
        let mut c = vec![0f32; rows * outputs];
        let (m, k, n) = (rows, inputs, outputs);
        let galley = median_ms(|| {
            black_box(linear.forward(&x, Activation::None).expect("the shapes fit"));
        });
        let gemm = median_ms(|| {
            // SAFETY: the three matrices are contiguous, in rows, of these sizes.
            unsafe {
                gemm::gemm(
                    m, n, k, c.as_mut_ptr(), 1, n as isize, false, a.as_ptr(), 1, k as isize,
                    b.as_ptr(), 1, n as isize, 0.0, 1.0, false, false, false,
                    gemm::Parallelism::None,
                );
            }
            black_box(&mut c);
        });
        let matrixmultiply = median_ms(|| {
            // SAFETY: as above.
            unsafe {
                matrixmultiply::sgemm(
                    m, k, n, 1.0, a.as_ptr(), k as isize, 1, b.as_ptr(), n as isize, 1, 0.0,
                    c.as_mut_ptr(), n as isize, 1,
                );
            }
            black_box(&mut c);
        });
        let flops = 2.0 * (m * k * n) as f64;
        for (peer, ms) in [("galley", galley), ("gemm 0.19", gemm), ("matrixmultiply 0.3", matrixmultiply)] {
            let line = serde_json::json!({
                "peer": peer, "shape": [m, k, n], "threads": 1, "dtype": "f32", "ms": ms,
                "gflop_per_s": flops / ms / 1e6,
            });
            println!("{line}");
        }
    }
    Ok(())
}
