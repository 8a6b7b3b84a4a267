//! Steps of a benchmark, on a small network and small images.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use galley_core::{BatchShape, LoadError, LoadOptions, Steps, WeightSource};

fn steps(batch: usize, image_size: usize) -> Result<Box<dyn Steps>, LoadError> {
    let mut entries = galley_torchvision::ENTRIES.iter();
    let entry = entries.find(|entry| entry.name == "squeezenet1_1").unwrap();
    let options = LoadOptions {
        weights: WeightSource::Synthetic(None),
        ..LoadOptions::default()
    };
    let shape = BatchShape {
        batch,
        image_size,
        seq_len: 512,
    };
    (entry.benchmark.unwrap().inference)(entry, &options, &shape)
}

#[test]
fn a_step_gives_the_batchs_logits() {
    let mut both = steps(2, 64).unwrap();
    assert_eq!(both.shape(), [2, 3, 64, 64]);
    assert_eq!(both.parameters(), 1_235_496);
    let logits = both.step().unwrap();
    assert_eq!(logits.len(), 2 * 1000);
    assert!(logits.iter().all(|logit| logit.is_finite()));
    assert_eq!(both.step().unwrap(), logits);
    // Images are not alike, and the first is that of a batch of one.
    let mut one = steps(1, 64).unwrap();
    let first = one.step().unwrap();
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
    assert!(first.iter().zip(&logits).all(near));
    assert!(!first.iter().zip(&logits[1000..]).all(near));
    assert_eq!(both.multiply_adds(), 2 * one.multiply_adds());
}

#[test]
fn images_too_small_are_no_lack_of_a_device() {
    let error = steps(1, 4).err().unwrap();
    assert!(matches!(error, LoadError::Model(_)), "{error}");
}
