//! `galley bench compare` and `report` as a user has them.

use std::fs;

use clap::Parser;
use galley_loadgen::{
    Context,
    report::record::{Record, SCHEMA},
};

use super::{Cli, bench};

/// Runs `galley bench ARGS`.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let cli = Cli::try_parse_from(std::iter::once(&"bench").chain(args))?;
    galley_loadgen::run(&cli.bench.command, &Context::default())
}

pub(crate) fn records(dir: &std::path::Path) -> Vec<Record> {
    let text = fs::read_to_string(dir.join("results.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_runs_is_measured_and_what_does_not_is_said() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().to_str().unwrap();
    run(&[
        "compare",
        "transformers_ner",
        "--devices",
        "cpu,cuda:7",
        "--dtypes",
        "f32,f16",
        "--batch",
        "4,1",
        "--length",
        "24",
        "--examples",
        "16",
        "--seconds",
        "0.05",
        "--repeats",
        "2",
        "--compared",
        "8",
        "--machine",
        "Box",
        "--out",
        dir,
    ])
    .unwrap();
    let records = records(out.path());
    let Record::Run(run) = &records[0] else {
        panic!("{records:?}");
    };
    assert_eq!(
        (run.schema, run.length, run.device.as_str()),
        (SCHEMA, Some(24), "cpu,cuda:7")
    );
    let mut passes = Vec::new();
    let mut missing = Vec::new();
    for record in &records {
        match record {
            Record::Native(native) => {
                let samples = native.samples.as_ref().unwrap();
                assert_eq!(native.examples, native.batch * samples.forward_ms.0.len());
                assert_eq!(native.cost, Some(24.0));
                passes.push((native.repeat, native.batch));
            }
            Record::Missing(absent) => {
                missing.push((absent.device.as_str(), absent.dtype.as_deref()))
            }
            Record::Loaded(loaded) => assert!(loaded.architecture.parameters > Some(1_000_000)),
            Record::Agreement(figure) => {
                assert_eq!((figure.examples, figure.agreeing_examples), (8, 8));
                assert_eq!(figure.largest_score_difference, Some(0.0));
            }
            _ => (),
        }
    }
    // Sizes take turns, ascending.
    assert_eq!(passes, [(0, 1), (0, 4), (1, 1), (1, 4)]);
    assert_eq!(missing, [("cpu", Some("f16")), ("cuda:7", None)]);
    let read = |name: &str| fs::read_to_string(out.path().join(name)).unwrap();
    let report = read("report.md");
    for said in [
        "## Recommendations",
        "### cpu, f32",
        "- cuda:7: this build",
        "texts of 24 tokens",
        "8 of 8 (100.00 %)",
    ] {
        assert!(report.contains(said), "{said} is not in {report}");
    }
    let page = read("report.html");
    assert!(
        page.starts_with("<!doctype html>") && page.contains("<svg") && !page.contains("<script")
    );
    assert!(read("README.md").contains("report.md"));

    // The same report comes of the records alone, and one of both of two folders.
    fs::remove_file(out.path().join("report.md")).unwrap();
    self::run(&["report", dir]).unwrap();
    assert_eq!(read("report.md"), report);
    let both = out.path().join("both");
    self::run(&["report", dir, dir, "--out", both.to_str().unwrap()]).unwrap();
    let merged = self::records(&both);
    assert_eq!(merged.len(), 2 * records.len());
}

#[test]
fn a_recipe_without_logits_or_dtypes_is_compared_all_the_same() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().to_str().unwrap();
    run(&[
        "compare",
        "echo",
        "--batch",
        "1,2",
        "--examples",
        "8",
        "--seconds",
        "0.01",
        "--repeats",
        "1",
        "--out",
        dir,
        "--option",
        "sleep=1ms",
    ])
    .unwrap();
    let report = fs::read_to_string(out.path().join("report.md")).unwrap();
    assert!(report.contains("gives no logits"), "{report}");
    assert!(report.contains("it is computed in json on cpu"), "{report}");
    let error = run(&[
        "compare",
        "echo",
        "--length",
        "8",
        "--examples",
        "8",
        "--out",
        dir,
    ])
    .unwrap_err();
    assert!(error.to_string().contains("--length"), "{error}");
}

#[test]
fn every_earlier_folder_has_a_page() {
    let out = tempfile::tempdir().unwrap();
    bench(
        "native echo --examples 32 --batch 1,8 --repeats 1",
        out.path(),
    )
    .unwrap();
    let page = fs::read_to_string(out.path().join("report.html")).unwrap();
    assert!(
        page.contains("Time for all examples") && page.contains("echo: native"),
        "{page}"
    );
}
