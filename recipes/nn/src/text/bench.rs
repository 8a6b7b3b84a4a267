//! The encoder's operators at BERT-base's shapes, for `galley bench operators`.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::{Activation, Linear, attention, residual_layer_norm};
use crate::bench::OperatorCase;

const HIDDEN: usize = 768;
const WIDE: usize = 3072;
const HEADS: usize = 12;

/// `(batch, tokens)`: a lone text, a batch of short ones, one of the longest.
const BATCHES: [(usize, usize); 3] = [(1, 64), (8, 64), (1, 512)];

/// Attention `[tokens, heads, dim]`, the GELU layer `[tokens, in, out]` and the residual LayerNorm `[tokens, features]`.
///
/// # Errors
/// Making the inputs failed.
pub fn bench_cases() -> Result<Vec<OperatorCase>> {
    let mut cases = Vec::new();
    for (batch, tokens) in BATCHES {
        cases.push(attention_case(batch, tokens)?);
        cases.push(linear_gelu_case(batch, tokens)?);
        cases.push(residual_layer_norm_case(batch, tokens)?);
    }
    Ok(cases)
}

fn random(shape: (usize, usize)) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
}

fn attention_case(batch: usize, tokens: usize) -> Result<OperatorCase> {
    let qkv = random((batch * tokens, 3 * HIDDEN))?;
    let offsets: Arc<[usize]> = (0..=batch).map(|i| i * tokens).collect();
    Ok(OperatorCase {
        operator: "attention",
        shape: vec![tokens, HEADS, HIDDEN / HEADS],
        batch,
        run: Box::new(move || attention(&qkv, &offsets, HEADS).map(drop)),
    })
}

fn linear_gelu_case(batch: usize, tokens: usize) -> Result<OperatorCase> {
    let x = random((batch * tokens, HIDDEN))?;
    let linear = Linear::new(&random((WIDE, HIDDEN))?, random((1, WIDE))?.flatten_all()?)?;
    Ok(OperatorCase {
        operator: "linear_gelu",
        shape: vec![tokens, HIDDEN, WIDE],
        batch,
        run: Box::new(move || linear.forward(&x, Activation::Gelu).map(drop)),
    })
}

fn residual_layer_norm_case(batch: usize, tokens: usize) -> Result<OperatorCase> {
    let x = random((batch * tokens, HIDDEN))?;
    let residual = random((batch * tokens, HIDDEN))?;
    let parameters = random((3, HIDDEN))?;
    Ok(OperatorCase {
        operator: "residual_layer_norm",
        shape: vec![tokens, HIDDEN],
        batch,
        run: Box::new(move || residual_layer_norm(&x, &residual, &parameters, 1e-12)),
    })
}
