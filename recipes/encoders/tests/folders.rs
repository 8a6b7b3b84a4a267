//! Models that are not bundled: random weights of BERT-base against PyTorch, and folders as the hub has them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor};
use common::{ask, golden_tensors, load, logits, max_difference};
use galley_core::{WeightSource, synthetic};
use serde_json::{Value, json};

#[test]
fn synthetic_bert_base_agrees_with_pytorch() {
    let recipe = load(WeightSource::Synthetic(None), &[]).unwrap();
    assert_eq!(recipe.info().weights, "synthetic:2001");
    let expected = golden_tensors("bert_base_cased_tokcls.safetensors");
    let rows = |name: &str| expected[name].to_vec2::<f32>().unwrap();
    let ids = |name: &str, length| synthetic::token_ids(name, length, 2001, 28_996);
    for (i, length) in [8, 37, 128, 384].into_iter().enumerate() {
        let got = logits(&recipe, &[ids(&format!("input.{i}"), length)], None).remove(0);
        let error = max_difference(&got, &rows(&format!("logits.{i}")));
        assert!(error < 3e-4, "input {i}: {error}");
    }
    let lengths = [7, 33, 20, 48];
    let (mut padded, mut mask) = (Vec::new(), Vec::new());
    for (row, length) in lengths.into_iter().enumerate() {
        let mut ids = ids(&format!("input.batch.{row}"), length);
        ids.resize(48, 0);
        padded.push(ids);
        mask.push((0..48).map(|i| u32::from(i < length)).collect::<Vec<_>>());
    }
    let batch: Vec<Vec<Vec<f32>>> = expected["logits.batch"].to_vec3().unwrap();
    for (row, got) in logits(&recipe, &padded, Some(&mask)).iter().enumerate() {
        let error = max_difference(got, &batch[row][..lengths[row]]);
        assert!(error < 3e-4, "row {row}: {error}");
    }
}

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nAnna\nsings\n##e\n.\n";

fn config() -> Value {
    json!({
        "architectures": ["BertForTokenClassification"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 12,
        "type_vocab_size": 2,
        "vocab_size": 9,
        "id2label": {"0": "O", "1": "B-PER", "2": "I-PER"}
    })
}

/// Random weights under transformers' names, LayerNorm's as `norm` says.
fn weights(norm: [&str; 2]) -> HashMap<String, Tensor> {
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut linear = |name: &str, output: usize, input: usize| {
        shapes.push((format!("{name}.weight"), vec![output, input]));
        shapes.push((format!("{name}.bias"), vec![output]));
    };
    linear("classifier", 3, 16);
    for layer in 0..2 {
        let layer = format!("bert.encoder.layer.{layer}");
        for part in ["query", "key", "value"] {
            linear(&format!("{layer}.attention.self.{part}"), 16, 16);
        }
        linear(&format!("{layer}.attention.output.dense"), 16, 16);
        linear(&format!("{layer}.intermediate.dense"), 24, 16);
        linear(&format!("{layer}.output.dense"), 16, 24);
    }
    let mut norms = vec!["bert.embeddings.LayerNorm".to_owned()];
    for layer in 0..2 {
        for part in ["attention.output", "output"] {
            norms.push(format!("bert.encoder.layer.{layer}.{part}.LayerNorm"));
        }
    }
    for (table, rows) in [("word", 9), ("position", 12), ("token_type", 2)] {
        shapes.push((
            format!("bert.embeddings.{table}_embeddings.weight"),
            vec![rows, 16],
        ));
    }
    let tensor = |name: &str, shape: &[usize]| {
        Tensor::from_vec(synthetic::tensor(name, shape, 5), shape, &Device::Cpu).unwrap()
    };
    let mut tensors: HashMap<_, _> = (shapes.iter())
        .map(|(name, shape)| (name.clone(), tensor(name, shape)))
        .collect();
    for name in norms {
        for (part, stored) in ["weight", "bias"].into_iter().zip(norm) {
            tensors.insert(
                format!("{name}.{stored}"),
                tensor(&format!("{name}.{part}"), &[16]),
            );
        }
    }
    tensors
}

/// A folder as `dslim/bert-base-NER` has it: no `tokenizer.json`.
fn write(dir: &Path, config: &Value, weights: &HashMap<String, Tensor>) {
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("vocab.txt"), VOCAB).unwrap();
    fs::write(
        dir.join("tokenizer_config.json"),
        r#"{"do_lower_case": false}"#,
    )
    .unwrap();
    candle_core::safetensors::save(weights, dir.join("model.safetensors")).unwrap();
}

#[test]
fn a_folder_with_a_vocabulary_runs_under_old_and_new_names() {
    let answers = [["weight", "bias"], ["gamma", "beta"]].map(|norm| {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &config(), &weights(norm));
        let recipe = load(WeightSource::Dir(dir.path().into()), &[]).unwrap();
        assert!(recipe.info().weights.starts_with("dir: "));
        let texts = vec![
            json!({"text": "Anna singse.", "aggregation": "none"}),
            // Longer than the model's 12 positions.
            json!({"text": "Anna sings . ".repeat(10), "aggregation": "none"}),
        ];
        let rows = logits(&recipe, &[vec![2, 5, 6, 7, 8, 3]], None);
        (ask(&recipe, texts), rows)
    });
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].1[0].len(), 6);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let without = |name: &str| {
        let mut tensors = weights(["weight", "bias"]);
        tensors.remove(name).unwrap();
        tensors
    };
    let changed = |key: &str, value: Value| {
        let mut config = config();
        config[key] = value;
        config
    };
    let all = || weights(["weight", "bias"]);
    for (config, weights, reason) in [
        (
            changed("architectures", json!(["BertForMaskedLM"])),
            all(),
            "expected the architecture BertForTokenClassification, got BertForMaskedLM",
        ),
        (
            changed("hidden_act", json!("silu")),
            all(),
            "hidden_act: expected gelu, gelu_new or relu, got silu",
        ),
        (
            changed("vocab_size", json!(8)),
            all(),
            "vocab_size: expected the tokenizer's 9",
        ),
        (
            config(),
            without("bert.encoder.layer.1.output.dense.weight"),
            "bert.encoder.layer.1.output.dense.weight is missing",
        ),
        (
            changed("num_attention_heads", json!(3)),
            all(),
            "multiple of 3 heads",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &config, &weights);
        let error = load(WeightSource::Dir(dir.path().into()), &[])
            .err()
            .unwrap();
        assert!(error.to_string().contains(reason), "{error}");
    }
}
