//! `predict --raw` of every recipe on the device, held against the CPU's answers.

use clap::Parser;
use galley::{
    cli::{Cli, Command},
    config::ModelConfig,
    predict,
};
use galley_core::Entry;
use serde_json::Value;

use crate::{
    CARD, device,
    raw_tensors::{self, Named, file, numbers},
};

/// What the command prints for these tensors.
fn raw(entry: &Entry, tensors: &[Named<'_>], device: &str, dtype: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tensors.safetensors");
    std::fs::write(&path, file(tensors)).unwrap();
    let path = path.to_str().unwrap();
    let weights = raw_tensors::weights(entry);
    let cli = Cli::parse_from([
        "galley",
        "predict",
        entry.name,
        "--weights",
        weights,
        "--raw",
        path,
        "--device",
        device,
        "--dtype",
        dtype,
    ]);
    let Command::Predict(args) = cli.command else {
        panic!("predict is a command")
    };
    let entry = galley_catalog::find(entry.name).unwrap();
    let config = ModelConfig::new(&args.model, &[entry]).unwrap();
    let mut out = Vec::new();
    predict::run(&args, &config, &mut out)
        .unwrap_or_else(|error| panic!("{} on {device} in {dtype}: {error:#}", entry.name));
    let lines = std::str::from_utf8(&out).unwrap().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn every_recipe_gives_the_cpu_s_numbers() {
    let Some(_) = device() else { return };
    let _card = CARD.lock().await;
    for entry in galley_catalog::entries() {
        let Some(tensors) = raw_tensors::of(entry) else {
            continue;
        };
        if entry.name == "lstm" {
            // It has kernels for the CPU alone.
            continue;
        }
        let expected = numbers(&raw(entry, &tensors, "cpu", "f32"));
        let largest =
            (expected.iter().flatten()).fold(0.0, |most: f64, value| most.max(value.abs()));
        assert!(largest > 0.0, "{}", entry.name);
        for (dtype, tolerance) in [("f32", 1e-3), ("f16", 2e-2)] {
            // Random weights make numbers of some that f16 has not.
            if dtype == "f16" && largest > 65_504.0 {
                println!(
                    "skipped: {} in f16, whose numbers go up to {largest}",
                    entry.name
                );
                continue;
            }
            let got = numbers(&raw(entry, &tensors, "cuda:0", dtype));
            let lengths = |items: &[Vec<f64>]| items.iter().map(Vec::len).collect::<Vec<_>>();
            assert_eq!(lengths(&got), lengths(&expected), "{}", entry.name);
            let pairs = got.iter().flatten().zip(expected.iter().flatten());
            let off = pairs.fold(0.0, |most: f64, (got, expected)| {
                most.max((got - expected).abs())
            });
            println!("{} in {dtype}: off by {off} of {largest}", entry.name);
            assert!(
                off <= tolerance * largest,
                "{} in {dtype}: off by {off} of {largest}",
                entry.name
            );
            for tensors in raw_tensors::of_nothing(entry) {
                let got = raw(entry, &tensors, "cuda:0", dtype);
                assert_eq!(got, raw(entry, &tensors, "cpu", "f32"), "{}", entry.name);
            }
        }
    }
}
