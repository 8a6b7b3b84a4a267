use super::*;
use crate::report::{
    record::{Energy, Packed},
    tests::run,
};

/// ResNet-50's steps of so many milliseconds, in batches of 32.
fn steps(model: &str, precision: &str, times: &[f64]) -> Steps {
    Steps {
        benchmark: format!("model-benchmarks:resnet/galley-{model}"),
        model: model.into(),
        action: "inference".into(),
        precision: precision.into(),
        device: "cuda:0".into(),
        device_name: Some("NVIDIA H200".into()),
        batch: 32,
        shape: vec![32, 3, 224, 224],
        parameters: 25_557_032,
        multiply_adds: 32 * 4_089_000_000,
        warmup: 2,
        seconds: 9.0,
        step_ms: Packed(times.to_vec()),
        resident_ms: Some(1.5),
        device_allocated_bytes: Some(2 << 30),
        energy: Some(Energy {
            joules: 64.0 * (times.len() + 2) as f64,
            seconds: 1.0,
            source: "nvml".into(),
            ..Energy::default()
        }),
        ..Steps::default()
    }
}

fn record(steps: Steps) -> Record {
    Record::Steps(Box::new(steps))
}

fn ended(model: &str, return_code: u32, remarks: &[&str]) -> Record {
    Record::Ended(Ended {
        benchmark: format!("model-benchmarks:resnet/galley-{model}"),
        model: model.into(),
        return_code,
        remarks: remarks.iter().map(|&remark| remark.to_owned()).collect(),
    })
}

fn part(machine: &str, device: &str, records: Vec<Record>) -> Part {
    let mut run = run("models");
    run.recipe = None;
    run.machine.name = machine.into();
    run.device = device.into();
    Part { run, records }
}

fn lines(summary: &str) -> Vec<Map<String, Value>> {
    let lines = summary.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_row_has_what_superbench_leaves_out() {
    let times: Vec<f64> = (0..200).map(|i| 2.0 + f64::from(i % 2) * 0.1).collect();
    let parts = [part(
        "box",
        "cuda:0",
        vec![
            record(steps("resnet50", "float16", &times)),
            ended("resnet50", 0, &[]),
        ],
    )];
    let report = Report::of(&parts);
    let text = report.document().to_markdown();
    // 2 * 32 * 4.089 G in 2.05 ms, of 989.4 TFLOP/s; 64 J for 32 samples.
    assert!(
        text.contains(
            "| resnet50 | float16 | inference | 32x3x224x224 | 200 | 2.05 | 0.0 % | 2.4 % | 2.10 | 2.10 | 15619 | 127.7 | 12.9 % | \
             1.50 | 0.550 | 2048 MiB | 2.00 |"
        ),
        "{text}"
    );
    assert!(!text.contains("What did not run"), "{text}");
    assert!(text.contains("data sheet"), "{text}");
    let terminal = report.terminal();
    assert_eq!(
        terminal,
        "resnet50, float16, inference  2.05 ms  15619 samples/s  127.7 TFLOP/s  12.9 %"
    );
}

#[test]
fn devices_that_train_together_have_a_peak_together() {
    let one = steps("resnet50", "float16", &[2.0; 8]);
    let two = Steps {
        device: "cuda:0,cuda:1".into(),
        ..one.clone()
    };
    let [one, two] = [one, two].map(|steps| Figures::of(&steps).of_peak.unwrap());
    assert_eq!(one, 2.0 * two);
}

#[test]
fn what_is_not_known_is_not_said() {
    let cpu = Steps {
        device: "cpu".into(),
        device_name: None,
        resident_ms: None,
        energy: None,
        ..steps("resnet50", "float32", &[2.0; 8])
    };
    let parts = [part("box", "cpu", vec![record(cpu)])];
    let text = Report::of(&parts).document().to_markdown();
    for absent in ["of the peak", "device ms", "±95 % |", "p99", "J/sample"] {
        assert!(!text.contains(&format!("| {absent}")), "{absent}: {text}");
    }
    assert!(!text.contains("data sheet"), "{text}");
}

#[test]
fn a_failure_is_a_return_code_and_a_row() {
    let why = "float16: the CPU computes in f32 or bf16";
    let parts = [part("box", "cpu", vec![ended("resnet50", 10, &[why])])];
    let report = Report::of(&parts);
    let node = &lines(&report.summary())[0];
    assert_eq!(node.len(), 2);
    assert_eq!(
        node["model-benchmarks:resnet/galley-resnet50/return_code"],
        10.0
    );
    let text = report.document().to_markdown();
    assert!(
        text.contains(&format!("| resnet50 | box | 10 | {why} |")),
        "{text}"
    );
    assert!(report.terminal().contains("return code 10"));
}

#[test]
fn parts_of_a_node_are_one_line_and_the_later_counts() {
    let parts = [
        part(
            "box",
            "cuda:0",
            vec![
                record(steps("resnet18", "float16", &[1.0])),
                record(steps("resnet50", "float16", &[9.0])),
                record(steps("resnet50", "float32", &[8.0])),
                ended("resnet50", 4, &["float32: out of device memory"]),
            ],
        ),
        part(
            "box",
            "cuda:0",
            vec![
                record(steps("resnet50", "float16", &[2.0])),
                ended("resnet50", 0, &[]),
            ],
        ),
        part(
            "box",
            "cpu",
            vec![record(steps("resnet18", "float32", &[7.0]))],
        ),
        part(
            "chest",
            "cpu",
            vec![record(steps("resnet18", "float32", &[5.0]))],
        ),
    ];
    let summary = Report::of(&parts).summary();
    let nodes = lines(&summary);
    let names: Vec<&Value> = nodes.iter().map(|node| &node["node"]).collect();
    assert_eq!(names, ["box-cuda:0", "box-cpu", "chest"]);
    let of = |model: &str, metric: &str| {
        nodes[0][&format!("model-benchmarks:resnet/galley-{model}/{metric}")].clone()
    };
    assert_eq!(of("resnet18", "fp16_inference_step_time"), 1.0);
    assert_eq!(of("resnet50", "fp16_inference_step_time_99.9"), 2.0);
    assert_eq!(of("resnet50", "fp32_inference_throughput"), 4000.0);
    assert_eq!(of("resnet50", "return_code"), 0.0);
}
