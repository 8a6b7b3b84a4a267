//! Training steps of a member of each family against what PyTorch made, in f64, of the same weights and the same batch.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Tensor, safetensors};
use galley_core::synthetic;
use galley_nn::{
    Backend,
    train::{Batch, Norms, Optimizer, Settings, Trainer, trace},
};
use galley_torchvision::trained;

const SEED: u64 = 1000;
/// Pixels of a cell of the images.
const BLOCK: usize = 8;

/// Images and labels as `make_traces.py` makes them.
fn batch(name: &str, size: usize) -> Batch {
    let examples = if size > 200 { 4 } else { 6 };
    let images: Vec<f32> = (0..examples)
        .flat_map(|i| synthetic::image(&format!("{name}.{i}"), size, SEED, BLOCK))
        .collect();
    let labels: Vec<i64> = (0..examples as i64).map(|i| i * 37 + 5).collect();
    let shape = (examples, 3, size, size);
    let tensors = HashMap::from([
        (
            "pixels".into(),
            Tensor::from_vec(images, shape, &Device::Cpu).unwrap(),
        ),
        ("labels".into(), Tensor::new(labels, &Device::Cpu).unwrap()),
    ]);
    Batch::read(&tensors).unwrap()
}

fn length(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The largest part by which norms are off, or of a hundredth of all of them together where one is less: what is nothing but
/// rounding, such as the gradient of a bias before BatchNorm, is no measure.
fn worst(got: impl Iterator<Item = f64>, expected: &[f64]) -> f64 {
    let all = length(expected);
    let pairs = got.zip(expected);
    let off = pairs.map(|(got, expected)| (got - expected).abs() / expected.max(all / 100.0));
    off.fold(0.0, f64::max)
}

/// BatchNorm over the few pixels that small images leave makes much of what f32 rounds, with each step more: PyTorch's own f32 is up to
/// 3e-4 off in the third. The first loss shows none of that.
#[test]
fn every_family_is_trained_as_by_pytorch() {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/traces.safetensors");
    let traces = safetensors::load(traces, &Device::Cpu).unwrap();
    let names = traces.keys().filter_map(|key| key.strip_suffix(".losses"));
    let (mut seen, mut wrong) = (0, Vec::new());
    for key in names {
        let read = |kind: &str| -> Vec<f64> {
            let tensor = &traces[&format!("{key}.{kind}")];
            tensor.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
        };
        let (name, size) = key.split_once('.').unwrap();
        let size = size.parse().unwrap();
        let batch = batch(name, size);
        let settings = Settings {
            optimizer: Optimizer::SGD.with_rate(read("rate")[0]),
            dropout: None,
            pure_half: false,
        };
        let graph = trained(name, Some(size)).unwrap().unwrap();
        let backend = Backend::of(&Device::Cpu, DType::F32).unwrap();
        let weights = synthetic::var_builder(SEED);
        let examples = batch.labels.len();
        let mut trainer = Trainer::new(&graph, examples, &weights, &settings, &backend).unwrap();
        let mut run = |steps| {
            let mut trace = trace(&mut trainer, &batch, steps).unwrap();
            trace.parameters.sort_by(|a, b| a.name.cmp(&b.name));
            trace
        };
        let (first, last) = (run(1), run(2));
        let losses = [first.losses, last.losses].concat();
        let of =
            |norms: &[Norms], part: fn(&Norms) -> f64| norms.iter().map(part).collect::<Vec<_>>();
        let gradients = of(&first.parameters, |norms| norms.gradient);
        let values = of(&last.parameters, |norms| norms.value);
        let expected = read("losses");
        assert_eq!(losses.len(), expected.len());
        assert_eq!(gradients.len(), read("gradients").len());
        // What is no number would be within any bound.
        let mut numbers = losses.iter().chain(&gradients).chain(&values);
        assert!(numbers.all(|number| number.is_finite()), "{name}");
        let pairs = losses.iter().zip(&expected);
        let off = pairs.map(|(got, expected)| (got - expected).abs() / expected);
        let off = off.fold(0.0, f64::max);
        let gradients = worst(gradients.into_iter(), &read("gradients"));
        let values = worst(values.into_iter(), &read("values"));
        let begins = (losses[0] - expected[0]).abs() / expected[0];
        println!("{name}: off by {begins:.1e} {off:.1e} {gradients:.1e} {values:.1e}");
        if begins > 1e-5 || off > 2e-3 || gradients > 2e-2 || values > 5e-5 {
            wrong.push(format!(
                "{name}: {losses:?}, expected {expected:?}; {gradients}, {values}"
            ));
        }
        seen += 1;
    }
    assert_eq!(seen, 11);
    assert!(wrong.is_empty(), "{wrong:#?}");
}
