//! The bundled model against transformers: logits, labels and entities of 40 texts, made by its token-classification
//! pipeline with aggregation `simple` (texts longer than 512 tokens cut there, as transformers does).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use candle_core::Tensor;
use common::{ask, bundled, golden_tensors, logits, max_difference};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Golden {
    text: String,
    truncated: bool,
    ids: Vec<u32>,
    offsets: Vec<(usize, usize)>,
    labels: Vec<usize>,
    scores: Vec<f32>,
    /// Group, word, score, start, end.
    entities: Vec<(String, String, f32, usize, usize)>,
}

fn goldens() -> Vec<Golden> {
    serde_json::from_str(include_str!("data/rampart.json")).unwrap()
}

fn label_names() -> Vec<String> {
    let config: Value =
        serde_json::from_slice(include_bytes!("../weights/rampart/config.json")).unwrap();
    (0..config["id2label"].as_object().unwrap().len())
        .map(|i| {
            config["id2label"][i.to_string()]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[test]
fn logits_and_labels_are_those_of_transformers() {
    let recipe = bundled();
    let expected = golden_tensors("rampart_logits.safetensors");
    for (i, golden) in goldens().into_iter().enumerate() {
        let got = logits(&recipe, std::slice::from_ref(&golden.ids), None).remove(0);
        let expected: Vec<Vec<f32>> = expected[&format!("{i:02}.gguf")].to_vec2().unwrap();
        let error = max_difference(&got, &expected);
        assert!(error < 1e-3, "text {i}: {error}");
        for (token, row) in got.iter().enumerate() {
            let best = (0..row.len())
                .max_by(|&a, &b| row[a].total_cmp(&row[b]))
                .unwrap();
            let score = galley_text::softmax(row)[best];
            assert_eq!(best, golden.labels[token], "text {i}, token {token}");
            assert!((score - golden.scores[token]).abs() < 0.01);
        }
    }
}

#[test]
fn simple_entities_are_those_of_the_pipeline() {
    let goldens: Vec<_> = goldens()
        .into_iter()
        .filter(|golden| !golden.truncated)
        .collect();
    let inputs = goldens
        .iter()
        .map(|golden| json!({"text": golden.text, "aggregation": "simple"}));
    let answers = ask(&bundled(), inputs.collect());
    assert_eq!(answers.len(), 38);
    for (golden, got) in goldens.iter().zip(&answers) {
        let spans: Vec<_> = got
            .iter()
            .map(|e| {
                (
                    e.entity_group.as_deref().unwrap(),
                    e.word.as_str(),
                    e.start,
                    e.end,
                )
            })
            .collect();
        let expected: Vec<_> = golden
            .entities
            .iter()
            .map(|(group, word, _, start, end)| (group.as_str(), word.as_str(), *start, *end))
            .collect();
        assert_eq!(spans, expected, "{:?}", golden.text);
        for (entity, expected) in got.iter().zip(&golden.entities) {
            assert!((entity.score - expected.2).abs() < 0.01);
            assert_eq!((&entity.entity, entity.index), (&None, None));
        }
    }
}

#[test]
fn without_aggregation_every_labelled_token_is_given() {
    let names = label_names();
    let recipe = bundled();
    for golden in goldens().into_iter().filter(|golden| !golden.truncated) {
        let input = json!({"text": golden.text, "aggregation": "none"});
        let got = ask(&recipe, vec![input]).remove(0);
        let got: Vec<_> = got
            .iter()
            .map(|e| {
                (
                    e.index.unwrap(),
                    e.entity.as_deref().unwrap(),
                    e.start,
                    e.end,
                )
            })
            .collect();
        // The first and the last token are the special ones.
        let expected: Vec<_> = (1..golden.ids.len() - 1)
            .filter(|&i| golden.labels[i] != 0)
            .map(|i| {
                let (start, end) = golden.offsets[i];
                (i, names[golden.labels[i]].as_str(), start, end)
            })
            .collect();
        assert_eq!(got, expected, "{:?}", golden.text);
    }
}

#[test]
fn by_default_no_entity_is_a_fragment_of_a_word() {
    let goldens = goldens();
    let texts = goldens.iter().map(|golden| json!(golden.text)).collect();
    for (golden, entities) in goldens.iter().zip(ask(&bundled(), texts)) {
        for entity in entities {
            assert!(
                !entity.word.contains("##"),
                "{entity:?} in {:?}",
                golden.text
            );
        }
    }
}

#[test]
fn a_batch_answers_as_each_text_alone() {
    let recipe = bundled();
    let texts: Vec<Value> = goldens().iter().take(20).map(|g| json!(g.text)).collect();
    let together = ask(&recipe, texts.clone());
    for (text, together) in texts.into_iter().zip(together) {
        let alone = ask(&recipe, vec![text]).remove(0);
        assert_eq!(alone.len(), together.len());
        for (mut alone, together) in alone.into_iter().zip(together) {
            assert!((alone.score - together.score).abs() < 1e-4);
            alone.score = together.score;
            assert_eq!(alone, together);
        }
    }
}

#[test]
fn a_padded_batch_gives_the_logits_of_its_rows() {
    let recipe = bundled();
    let rows: Vec<Vec<u32>> = goldens()
        .into_iter()
        .take(4)
        .map(|golden| golden.ids)
        .collect();
    let longest = rows.iter().map(Vec::len).max().unwrap();
    let padded = |value: u32, fill: fn(&[u32]) -> Vec<u32>| -> Vec<Vec<u32>> {
        (rows.iter().map(|row| fill(row)))
            .map(|mut row| {
                row.resize(longest, value);
                row
            })
            .collect()
    };
    let (ids, mask) = (
        padded(0, <[u32]>::to_vec),
        padded(0, |row| vec![1; row.len()]),
    );
    let got = logits(&recipe, &ids, Some(&mask));
    for (row, got) in rows.iter().zip(&got) {
        let alone = logits(&recipe, std::slice::from_ref(row), None).remove(0);
        assert!(max_difference(got, &alone) < 1e-4);
    }
    let all_hidden = Tensor::zeros((1, 3), candle_core::DType::U32, &candle_core::Device::Cpu);
    let all_hidden = all_hidden.unwrap().to_vec2().unwrap();
    assert!(logits(&recipe, &all_hidden, Some(&all_hidden))[0].is_empty());
}
