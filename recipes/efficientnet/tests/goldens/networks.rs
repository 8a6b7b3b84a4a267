//! Whole networks with random weights, and inputs that are a function of their names.

use candle_core::{DType, Device, Tensor, safetensors};
use galley_core::{AnyRecipe, WeightSource, synthetic};
use serde::Deserialize;

use super::{cuda, data, difference, load, load_for, logits};

#[derive(Deserialize)]
struct Synthetic {
    seed: u64,
    inputs: Vec<SyntheticInput>,
}

#[derive(Deserialize)]
struct SyntheticInput {
    name: String,
    size: usize,
    block: usize,
    top5: Vec<usize>,
}

/// Each input alone and all of them in one batch.
fn synthetic_golden(recipe: &AnyRecipe, golden: &str, tolerance: f32) {
    let json = std::fs::read(data(&format!("{golden}.json"))).unwrap();
    let file: Synthetic = serde_json::from_slice(&json).unwrap();
    let expected = safetensors::load(data(&format!("{golden}.safetensors")), &Device::Cpu).unwrap();
    assert_eq!(recipe.info().weights, format!("synthetic:{}", file.seed));
    let images: Vec<Tensor> = file
        .inputs
        .iter()
        .map(|input| {
            let values = synthetic::image(&input.name, input.size, file.seed, input.block);
            let shape = (1, 3, input.size, input.size);
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        })
        .collect();
    let batched = logits(recipe, Tensor::cat(&images, 0).unwrap());
    for (i, (input, image)) in file.inputs.iter().zip(images).enumerate() {
        let expected: Vec<f32> = expected[&format!("logits.{i}")].to_vec1().unwrap();
        let single = logits(recipe, image).remove(0);
        let off = difference(&single, &expected);
        println!("{golden} {i}: largest difference {off:e}");
        assert!(off < tolerance, "{golden} {i} is off by {off}");
        assert!(difference(&single, &batched[i]) < 1e-4);
        let mut order: Vec<usize> = (0..single.len()).collect();
        order.sort_by(|a, b| single[*b].total_cmp(&single[*a]));
        assert_eq!(order[..5], input.top5);
    }
}

#[test]
fn b0_equals_torchvisions() {
    let recipe = load("efficientnet_b0", WeightSource::Synthetic(None));
    synthetic_golden(&recipe, "efficientnet_b0", 1e-4);
}

#[test]
fn b2_equals_torchvisions() {
    let recipe = load("efficientnet_b2_torchvision", WeightSource::Synthetic(None));
    synthetic_golden(&recipe, "efficientnet_b2", 2e-3);
    // torchvision's own count, which leaves statistics out.
    assert_eq!(recipe.architecture().parameters, Some(9_109_994));
}

#[test]
fn b2_equals_timms_tensorflow_edition() {
    let recipe = load("efficientnet_b2", WeightSource::Synthetic(None));
    synthetic_golden(&recipe, "efficientnet_b2_tf", 2e-3);
}

#[test]
fn on_cuda_they_equal_the_same() {
    let Some(device) = cuda() else { return };
    for (name, golden) in [
        ("efficientnet_b0", "efficientnet_b0"),
        ("efficientnet_b2_torchvision", "efficientnet_b2"),
        ("efficientnet_b2", "efficientnet_b2_tf"),
    ] {
        let weights = WeightSource::Synthetic(None);
        let recipe = load_for(name, weights, (device.clone(), DType::F32)).unwrap();
        synthetic_golden(&recipe, golden, 2e-3);
    }
}
