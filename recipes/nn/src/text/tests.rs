//! The whole encoder against candle's own BERT, and what the operators' tests share.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::bert;

use super::{encoder::Encoder, *};
use crate::simd::Precision;

/// The largest difference of two tensors of one shape.
pub(super) fn max_error(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    let [got, expected] = [got, expected].map(|t| t.to_dtype(DType::F64).unwrap());
    let error = (got - expected).unwrap().abs().unwrap();
    error.max_all().unwrap().to_scalar().unwrap()
}

const LENGTHS: [usize; 4] = [9, 33, 1, 20];

fn config() -> bert::Config {
    bert::Config {
        vocab_size: 100,
        hidden_size: 48,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        intermediate_size: 80,
        max_position_embeddings: 40,
        layer_norm_eps: 1e-5,
        ..bert::Config::default()
    }
}

fn transformer_config(config: &bert::Config) -> TransformerConfig {
    TransformerConfig {
        vocabulary: config.vocab_size,
        max_positions: config.max_position_embeddings,
        token_types: config.type_vocab_size,
        hidden: config.hidden_size,
        intermediate: config.intermediate_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        layer_norm_eps: config.layer_norm_eps as f32,
        norm: Norm::Post,
        causal: false,
        activation: Activation::Gelu,
    }
}

/// Random weights under the names that candle's BERT asks for, none of them at a telling default (a LayerNorm's 1 and 0).
fn weights(config: &bert::Config) -> HashMap<String, Tensor> {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    bert::BertModel::load(vb, config).unwrap();
    let map = map.data().lock().unwrap();
    map.iter()
        .map(|(name, var)| {
            let noise = var.randn_like(0.0, 0.3).unwrap();
            (name.clone(), (var.as_tensor() + noise).unwrap())
        })
        .collect()
}

fn builder(weights: HashMap<String, Tensor>) -> VarBuilder<'static> {
    VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu)
}

fn sequences() -> Vec<Vec<u32>> {
    let id = |row: usize, i: usize| ((row * 31 + i * 17) % 100) as u32;
    (LENGTHS.iter().enumerate())
        .map(|(row, &length)| (0..length).map(|i| id(row, i)).collect())
        .collect()
}

/// candle's output of a padded and masked batch, its padding taken out.
fn candle_output(config: &bert::Config, weights: HashMap<String, Tensor>) -> Tensor {
    let longest = LENGTHS.into_iter().max().unwrap();
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for mut row in sequences() {
        mask.push(
            (0..longest)
                .map(|i| u32::from(i < row.len()))
                .collect::<Vec<_>>(),
        );
        row.resize(longest, 0);
        ids.push(row);
    }
    let [ids, mask] = [ids, mask].map(|rows| Tensor::new(rows, &Device::Cpu).unwrap());
    let model = bert::BertModel::load(builder(weights), config).unwrap();
    let output = model
        .forward(&ids, &ids.zeros_like().unwrap(), Some(&mask))
        .unwrap();
    let rows: Vec<Tensor> = (LENGTHS.iter().enumerate())
        .map(|(row, &length)| output.get(row).unwrap().narrow(0, 0, length).unwrap())
        .collect();
    Tensor::cat(&rows, 0).unwrap()
}

#[test]
fn a_packed_batch_equals_candles_padded_and_masked_one() {
    let config = config();
    let weights = weights(&config);
    let encoder = Encoder::load(
        &transformer_config(&config),
        &TensorNames::BERT,
        Precision::F32,
        &builder(weights.clone()),
    )
    .unwrap();
    let got = encoder
        .forward(&Packed::new(sequences()), Pooling::Tokens)
        .unwrap();
    let error = max_error(&got, &candle_output(&config, weights));
    assert!(error < 1e-4, "{error}");
}

#[test]
fn a_batch_equals_its_sequences_alone() {
    let config = config();
    let encoder = Encoder::load(
        &transformer_config(&config),
        &TensorNames::BERT,
        Precision::F32,
        &builder(weights(&config)),
    )
    .unwrap();
    let together = encoder
        .forward(&Packed::new(sequences()), Pooling::Tokens)
        .unwrap();
    let alone: Vec<Tensor> = sequences()
        .into_iter()
        .map(|sequence| {
            encoder
                .forward(&Packed::new([sequence]), Pooling::Tokens)
                .unwrap()
        })
        .collect();
    let error = max_error(&together, &Tensor::cat(&alone, 0).unwrap());
    assert!(error < 1e-5, "{error}");
}

#[test]
fn rows_of_sequences_are_made_of_those_of_their_tokens() {
    let config = config();
    for (precision, norm) in Precision::all()
        .into_iter()
        .flat_map(|precision| [(precision, Norm::Post), (precision, Norm::Pre)])
    {
        let encoder = Encoder::load(
            &TransformerConfig {
                norm,
                ..transformer_config(&config)
            },
            &TensorNames::BERT,
            precision,
            &builder(weights(&config)),
        )
        .unwrap();
        let batch = Packed::new(sequences());
        let all = encoder.forward(&batch, Pooling::Tokens).unwrap();
        let rows = |row: &dyn Fn(usize, usize) -> Tensor| {
            let rows: Vec<Tensor> = (batch.offsets().windows(2))
                .map(|bounds| row(bounds[0], bounds[1]))
                .collect();
            Tensor::cat(&rows, 0).unwrap()
        };
        for (pooling, expected, tolerance) in [
            (
                Pooling::First,
                rows(&|first, _| all.narrow(0, first, 1).unwrap()),
                0.0,
            ),
            (
                Pooling::Last,
                rows(&|_, end| all.narrow(0, end - 1, 1).unwrap()),
                0.0,
            ),
            (
                Pooling::Mean,
                rows(&|first, end| {
                    all.narrow(0, first, end - first)
                        .unwrap()
                        .mean_keepdim(0)
                        .unwrap()
                }),
                1e-5,
            ),
        ] {
            let got = encoder.forward(&batch, pooling).unwrap();
            let error = max_error(&got, &expected);
            assert!(error <= tolerance, "{pooling:?}, {norm:?}: {error}");
        }
    }
}

#[test]
fn bf16_stays_near_f32() {
    let config = config();
    let weights = weights(&config);
    let outputs: Vec<Tensor> = Precision::all()
        .into_iter()
        .map(|precision| {
            let encoder = Encoder::load(
                &transformer_config(&config),
                &TensorNames::BERT,
                precision,
                &builder(weights.clone()),
            );
            encoder
                .unwrap()
                .forward(&Packed::new(sequences()), Pooling::Tokens)
                .unwrap()
        })
        .collect();
    let [f32, bf16] = &outputs[..] else {
        eprintln!("skipped: this processor has no bf16");
        return;
    };
    // The weights differ from run to run, and the largest error of a few thousand values with them; their mean hardly does.
    let error = (f32 - bf16).unwrap().abs().unwrap().mean_all().unwrap();
    let error: f32 = error.to_scalar().unwrap();
    assert!(0.0 < error && error < 0.05, "{error}");
}

#[test]
fn old_layer_norm_names_are_understood() {
    let config = config();
    let weights = weights(&config);
    let old: HashMap<String, Tensor> = weights
        .iter()
        .map(|(name, tensor)| {
            let name = name
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta");
            (name, tensor.clone())
        })
        .collect();
    let [new, old] = [weights, old].map(|weights| {
        let encoder = Encoder::load(
            &transformer_config(&config),
            &TensorNames::BERT,
            Precision::F32,
            &builder(weights),
        );
        encoder
            .unwrap()
            .forward(&Packed::new(sequences()), Pooling::Tokens)
            .unwrap()
    });
    assert_eq!(max_error(&new, &old), 0.0);
}

#[test]
fn ids_and_lengths_that_the_tables_do_not_have_are_refused() {
    let config = config();
    let encoder = Encoder::load(
        &transformer_config(&config),
        &TensorNames::BERT,
        Precision::F32,
        &builder(weights(&config)),
    )
    .unwrap();
    for sequence in [vec![100], vec![1; 41]] {
        let batch = Packed::new([sequence]);
        assert!(encoder.forward(&batch, Pooling::Tokens).is_err());
    }
    let empty = Packed::new([vec![]]);
    let nothing = encoder.forward(&empty, Pooling::Tokens).unwrap();
    assert_eq!(nothing.dims(), [0, 48]);
    for pooling in [Pooling::First, Pooling::Last, Pooling::Mean] {
        assert!(encoder.forward(&empty, pooling).is_err());
    }
}

#[test]
fn every_bench_case_runs() {
    for mut case in bench_cases().unwrap() {
        (case.run)().unwrap_or_else(|error| panic!("{}: {error}", case.operator));
    }
}
