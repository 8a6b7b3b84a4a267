//! Random weights of DistilBERT against PyTorch, and texts of any length.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use galley_core::{
    AnyRecipe, Input, LoadOptions, Output, RawTensors, TextLabel, WeightSource, synthetic,
};
use galley_encoders::ENTRIES;

static RECIPE: LazyLock<AnyRecipe> = LazyLock::new(|| {
    let options = LoadOptions {
        weights: WeightSource::Synthetic(None),
        ..LoadOptions::default()
    };
    (ENTRIES[1].load)(&ENTRIES[1], &options).unwrap()
});

fn logits(ids: &[Vec<u32>], mask: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let tensor = |rows: &[Vec<u32>]| Tensor::new(rows.to_vec(), &Device::Cpu).unwrap();
    let tensors: RawTensors = [
        ("input_ids".to_owned(), tensor(ids)),
        ("attention_mask".to_owned(), tensor(mask)),
    ]
    .into();
    let rows = RECIPE.forward_tensors(&tensors).unwrap();
    rows.into_iter()
        .map(|mut row| serde_json::from_value(row["logits"].take()).unwrap())
        .collect()
}

fn ask(texts: &[&str]) -> Vec<TextLabel> {
    let inputs = texts.iter().map(|text| Input::text(*text)).collect();
    galley_core::run_batch(RECIPE.as_ref(), inputs)
        .unwrap()
        .into_iter()
        .map(|answer| match answer.unwrap() {
            Output::TextLabel(label) => label,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-4, "{got} {expected}");
    }
}

#[test]
fn logits_are_those_of_pytorch() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/distilbert_seqcls.safetensors"
    );
    let expected = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let ids = |name: &str, length| synthetic::token_ids(name, length, 2002, 30_522);
    for (i, length) in [8, 37, 128, 384].into_iter().enumerate() {
        let ids = ids(&format!("input.{i}"), length);
        let got = logits(&[ids], &[vec![1; length]]).remove(0);
        close(
            &got,
            &expected[&format!("logits.{i}")].to_vec1::<f32>().unwrap(),
        );
    }
    let lengths = [7, 33, 20, 48];
    let (mut padded, mut mask) = (Vec::new(), Vec::new());
    for (row, length) in lengths.into_iter().enumerate() {
        let mut ids = ids(&format!("input.batch.{row}"), length);
        ids.resize(48, 0);
        padded.push(ids);
        mask.push((0..48).map(|i| u32::from(i < length)).collect());
    }
    let batch: Vec<Vec<f32>> = expected["logits.batch"].to_vec2().unwrap();
    for (got, expected) in logits(&padded, &mask).iter().zip(&batch) {
        close(got, expected);
    }
}

#[test]
fn a_text_gets_every_label_best_first() {
    let answer = ask(&["a fine, warm film"]).remove(0);
    assert_eq!(
        (&answer.label, answer.score),
        (&answer.scores[0].0, answer.scores[0].1)
    );
    assert!(answer.scores[0].1 >= answer.scores[1].1);
    assert!((answer.scores[0].1 + answer.scores[1].1 - 1.0).abs() < 1e-6);
    let mut labels: Vec<_> = answer
        .scores
        .iter()
        .map(|(label, _)| label.as_str())
        .collect();
    labels.sort_unstable();
    assert_eq!(labels, ["NEGATIVE", "POSITIVE"]);
}

#[test]
fn a_batch_answers_as_each_text_alone() {
    let long = "It went on and on, and then it ended. ".repeat(52);
    let texts = ["", "short", &long, "a fine, warm film"];
    for (text, together) in texts.iter().zip(ask(&texts)) {
        let alone = ask(&[text]).remove(0);
        assert_eq!(alone.label, together.label);
        assert!((alone.score - together.score).abs() < 1e-4);
    }
}

#[test]
fn every_part_of_a_long_text_has_its_say() {
    let text = |last: &str| format!("{}{last}", "It went on and on, and then. ".repeat(60));
    let prepared = RECIPE.prepare(Input::text(text("x"))).unwrap();
    assert!(prepared.cost() > 512, "{}", prepared.cost());
    let (a, b) = (text(&"bad ".repeat(40)), text(&"good ".repeat(40)));
    let answers = ask(&[&a, &b]);
    let positive = |answer: &TextLabel| {
        let (_, p) = answer
            .scores
            .iter()
            .find(|(label, _)| label == "POSITIVE")
            .unwrap();
        *p
    };
    assert_ne!(positive(&answers[0]), positive(&answers[1]));
    assert!((answers[0].scores[0].1 + answers[0].scores[1].1 - 1.0).abs() < 1e-5);
}

#[test]
fn a_text_has_a_bound_in_tokens() {
    assert!(RECIPE.prepare(Input::text("word ".repeat(16_384))).is_ok());
    let refused = RECIPE.prepare(Input::text("word ".repeat(16_385)));
    let reason = refused.err().unwrap().to_string();
    assert_eq!(
        reason,
        "text of 16385 tokens exceeds the limit of 16384 tokens (--option distilbert_sst2.max_tokens)"
    );
}

#[test]
fn a_row_without_tokens_is_refused() {
    let zeros = Tensor::zeros((1, 2), candle_core::DType::I64, &Device::Cpu).unwrap();
    let tensors: RawTensors = [
        ("input_ids".to_owned(), zeros.clone()),
        ("attention_mask".to_owned(), zeros),
    ]
    .into();
    assert!(RECIPE.forward_tensors(&tensors).is_err());
}

#[test]
fn the_model_is_as_large_as_published() {
    let architecture = RECIPE.architecture();
    assert_eq!(architecture.parameters, Some(66_955_010));
    assert_eq!(architecture.layers, Some(6));
    assert_eq!(architecture.hidden_size, Some(768));
    assert_eq!(architecture.attention_heads, Some(12));
}
