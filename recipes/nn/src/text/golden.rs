//! Small networks against transformers: `tests/data/make.py` made the numbers.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use galley_core::synthetic;

use super::*;
use crate::{Precision, host::tests::flat};

const SEED: u64 = 3002;
const VOCABULARY: u32 = 50;
const LENGTHS: [usize; 2] = [9, 70];

fn goldens() -> HashMap<String, Tensor> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/sequences.safetensors"
    );
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// The sequences, all in one batch.
fn batch() -> Packed {
    Packed::new(LENGTHS.map(|length| {
        let ids = synthetic::raw24(&format!("ids.{length}"), SEED).take(length);
        ids.map(|raw| raw % VOCABULARY)
    }))
}

fn config(gpt2: bool) -> TransformerConfig {
    TransformerConfig {
        vocabulary: VOCABULARY as usize,
        max_positions: 80,
        token_types: if gpt2 { 0 } else { 2 },
        hidden: 24,
        intermediate: if gpt2 { 96 } else { 40 },
        layers: 2,
        heads: 3,
        layer_norm_eps: if gpt2 { 1e-5 } else { 1e-12 },
        norm: if gpt2 { Norm::Pre } else { Norm::Post },
        causal: gpt2,
        activation: if gpt2 {
            Activation::GeluTanh
        } else {
            Activation::Gelu
        },
    }
}

fn run(gpt2: bool, pooling: Pooling, layers: Vec<HeadLayer>) -> Vec<Vec<f32>> {
    let vb = synthetic::var_builder(SEED);
    let (names, vb) = match gpt2 {
        true => (&TensorNames::GPT2, vb.pp("transformer")),
        false => (&TensorNames::BERT, vb),
    };
    let head = Head { pooling, layers };
    let backend = Precision::F32.into();
    let transformer = Transformer::load(&config(gpt2), names, &head, &backend, &vb).unwrap();
    transformer.forward(&batch()).unwrap().to_vec2().unwrap()
}

/// Within 1e-4 of the largest.
fn assert_near(name: &str, got: &[f32], goldens: &HashMap<String, Tensor>) {
    let expected = flat(&goldens[name]);
    assert_eq!(got.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let error = (got - expected).abs();
        assert!(
            error < 1e-4 * largest,
            "{name}: value {i} is {got}, expected {expected}"
        );
    }
}

/// The first, the middle and the last token of each sequence.
fn check_features(model: &str, rows: &[Vec<f32>]) {
    let goldens = goldens();
    let mut first = 0;
    for length in LENGTHS {
        let picked = [0, length / 2, length - 1].map(|row| rows[first + row].clone());
        let name = format!("{model}.features.{length}");
        assert_near(&name, &picked.concat(), &goldens);
        first += length;
    }
}

#[test]
fn gpt2_without_a_head_is_that_of_transformers() {
    check_features("gpt2", &run(true, Pooling::Tokens, Vec::new()));
}

#[test]
fn bert_without_a_head_is_that_of_transformers() {
    check_features("bert", &run(false, Pooling::Tokens, Vec::new()));
}

#[test]
fn gpt2s_words_are_its_head() {
    let words = synthetic::var_builder(SEED).pp("transformer.wte");
    let weight = words.get((VOCABULARY as usize, 24), "weight").unwrap();
    let tied = HeadLayer {
        bias: weight
            .zeros_like()
            .unwrap()
            .narrow(1, 0, 1)
            .unwrap()
            .squeeze(1)
            .unwrap(),
        weight,
        activation: Activation::None,
    };
    let logits = run(true, Pooling::Last, vec![tied]);
    for (length, logits) in LENGTHS.into_iter().zip(logits) {
        assert_near(&format!("gpt2.logits.{length}"), &logits, &goldens());
    }
}

#[test]
fn berts_pooler_is_a_head() {
    let vb = synthetic::var_builder(SEED).pp("pooler.dense");
    let pooler = HeadLayer::load(&vb, (24, 24), Activation::Tanh).unwrap();
    let pooled = run(false, Pooling::First, vec![pooler]);
    for (length, pooled) in LENGTHS.into_iter().zip(pooled) {
        assert_near(&format!("bert.pooled.{length}"), &pooled, &goldens());
    }
}
