//! `galley bench against` and `history` as a user has them; builds are scripts whose speed is known.
#![cfg(unix)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Parser;
use galley_loadgen::{Context, report::record::Record};

use super::Cli;

fn run(args: &[&str]) -> anyhow::Result<()> {
    let cli = Cli::try_parse_from(std::iter::once(&"bench").chain(args))?;
    galley_loadgen::run(&cli.bench.command, &Context::default())
}

/// A build that answers so many items a second, and notes in a common file that it was asked.
fn build(dir: &Path, name: &str, rate: f64) -> PathBuf {
    let latency = r#"{"mean":1,"p50":1,"p90":1,"p95":1,"p99":1,"p99_9":1,"max":1}"#;
    let line = |batch: usize| {
        format!(
            r#"{{"kind":"native","batch":{batch},"examples":48,"seconds":1.0,"items_per_s":{rate},"latency_ms":{latency}}}"#
        )
    };
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo galley 0.0.{name} && exit\n\
         echo {name} \"$@\" >> {log}\necho '{}'\necho '{}'\n",
        line(1),
        line(8),
        log = dir.join("log").display(),
    );
    let path = dir.join(name);
    // By another process: what this one holds open for writing, a process that another test starts may hold too, and then it cannot
    // be run.
    let write = "printf %s \"$1\" > \"$0\" && chmod +x \"$0\"";
    let written = Command::new("sh")
        .arg("-c")
        .arg(write)
        .arg(&path)
        .arg(script)
        .status();
    assert!(written.unwrap().success());
    path
}

/// Runs `against` over two such builds; gives the folder and what became of it.
fn against(new: f64, old: f64, more: &[&str]) -> (tempfile::TempDir, anyhow::Result<()>) {
    let dir = tempfile::tempdir().unwrap();
    let [new, old] = [build(dir.path(), "new", new), build(dir.path(), "old", old)];
    let out = dir.path().join("out");
    let mut args = vec!["against", old.to_str().unwrap(), "echo", "--new-program"];
    args.extend([new.to_str().unwrap(), "--batch", "1,8", "--rounds", "6"]);
    args.extend(["--seconds", "0.5", "--out", out.to_str().unwrap()]);
    args.extend(more);
    let result = run(&args);
    (dir, result)
}

#[test]
fn builds_take_turns_over_the_same_examples() {
    let (dir, result) = against(110.0, 100.0, &[]);
    result.unwrap();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    let asked: Vec<&str> = log.lines().collect();
    let order: String = asked.iter().map(|line| &line[..1]).collect();
    // This build says how many examples fit, the old one warms up; then each goes first in turn.
    assert_eq!(order, "no".to_owned() + &"noon".repeat(3));
    assert!(asked[0].ends_with("--examples 8192 --repeats 1 --json --weights auto --device cpu --dtype auto --seconds 1"), "{}", asked[0]);
    for line in &asked[1..] {
        assert!(line.ends_with("bench native echo --batch 1,8 --examples 48 --repeats 1 --json --weights auto --device cpu --dtype auto"), "{line}");
    }
    let out = dir.path().join("out");
    let records = fs::read_to_string(out.join("results.jsonl")).unwrap();
    let records: Vec<Record> = records
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let Record::Run(run) = &records[0] else {
        panic!("{records:?}");
    };
    assert!(
        run.old
            .as_ref()
            .unwrap()
            .starts_with("galley 0.0.old, sha256 "),
        "{run:?}"
    );
    assert_eq!(records.len(), 1 + 2 * 6);
    let Record::Round(round) = &records[12] else {
        panic!("{records:?}");
    };
    assert_eq!(
        (
            round.batch,
            round.repeat,
            round.old_first,
            round.concurrency
        ),
        (8, 5, true, None)
    );
    assert_eq!(
        (round.weights.as_str(), round.dtype.as_str()),
        ("none", "json")
    );
    let table = fs::read_to_string(out.join("table.md")).unwrap();
    assert!(
        table.contains(
            "| echo | native, batch 8 | 6 | 1.100 | 1.100 to 1.100 | faster | 110.0 | 100.0 |"
        ),
        "{table}"
    );
    assert!(
        fs::read_to_string(out.join("report.html"))
            .unwrap()
            .contains("Each round")
    );
}

#[test]
fn a_slower_build_fails_where_it_is_to() {
    let (_dir, result) = against(90.0, 100.0, &[]);
    result.unwrap();
    let (dir, result) = against(90.0, 100.0, &["--fail-on", "regression"]);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("echo, native, batch 1: 0.900"), "{error}");
    assert!(dir.path().join("out/table.md").exists());
    let (_dir, result) = against(97.0, 100.0, &["--fail-on", "regression"]);
    result.unwrap();
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let error = run(&["against", "/no/such/galley", "echo"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("/no/such/galley"), "{error}");
    let few = run(&["against", "/bin/true", "echo", "--rounds", "5"])
        .unwrap_err()
        .to_string();
    assert!(few.contains("6..=200"), "{few}");
}

#[test]
fn a_history_of_folders_is_written_and_may_fail() {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    // What `matrix` would write, of which the last run serves at half the speed.
    let head = include_str!(
        "../../../bench-results/2026-11-22-intel-xeon-2core-transformers_ner/results.jsonl"
    );
    for day in 1..=6 {
        let folder = results.join(day.to_string());
        fs::create_dir_all(&folder).unwrap();
        let lines = head
            .lines()
            .map(|line| match serde_json::from_str(line).unwrap() {
                Record::Run(mut run) => {
                    run.date = format!("2030-01-0{day}T00:00:00Z");
                    serde_json::to_string(&Record::Run(run)).unwrap()
                }
                Record::Served(mut served) if day == 6 && served.concurrency == 64 => {
                    served.items_per_s /= 2.0;
                    serde_json::to_string(&Record::Served(served)).unwrap()
                }
                record => serde_json::to_string(&record).unwrap(),
            });
        fs::write(
            folder.join("results.jsonl"),
            lines.collect::<Vec<_>>().join("\n"),
        )
        .unwrap();
    }
    let [results, out] =
        [results, dir.path().join("out")].map(|path| path.to_str().unwrap().to_owned());
    run(&["history", &results, "--out", &out]).unwrap();
    for name in ["history.md", "history.html", "history.json"] {
        assert!(Path::new(&out).join(name).exists(), "{name}");
    }
    let error = run(&[
        "history",
        &results,
        "--out",
        &out,
        "--fail-on",
        "regression",
    ])
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("64 in flight: served / native is 0.50 times as good")
            && !error.contains("16 in flight"),
        "{error}"
    );
}
