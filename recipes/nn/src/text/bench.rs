//! The encoder's operators at BERT-base's shapes, for `galley bench operators`.

use candle_core::{Device, Result, Tensor};

use super::{
    Activation, Linear,
    config::Norm,
    norm::{ResidualNorm, residual_layer_norm},
};
use crate::{
    bench::OperatorCase,
    host,
    ops::attention::{self, Tokens},
    simd::Level,
};

const HIDDEN: usize = 768;
const WIDE: usize = 3072;
const HEADS: usize = 12;

/// `(batch, tokens)`: a lone text, a batch of short ones, one of the longest.
const BATCHES: [(usize, usize); 3] = [(1, 64), (8, 64), (1, 512)];

/// Attention `[tokens, heads, dim]`, causal or not, the GELU layer `[tokens, in, out]` and the residual LayerNorm `[tokens, features]`.
///
/// # Errors
/// Making the inputs failed.
pub fn bench_cases() -> Result<Vec<OperatorCase>> {
    let mut cases = Vec::new();
    for (batch, tokens) in BATCHES {
        cases.push(attention_case("attention", batch, tokens)?);
        cases.push(attention_case("causal_attention", batch, tokens)?);
        cases.push(linear_gelu_case(batch, tokens)?);
        cases.push(residual_layer_norm_case(batch, tokens)?);
    }
    Ok(cases)
}

fn random(shape: (usize, usize)) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
}

fn attention_case(operator: &'static str, batch: usize, tokens: usize) -> Result<OperatorCase> {
    let qkv = host::to_vec(&random((batch * tokens, 3 * HIDDEN))?)?;
    let offsets: Vec<usize> = (0..=batch).map(|i| i * tokens).collect();
    let mut out = vec![1.0; batch * tokens * HIDDEN];
    Ok(OperatorCase {
        operator,
        shape: vec![tokens, HEADS, HIDDEN / HEADS],
        batch,
        dtype: "f32",
        run: Box::new(move || {
            let tokens = Tokens {
                offsets: &offsets,
                heads: HEADS,
                causal: operator == "causal_attention",
            };
            attention::forward(Level::detect(), &qkv, tokens, None, &mut out);
            Ok(())
        }),
    })
}

fn linear_gelu_case(batch: usize, tokens: usize) -> Result<OperatorCase> {
    let x = random((batch * tokens, HIDDEN))?;
    let linear = Linear::new(&random((WIDE, HIDDEN))?, &random((1, WIDE))?.flatten_all()?)?;
    Ok(OperatorCase {
        operator: "linear_gelu",
        shape: vec![tokens, HIDDEN, WIDE],
        batch,
        dtype: "f32",
        run: Box::new(move || linear.forward(&x, Activation::Gelu).map(drop)),
    })
}

fn residual_layer_norm_case(batch: usize, tokens: usize) -> Result<OperatorCase> {
    let mut x = vec![1.0; batch * tokens * HIDDEN];
    let mut residual = host::to_vec(&random((batch * tokens, HIDDEN))?)?;
    let parameter = || random((1, HIDDEN))?.flatten_all();
    let end = ResidualNorm::new(&parameter()?, &parameter()?, &parameter()?, 1e-12)?;
    Ok(OperatorCase {
        operator: "residual_layer_norm",
        shape: vec![tokens, HIDDEN],
        batch,
        dtype: "f32",
        run: Box::new(move || {
            let (x, residual) = (&mut x, &mut residual);
            residual_layer_norm(Level::detect(), x, residual, &end, Norm::Post);
            Ok(())
        }),
    })
}
