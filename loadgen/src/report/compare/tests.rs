//! Planted figures: what is made of them is known.

use super::*;
use crate::{
    report::{
        folder::merge,
        record::{Energy, Native, Packed, Run, Samples},
        tests::run,
    },
    stats::{Latency, Repeats},
};

fn row(place: &str, dtype: &str, batch: usize, items_per_s: f64) -> Row {
    let ms = 1e3 * batch as f64 / items_per_s;
    Row {
        place: place.into(),
        is_cpu: place == "cpu",
        dtype: dtype.into(),
        batch,
        passes: 3,
        batches: 500,
        latency: Latency {
            mean: ms,
            p50: ms,
            p99: 2.0 * ms,
            ..Latency::default()
        },
        items_per_s: Repeats {
            mean: items_per_s,
            median: items_per_s,
            spread: 0.01,
        },
        prepare_ms: 0.1 * ms,
        forward_ms: 0.85 * ms,
        finish_ms: 0.05 * ms,
        cost: Some(128.0),
        resident_bytes: Some(1 << 30),
        device_bytes: None,
        joules: None,
        watts: None,
        energy_source: None,
        clock_mhz: None,
        throttled: Vec::new(),
    }
}

/// A CPU on which bf16 pays, and a card with a knee at 32.
fn planted() -> Vec<Row> {
    let mut rows = vec![
        row("cpu", "f32", 1, 20.0),
        row("cpu", "f32", 32, 25.0),
        row("cpu", "f32", 128, 24.0),
        row("cpu", "bf16", 1, 40.0),
        row("cpu", "bf16", 32, 60.0),
        row("cpu", "bf16", 128, 75.0),
        row("cuda:0", "f32", 1, 500.0),
        row("cuda:0", "f32", 32, 2920.0),
        row("cuda:0", "f32", 128, 3000.0),
    ];
    rows[6].joules = Some(0.5);
    rows[8].joules = Some(0.1);
    rows
}

fn agreement(dtype: &str, agreeing: usize) -> Agreement {
    Agreement {
        model: "distilbert_sst2".into(),
        weights: "synthetic:2002".into(),
        dtype: dtype.into(),
        device: Some("cpu".into()),
        examples: 1000,
        agreeing_examples: agreeing,
        labels: 1000,
        agreeing_labels: agreeing,
        largest_deviation: 0.1,
        largest_score_difference: Some(0.0123),
        mean_deviation: 0.01,
        logit_spread: 1.0,
    }
}

fn says(sentences: &[String], parts: &[&str]) {
    let found = sentences
        .iter()
        .any(|sentence| parts.iter().all(|part| sentence.contains(part)));
    assert!(found, "{parts:?} is not in {sentences:#?}");
}

#[test]
fn recommendations_follow_from_the_figures() {
    let figure = agreement("bf16", 996);
    let said = advice(&planted(), &[("cpu".into(), &figure)]);
    says(
        &said,
        &[
            "most throughput: cuda:0 in f32 at batch 128",
            "3000 items/s",
            "259.2 million a day",
            "42.67 ms",
        ],
    );
    says(
        &said,
        &[
            "least latency: cuda:0 in f32 at batch 1",
            "2.00 ms",
            "p99 4.00 ms",
        ],
    );
    says(
        &said,
        &[
            "On cuda:0 in f32, batch 32 is enough",
            "97 % of the best throughput (batch 128)",
            "10.96 ms instead of 42.67",
        ],
    );
    says(
        &said,
        &["On cpu in bf16, throughput still grows at batch 128"],
    );
    says(
        &said,
        &[
            "On cpu, bf16 has 2.00 to 3.12 times",
            "99.60 % of labels",
            "scores within 0.01230",
            "answers stay",
        ],
    );
    says(
        &said,
        &[
            "cuda:0 has 40.0 times the throughput of cpu",
            "6.5 million items a day",
        ],
    );
    says(
        &said,
        &[
            "least energy: cuda:0 in f32 at batch 128, 0.100 J",
            "0.02778 kWh for a million",
            "the most was 0.500 J",
        ],
    );
    assert_eq!(said.len(), 7, "{said:#?}");
}

#[test]
fn a_dtype_that_gains_nothing_or_changes_answers_is_said_to() {
    let rows = [row("cpu", "f32", 1, 20.0), row("cpu", "bf16", 1, 20.5)];
    says(
        &advice(&rows, &[]),
        &["bf16 is no faster than f32 (1.02 times", "stay with f32"],
    );
    let rows = [row("cpu", "f32", 1, 20.0), row("cpu", "bf16", 1, 40.0)];
    let figure = agreement("bf16", 900);
    says(
        &advice(&rows, &[("cpu".into(), &figure)]),
        &["90.00 % of labels", "which changes answers"],
    );
    says(&advice(&rows, &[]), &["2.00 times", "was not measured"]);
}

#[test]
fn what_spoils_figures_is_said() {
    let mut rows = planted();
    rows[2].items_per_s.spread = 0.3;
    rows[7].throttled = vec!["sw power cap".into()];
    for row in &mut rows[6..] {
        row.prepare_ms = row.forward_ms;
    }
    let said = advice(&rows, &[]);
    says(&said, &["±30 %", "cpu in f32 at batch 128"]);
    says(&said, &["1 of 9 configurations", "sw power cap"]);
    says(&said, &["On cuda:0 in f32 at batch 128, 51 % of the time"]);
}

#[test]
fn a_percentile_needs_batches_above_it() {
    let mut row = row("cpu", "f32", 1, 20.0);
    let known =
        |row: &Row| [50.0, 90.0, 99.0, 99.9].map(|percent| row.percentile(percent, 1.0).is_some());
    assert_eq!(known(&row), [true, true, true, false]);
    row.batches = 9;
    assert_eq!(known(&row), [true, false, false, false]);
    row.batches = 1000;
    assert_eq!(known(&row), [true; 4]);
}

#[test]
fn empty_columns_are_left_out_and_json_has_them_all() {
    let rows = planted();
    let cpu = table(&rows[..3]);
    assert!(cpu.columns.iter().any(|head| head == "p99 ms"));
    assert!(
        !cpu.columns
            .iter()
            .any(|head| ["W", "p99.9 ms", "throttled"].contains(&head.as_str()))
    );
    let json = columns::json(&rows);
    let keys = json[0].as_object().unwrap();
    assert!(
        columns::COLUMNS
            .iter()
            .all(|column| keys.contains_key(column.key))
    );
    assert_eq!(json[8]["joules_per_item"], json!(0.1));
    assert_eq!(json[0]["joules_per_item"], serde_json::Value::Null);
}

fn pass(device: &str, batch: usize, repeat: usize, forward_ms: f64) -> Record {
    let list = |ms: f64| Packed(vec![ms; 2]);
    Record::Native(Native {
        device: Some(device.into()),
        dtype: Some("f32".into()),
        batch,
        repeat,
        examples: 2 * batch,
        items_per_s: 1e3 * batch as f64 / (forward_ms + 2.0),
        peak_rss_bytes: Some(((repeat + 1) as u64) << 20),
        samples: Some(Samples {
            prepare_ms: list(1.5),
            forward_ms: list(forward_ms),
            finish_ms: list(0.5),
        }),
        energy: (device != "cpu").then(|| Energy {
            joules: 6.0,
            seconds: 0.5,
            source: "nvml".into(),
            ..Energy::default()
        }),
        ..Native::default()
    })
}

fn part(machine: &str, device: &str) -> Part {
    let mut run = Run {
        what: "compare".into(),
        device: device.into(),
        ..run("compare")
    };
    run.machine.name = machine.into();
    Part {
        run,
        records: vec![
            Record::Loaded(Loaded {
                device: device.into(),
                dtype: "f32".into(),
                cost_unit: "tokens".into(),
                weights: "none".into(),
                ..Loaded::default()
            }),
            pass(device, 4, 0, 6.0),
            pass(device, 4, 1, 8.0),
            pass(device, 1, 0, 2.0),
            Record::Missing(Missing {
                device: device.into(),
                dtype: Some("f16".into()),
                batch: None,
                reason: "there are no kernels".into(),
            }),
        ],
    }
}

#[test]
fn passes_of_one_configuration_are_one_row() {
    let parts = [part("box", "cuda:0")];
    let rows = rows(&parts);
    assert_eq!(rows.iter().map(|row| row.batch).collect::<Vec<_>>(), [1, 4]);
    let row = &rows[1];
    assert_eq!((row.passes, row.batches), (2, 4));
    assert!((row.latency.mean - 9.0).abs() < 1e-9, "{row:?}");
    assert_eq!((row.latency.p50, row.latency.max), (8.0, 10.0));
    assert_eq!(
        (row.prepare_ms, row.forward_ms, row.finish_ms),
        (1.5, 7.0, 0.5)
    );
    assert!((row.outside_model() - 2.0 / 9.0).abs() < 1e-9);
    assert_eq!(row.resident_bytes, Some(1 << 20));
    assert_eq!((row.joules, row.watts), (Some(0.75), Some(12.0)));
}

#[test]
fn parts_of_two_machines_are_told_apart_and_the_report_says_so() {
    let parts = [
        part("box", "cpu"),
        part("farm", "cpu"),
        part("farm", "cuda:0"),
    ];
    let report = Report::of(&parts);
    let names: Vec<String> = series(&report.rows)
        .iter()
        .map(|rows| rows[0].series())
        .collect();
    assert_eq!(
        names,
        ["cpu of box, f32", "cpu of farm, f32", "cuda:0 of farm, f32"]
    );
    let text = report.document().to_markdown();
    for said in [
        "measured on 2 machines (box, farm)",
        "cuda:0 of farm, f32 over cpu of box, f32",
        "cuda:0 of farm, f16: there are no kernels",
        "| processor | Box, 2 cores |",
    ] {
        assert!(text.contains(said), "{said} is not in {text}");
    }
    let twice = [part("box", "cpu"), part("box", "cpu")];
    assert!(Report::of(&twice).rows[0].place.starts_with("cpu, 20"));
}

#[test]
fn every_section_is_there() {
    let parts = [part("box", "cpu"), part("box", "cuda:0")];
    let report = Report::of(&parts);
    let text = report.document().to_markdown();
    for heading in [
        "Recommendations",
        "The model",
        "The system",
        "Figures",
        "Optimal configurations",
        "Scaling over batch sizes",
        "Device speed-ups",
        "Agreement of the answers with f32",
        "What was not measured",
        "How it was measured",
    ] {
        assert!(
            text.contains(&format!("\n## {heading}\n")),
            "{heading} is not in {text}"
        );
    }
    let html = report.document().to_html();
    assert!(html.matches("<figure>").count() >= 4, "{html}");
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), 4);
    assert!(report.terminal().contains("cuda:0, f32"));
}

#[test]
fn folders_of_other_runs_are_not_merged() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, part: &Part| {
        let path = dir.path().join(name);
        let mut folder = crate::report::Folder::create(Some(&path), &part.run).unwrap();
        part.records
            .iter()
            .for_each(|record| folder.append(record).unwrap());
        path
    };
    let here = write("here", &part("box", "cpu"));
    let there = write("there", &part("farm", "cuda:0"));
    let out = dir.path().join("both");
    merge(&[here.clone(), there], &out).unwrap();
    let shown = crate::report::rewrite(&out).unwrap();
    assert!(shown.contains("cuda:0 of farm"), "{shown}");
    let mut other = part("box", "cpu");
    other.run.recipe = Some("transformers_ner".into());
    let other = write("other", &other);
    let error = merge(&[here, other], &out).unwrap_err().to_string();
    assert!(error.contains("transformers_ner"), "{error}");
}
