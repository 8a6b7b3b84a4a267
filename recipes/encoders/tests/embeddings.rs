//! Embeddings against the sentence-transformers library: `data/embeddings/make.py` made the folder and the numbers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use candle_core::{Device, Tensor};
use galley_core::{
    AnswerForm, AnyRecipe, Entry, Input, InputError, LoadError, LoadOptions, Output, WeightSource,
    run_batch,
};
use galley_encoders::ENTRIES;
use serde::Deserialize;
use serde_json::{Value, json};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/embeddings");

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    long: String,
    /// Vectors of the texts and of the long one, by pooling.
    mean: Vec<Vec<f32>>,
    cls: Vec<Vec<f32>>,
}

fn golden() -> Golden {
    let path = Path::new(FOLDER).join("embeddings.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn load(weights: WeightSource, options: &[(&str, &str)]) -> Result<AnyRecipe, LoadError> {
    let entry: &Entry = (ENTRIES.iter())
        .find(|entry| entry.name == "text_embeddings")
        .unwrap();
    let options = LoadOptions {
        weights,
        options: (options.iter())
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        ..LoadOptions::default()
    };
    (entry.load)(entry, &options)
}

fn dir(path: impl AsRef<Path>) -> WeightSource {
    WeightSource::Dir(path.as_ref().into())
}

/// A copy of the folder with other files in place of its own.
fn changed(files: &[(&str, Value)]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("1_Pooling")).unwrap();
    for name in [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "vocab.txt",
    ] {
        fs::copy(Path::new(FOLDER).join(name), copy.path().join(name)).unwrap();
    }
    for (name, value) in files {
        fs::write(copy.path().join(name), value.to_string()).unwrap();
    }
    copy
}

fn embed(recipe: &AnyRecipe, inputs: Vec<Value>) -> Vec<Vec<f32>> {
    let inputs = inputs.into_iter().map(Input::Json).collect();
    let answers = galley_core::run_batch(recipe.as_ref(), inputs).unwrap();
    (answers.into_iter())
        .map(|answer| match answer.unwrap() {
            Output::Embedding(vector) => vector,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        (a.iter().zip(b))
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[track_caller]
fn assert_same(got: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.len(), expected.len());
        assert!(
            cosine(got, expected) > 0.999_999,
            "text {i}: {got:?}, expected {expected:?}"
        );
        for (a, b) in got.iter().zip(expected) {
            assert!(
                (a - b).abs() < 1e-4 * (1.0 + b.abs()),
                "text {i}: {a}, expected {b}"
            );
        }
    }
}

fn inputs(golden: &Golden) -> Vec<Value> {
    let long = json!({"text": golden.long, "truncate": true});
    golden
        .texts
        .iter()
        .map(|text| json!(text))
        .chain([long])
        .collect()
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let golden = golden();
    let recipe = load(dir(FOLDER), &[]).unwrap();
    assert_eq!(recipe.signature().answer, AnswerForm::Embedding(16));
    assert_same(&embed(&recipe, inputs(&golden)), &golden.mean);
}

#[test]
fn the_first_token_is_the_vector_where_the_folder_says_so() {
    let golden = golden();
    let modules: Value =
        serde_json::from_slice(&fs::read(Path::new(FOLDER).join("modules.json")).unwrap()).unwrap();
    let modules = json!(modules.as_array().unwrap()[..2]);
    for pooling in [
        json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}),
        json!({"pooling_mode": "cls"}),
    ] {
        let folder = changed(&[
            ("modules.json", modules.clone()),
            ("1_Pooling/config.json", pooling),
        ]);
        let recipe = load(dir(folder.path()), &[]).unwrap();
        assert_same(&embed(&recipe, inputs(&golden)), &golden.cls);
    }
}

#[test]
fn a_text_alone_is_as_in_a_batch() {
    let golden = golden();
    let recipe = load(dir(FOLDER), &[]).unwrap();
    let together = embed(&recipe, inputs(&golden));
    for (input, together) in inputs(&golden).into_iter().zip(together) {
        assert_eq!(embed(&recipe, vec![input])[0], together);
    }
}

#[test]
fn a_long_text_is_refused_unless_it_is_to_be_cut() {
    let golden = golden();
    let recipe = load(dir(FOLDER), &[]).unwrap();
    let error = recipe
        .prepare(Input::text(golden.long.clone()))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "text of 28 tokens exceeds the limit of 18 tokens (--option text_embeddings.truncate=true cuts it)"
    );
    assert!(matches!(error, InputError::TooLarge { .. }));
    let cutting = load(dir(FOLDER), &[("truncate", "true")]).unwrap();
    let cut = embed(&cutting, vec![json!(golden.long)]);
    assert_same(&cut, &golden.mean[golden.texts.len()..]);
    let kept = json!({"text": golden.long, "truncate": false});
    assert!(cutting.prepare(Input::Json(kept)).is_err());
    let odd = json!({"text": "a cat", "truncate": 1});
    assert!(recipe.prepare(Input::Json(odd)).is_err());
    assert!(load(dir(FOLDER), &[("truncate", "yes")]).is_err());
}

#[test]
fn folders_that_ask_for_other_steps_are_refused_by_name() {
    for (file, value, reason) in [
        (
            "modules.json",
            json!([{"path": "", "type": "sentence_transformers.models.Transformer"},
                {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]),
            "got Transformer, Pooling, Dense",
        ),
        (
            "modules.json",
            json!([{"path": "..", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]),
            "paths within the folder",
        ),
        (
            "1_Pooling/config.json",
            json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}),
            "got cls_token, mean_tokens",
        ),
        (
            "1_Pooling/config.json",
            json!({"pooling_mode": "max"}),
            "got max",
        ),
        (
            "sentence_bert_config.json",
            json!({"max_seq_length": 20, "do_lower_case": true}),
            "do_lower_case",
        ),
        (
            "config.json",
            json!({"model_type": "mpnet", "vocab_size": 20}),
            "mpnet",
        ),
    ] {
        let folder = changed(&[(file, value)]);
        let error = load(dir(folder.path()), &[]).err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn random_weights_give_vectors_of_length_one() {
    let recipe = load(WeightSource::Synthetic(None), &[]).unwrap();
    let vectors = embed(&recipe, vec![json!("a lighthouse"), json!("")]);
    for vector in &vectors {
        assert_eq!(vector.len(), 384);
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-6);
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
    assert_eq!(recipe.info().weights, "synthetic:2003");
}

#[test]
fn raw_tensors_give_the_same_vectors() {
    let golden = golden();
    let recipe = load(dir(FOLDER), &[]).unwrap();
    // "The cat sat on the mat." between the special tokens.
    let ids = Tensor::new(&[[2i64, 5, 7, 9, 11, 5, 12, 17, 3]], &Device::Cpu).unwrap();
    let rows = recipe
        .forward_tensors(&[("input_ids".to_owned(), ids)].into())
        .unwrap();
    let vector: Vec<f32> = serde_json::from_value(rows[0]["embedding"].clone()).unwrap();
    assert_same(&[vector], &golden.mean[1..2]);
}

/// It would be `null` in JSON otherwise.
#[test]
fn a_vector_that_is_not_finite_is_no_answer() {
    let copy = changed(&[]);
    let path = copy.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    for (name, tensor) in &mut tensors {
        if name.ends_with("LayerNorm.bias") {
            *tensor = tensor.affine(0.0, f64::NAN).unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let recipe = load(dir(copy.path()), &[]).unwrap();
    let answers = run_batch(recipe.as_ref(), vec![Input::text("a text")]).unwrap();
    assert_eq!(answers, [Err(InputError::NotFinite { dtype: "f32" })]);
}
