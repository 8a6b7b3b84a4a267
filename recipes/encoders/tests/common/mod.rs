//! What the integration tests share: loading the recipe, asking it, reading goldens.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use candle_core::{Device, Tensor};
use galley_core::{
    AnyRecipe, Entity, Input, LoadError, LoadOptions, Output, RawTensors, WeightSource,
};
use galley_encoders::ENTRIES;
use serde_json::Value;

pub(crate) fn load(
    weights: WeightSource,
    options: &[(&str, &str)],
) -> Result<AnyRecipe, LoadError> {
    let options = LoadOptions {
        weights,
        options: (options.iter())
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        ..LoadOptions::default()
    };
    (ENTRIES[0].load)(&ENTRIES[0], &options)
}

/// The bundled model, loaded once for all tests of a program.
pub(crate) fn bundled() -> AnyRecipe {
    static RECIPE: LazyLock<AnyRecipe> =
        LazyLock::new(|| load(WeightSource::Bundled, &[]).unwrap());
    Arc::clone(&RECIPE)
}

/// The entities of each input, all in one batch.
pub(crate) fn ask(recipe: &AnyRecipe, inputs: Vec<Value>) -> Vec<Vec<Entity>> {
    let inputs = inputs.into_iter().map(Input::Json).collect();
    galley_core::run_batch(recipe.as_ref(), inputs)
        .unwrap()
        .into_iter()
        .map(|answer| match answer.unwrap() {
            Output::Entities(entities) => entities,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// The logits of each row of `[n, l]` ids, with a mask or without.
pub(crate) fn logits(
    recipe: &AnyRecipe,
    ids: &[Vec<u32>],
    mask: Option<&[Vec<u32>]>,
) -> Vec<Vec<Vec<f32>>> {
    let tensor = |rows: &[Vec<u32>]| Tensor::new(rows.to_vec(), &Device::Cpu).unwrap();
    let mut tensors: RawTensors = [("input_ids".to_owned(), tensor(ids))].into();
    if let Some(mask) = mask {
        tensors.insert("attention_mask".into(), tensor(mask));
    }
    recipe
        .forward_tensors(&tensors)
        .unwrap()
        .into_iter()
        .map(|mut row| serde_json::from_value(row["logits"].take()).unwrap())
        .collect()
}

/// The tensors of a safetensors file in `tests/data`.
pub(crate) fn golden_tensors(name: &str) -> HashMap<String, Tensor> {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

pub(crate) fn max_difference(got: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let pairs = got.iter().flatten().zip(expected.iter().flatten());
    pairs
        .map(|(got, expected)| (got - expected).abs())
        .fold(0.0, f32::max)
}
