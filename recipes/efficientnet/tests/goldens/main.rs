//! Networks and whole recipes against what PyTorch and Pillow made of the same input.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lite0;
mod networks;
mod recipe;
mod timm;

use std::{
    collections::HashMap,
    io::Write as _,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use galley_core::{AnyRecipe, DeviceName, LoadError, LoadOptions, WeightSource};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn load(name: &str, weights: WeightSource) -> AnyRecipe {
    load_for(name, weights, (Device::Cpu, DType::F32)).unwrap()
}

fn load_for(
    name: &str,
    weights: WeightSource,
    (device, dtype): (Device, DType),
) -> Result<AnyRecipe, LoadError> {
    let entry = galley_efficientnet::ENTRIES
        .iter()
        .find(|entry| entry.name == name)
        .unwrap();
    let options = LoadOptions {
        weights,
        device,
        dtype,
        ..LoadOptions::default()
    };
    (entry.load)(entry, &options)
}

/// The first CUDA device, or nothing where there is none, and says so past the test harness, which shows what a passing
/// test prints to nobody.
fn cuda() -> Option<Device> {
    let device = DeviceName::Cuda(0).open();
    device
        .inspect_err(|error| {
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
        })
        .ok()
}

fn logits(recipe: &AnyRecipe, pixels: Tensor) -> Vec<Vec<f32>> {
    let tensors = HashMap::from([("pixels".to_owned(), pixels)]);
    let answers = recipe.forward_tensors(&tensors).unwrap();
    answers
        .into_iter()
        .map(|answer| serde_json::from_value(answer["logits"].clone()).unwrap())
        .collect()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}
