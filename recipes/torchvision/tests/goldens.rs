//! A member of each family against what PyTorch made of the same weights and the same image.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor, safetensors};
use galley_core::{
    AnyRecipe, Input, LoadError, LoadOptions, Output, WeightSource, run_batch, synthetic,
};

const SEED: u64 = 1000;
/// Pixels of a cell of the images.
const BLOCK: usize = 8;

fn load(name: &str, weights: WeightSource) -> Result<AnyRecipe, LoadError> {
    let entry = galley_torchvision::ENTRIES
        .iter()
        .find(|entry| entry.name == name)
        .unwrap();
    let options = LoadOptions {
        weights,
        ..LoadOptions::default()
    };
    (entry.load)(entry, &options)
}

fn logits(recipe: &AnyRecipe, pixels: Tensor) -> Vec<Vec<f32>> {
    let tensors = HashMap::from([("pixels".to_owned(), pixels)]);
    let answers = recipe.forward_tensors(&tensors).unwrap();
    answers
        .into_iter()
        .map(|answer| serde_json::from_value(answer["logits"].clone()).unwrap())
        .collect()
}

fn image(name: &str, size: usize) -> Tensor {
    let values = synthetic::image(name, size, SEED, BLOCK);
    Tensor::from_vec(values, (1, 3, size, size), &Device::Cpu).unwrap()
}

#[test]
fn every_family_equals_torchvisions() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/goldens.safetensors");
    let goldens = safetensors::load(goldens, &Device::Cpu).unwrap();
    assert_eq!(goldens.len(), 11);
    for (golden, expected) in goldens {
        let (name, size) = golden.split_once('.').unwrap();
        let expected: Vec<f32> = expected.to_vec1().unwrap();
        let recipe = load(name, WeightSource::Synthetic(Some(SEED))).unwrap();
        // In a batch with an image of its own.
        let size = size.parse().unwrap();
        let both = Tensor::cat(&[image("other", size), image(name, size)], 0).unwrap();
        let got = logits(&recipe, both);
        assert_ne!(got[0], got[1]);
        let count = expected.len() as f32;
        let mean = expected.iter().sum::<f32>() / count;
        let variance = expected.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count;
        let off = got[1].iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let off = off.fold(0.0, f32::max) / variance.sqrt();
        println!("{name}: off by {off:e} of the deviation");
        assert!(off < 1e-3, "{name} is off by {off} of the deviation");
    }
}

/// A folder with nothing but a state dict, from which a file gets its classes.
#[test]
fn a_folder_is_served_and_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let folder = || WeightSource::Dir(dir.path().into());
    let settings = galley_torchvision::zoo::Settings {
        size: [224; 2],
        classes: 1000,
        auxiliary: false,
    };
    let graph = galley_torchvision::zoo::describe("squeezenet1_1", settings)
        .unwrap()
        .unwrap();
    let mut tensors: HashMap<String, Tensor> = graph
        .parameters()
        .map(|(name, shape)| {
            let values = synthetic::tensor(&name, &shape, SEED);
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect();
    let save = |tensors: &HashMap<String, Tensor>| {
        safetensors::save(tensors, dir.path().join("model.safetensors")).unwrap();
    };
    save(&tensors);
    let recipe = load("squeezenet1_1", folder()).unwrap();
    let synthetic = load("squeezenet1_1", WeightSource::Synthetic(Some(SEED))).unwrap();
    assert_eq!(
        logits(&recipe, image("any", 70)),
        logits(&synthetic, image("any", 70))
    );
    let answers = run_batch(
        recipe.as_ref(),
        vec![recipe.example(), Input::text("no file")],
    )
    .unwrap();
    let Ok(Output::ImageClasses(classes)) = &answers[0] else {
        panic!("{answers:?}")
    };
    assert_eq!(classes.len(), 5);
    assert!(classes[0].synset.is_some());
    assert!(answers[1].is_err());

    tensors.remove("features.6.expand3x3.bias");
    save(&tensors);
    let error = load("squeezenet1_1", folder()).err().unwrap().to_string();
    assert!(
        error.contains("features.6.expand3x3.bias is missing"),
        "{error}"
    );
    std::fs::write(
        dir.path().join("config.json"),
        r#"{"architecture": "vgg11"}"#,
    )
    .unwrap();
    let error = load("squeezenet1_1", folder()).err().unwrap().to_string();
    assert!(
        error.ends_with("expected the architecture squeezenet1_1, got vgg11"),
        "{error}"
    );
}

#[test]
fn images_too_small_for_a_network_are_refused_by_the_layer_that_cannot_take_them() {
    let recipe = load("mnasnet0_5", WeightSource::Synthetic(None)).unwrap();
    assert_eq!(logits(&recipe, image("any", 1)).len(), 1);
    let recipe = load("squeezenet1_0", WeightSource::Synthetic(None)).unwrap();
    let tensors = HashMap::from([("pixels".to_owned(), image("any", 5))]);
    let error = recipe.forward_tensors(&tensors).unwrap_err().to_string();
    assert!(error.contains("features.0: expected an image"), "{error}");
}
