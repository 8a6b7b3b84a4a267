//! `galley bench models` and its summary as a user and SuperBench's tools have them.

use std::{collections::BTreeMap, path::Path};

use galley_loadgen::report::record::{Ended, Record, Steps};
use serde_json::Value;

use super::compare::{records, run};

const SQUEEZENET: &str = "model-benchmarks:squeezenet/galley-squeezenet1_1";

/// Runs `galley bench models ARGS` on a small network, small images and a few steps.
fn models(args: &str, out: &Path) -> anyhow::Result<()> {
    let line = format!(
        "models --models squeezenet1_1 --image-size 64 --batch-size 2 --num-warmup 1 {args} --machine Box --out"
    );
    let mut words: Vec<&str> = line.split(' ').collect();
    words.push(out.to_str().unwrap());
    run(&words)
}

/// Metrics by name, of the only node.
fn summary(out: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(out.join("results-summary.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 1);
    serde_json::from_str(&text).unwrap()
}

fn of(out: &Path) -> (Vec<Steps>, Vec<Ended>) {
    let (mut steps, mut ended) = (Vec::new(), Vec::new());
    for record in records(out) {
        match record {
            Record::Steps(of_model) => steps.push(*of_model),
            Record::Ended(of_model) => ended.push(of_model),
            _ => (),
        }
    }
    (steps, ended)
}

#[test]
fn steps_are_counted_and_a_precision_that_the_cpu_has_not_is_left_out() {
    let out = tempfile::tempdir().unwrap();
    models("--num-steps 5 --run-count 2", out.path()).unwrap();
    let (steps, ended) = of(out.path());
    assert_eq!(steps.len(), 2);
    for (run, steps) in steps.iter().enumerate() {
        assert_eq!((steps.run, steps.step_ms.0.len()), (run, 5));
        assert_eq!(steps.shape, [2, 3, 64, 64]);
        assert_eq!(
            (steps.parameters, steps.precision.as_str()),
            (1_235_496, "float32")
        );
        assert!(steps.multiply_adds > 20_000_000);
        assert!(steps.step_ms.0.iter().all(|&ms| ms > 0.0));
    }
    assert_eq!((ended.len(), ended[0].return_code), (1, 0));
    // Both runs had to do without it, and it is said once.
    assert_eq!(ended[0].remarks.len(), 1, "{ended:?}");
    assert!(ended[0].remarks[0].starts_with("float16: "));
    let metrics = summary(out.path());
    assert_eq!(metrics["node"], "box");
    assert_eq!(metrics[&format!("{SQUEEZENET}/return_code")], 0.0);
    // Twelve of each run.
    assert_eq!(metrics.len(), 2 + 24);
    let first = &metrics[&format!("{SQUEEZENET}/0/fp32_inference_step_time")];
    let mean = steps[0].step_ms.0.iter().sum::<f64>() / 5.0;
    assert!((first.as_f64().unwrap() - mean).abs() < 1e-9);
    let report = std::fs::read_to_string(out.path().join("report.md")).unwrap();
    assert!(report.contains("| squeezenet1_1 | float32 |"), "{report}");
}

#[test]
fn a_model_without_a_precision_has_superbenchs_return_code() {
    let out = tempfile::tempdir().unwrap();
    models(
        "--num-steps 5 --precision float16 --framework pytorch",
        out.path(),
    )
    .unwrap();
    let metrics = summary(out.path());
    let name = "model-benchmarks:squeezenet/pytorch-squeezenet1_1/return_code";
    assert_eq!((metrics.len(), &metrics[name]), (2, &10.0.into()));
}

#[test]
fn a_duration_ends_steps_and_may_leave_none() {
    let out = tempfile::tempdir().unwrap();
    models(
        "--precision float32 --num-steps 0 --duration 0.001 --check-frequency 3",
        out.path(),
    )
    .unwrap();
    let (steps, _) = of(out.path());
    assert_eq!(steps[0].step_ms.0.len(), 2);
    let out = tempfile::tempdir().unwrap();
    models(
        "--precision float32 --duration 0.001 --check-frequency 1",
        out.path(),
    )
    .unwrap();
    let (steps, ended) = of(out.path());
    assert_eq!((steps.len(), ended[0].return_code), (0, 3));
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let out = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (
            "--losses --input none.safetensors",
            "--losses: expected --action train",
        ),
        (
            "--action train --losses --input none.safetensors",
            "--input: none.safetensors",
        ),
        ("--num-steps 0", "--num-steps: expected a number above 0"),
        ("--duration=-1", "--duration: expected seconds"),
        ("--device cuda:77", "cuda:77"),
    ] {
        let error = models(args, out.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{args}: {error}");
    }
    assert!(!out.path().join("results.jsonl").exists());
}

#[test]
fn images_too_small_fail_alone() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().to_str().unwrap();
    let line = format!(
        "models --models alexnet,squeezenet1_1 --precision float32 --image-size 40 --batch-size 1 --num-warmup 0 --num-steps 1 --out {dir}"
    );
    run(&line.split(' ').collect::<Vec<_>>()).unwrap();
    let (steps, ended) = of(out.path());
    assert_eq!(steps[0].model, "squeezenet1_1");
    let codes: Vec<u32> = ended.iter().map(|ended| ended.return_code).collect();
    assert_eq!(codes, [18, 0]);
}

#[test]
fn training_has_its_parts_and_a_loss_that_falls() {
    let out = tempfile::tempdir().unwrap();
    models(
        "--action train,inference --precision float32 --num-steps 4 --lr 0.001 --no-dropout",
        out.path(),
    )
    .unwrap();
    let (steps, ended) = of(out.path());
    assert_eq!((ended[0].return_code, &ended[0].remarks), (0, &Vec::new()));
    let [train, inference] = &steps[..] else {
        panic!("{steps:?}")
    };
    assert_eq!(
        (train.action.as_str(), inference.action.as_str()),
        ("train", "inference")
    );
    assert_eq!(train.multiply_adds, 3 * inference.multiply_adds);
    assert_eq!(train.parameters, inference.parameters);
    assert_eq!(train.shape, inference.shape);
    let training = train.training.as_ref().unwrap();
    assert!(training.loss_after < training.loss_before, "{training:?}");
    assert!(
        (training.loss_before - 1000f64.ln()).abs() < 2.0,
        "{training:?}"
    );
    let parts = [
        training.forward_ms,
        training.backward_ms,
        training.update_ms,
    ];
    assert!(parts.iter().all(|&ms| ms > 0.0), "{parts:?}");
    let mean = train.step_ms.0.iter().sum::<f64>() / 4.0;
    assert!(parts.iter().sum::<f64>() <= mean, "{parts:?} of {mean}");
    assert!(inference.training.is_none());
    let summary = summary(out.path());
    assert!(summary.contains_key(&format!("{SQUEEZENET}/fp32_train_step_time")));
    assert!(summary.contains_key(&format!("{SQUEEZENET}/fp32_train_throughput_99.9")));
}

#[test]
fn training_that_makes_nothing_better_has_failed() {
    let out = tempfile::tempdir().unwrap();
    models(
        "--action train --precision float32 --num-steps 2 --lr 0 --no-dropout",
        out.path(),
    )
    .unwrap();
    let (_, ended) = of(out.path());
    assert_eq!(ended[0].return_code, 3);
    assert!(ended[0].remarks[0].contains("does not fall"), "{ended:?}");
}
