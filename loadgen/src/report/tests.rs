use super::{
    record::{Bound, ClientTime, Model, Native, Record, Run, SCHEMA, Served},
    *,
};
use crate::stats::Latency;

/// A run with nothing unusual about it.
pub(crate) fn run(what: &str) -> Run {
    Run {
        schema: SCHEMA,
        what: what.into(),
        command: format!("galley bench {what} echo"),
        date: "2030-01-02T03:04:05Z".into(),
        galley: "0.1.0".into(),
        commit: Some("abc1234".into()),
        recipe: Some("echo".into()),
        weights: "none".into(),
        dtype: "f32".into(),
        device: "cpu".into(),
        corpus: Some("ner".into()),
        examples: 1024,
        examples_wanted: 8192,
        length: None,
        repeats: 2,
        threads: 2,
        client_threads: Some(1),
        label: None,
        server: None,
        old: None,
        machine: Machine {
            name: "box-2core".into(),
            cpu: "Box".into(),
            cores: 2,
            memory_bytes: Some(8 << 30),
            os: "linux x86_64".into(),
            kernel: Some("6.1".into()),
        },
    }
}

fn native(batch: usize, repeat: usize, seconds: f64) -> Record {
    Record::Native(Native {
        batch,
        repeat,
        examples: 1024,
        seconds,
        prepare_seconds: seconds / 4.0,
        items_per_s: 1024.0 / seconds,
        items_per_s_without_prepare: 1024.0 / (seconds * 0.75),
        latency_ms: Latency::default(),
        latency_without_prepare_ms: Latency::default(),
        peak_rss_bytes: Some(3 << 20),
        ..Native::default()
    })
}

fn served(batch: usize, concurrency: usize, repeat: usize, seconds: f64) -> Served {
    Served {
        batch,
        concurrency,
        rate: None,
        repeat,
        examples: 1024,
        requests: 1024 / batch,
        seconds,
        items_per_s: 1024.0 / seconds,
        requests_per_s: 1024.0 / seconds / batch as f64,
        items_ok: 1024,
        latency_ms: Some(Latency {
            p50: 2.5,
            p99: 10.25,
            ..Latency::default()
        }),
        errors: Default::default(),
        server_peak_rss_bytes: None,
        client: None,
    }
}

pub(crate) fn matrix() -> Vec<Record> {
    let mut failing = served(32, 16, 0, 3.0);
    failing.errors = [("status 500".to_owned(), 2)].into();
    vec![
        native(1, 0, 4.0),
        native(1, 1, 6.0),
        native(32, 0, 2.0),
        native(32, 1, 2.0),
        Record::Served(served(1, 16, 0, 2.5)),
        Record::Served(served(1, 16, 1, 2.5)),
        Record::Served(failing),
    ]
}

#[test]
fn a_matrix_compares_with_native_and_with_the_best_native() {
    let table = render(&run("matrix"), &matrix());
    let rows: Vec<_> = table
        .lines()
        .filter(|line| line.starts_with("| echo"))
        .collect();
    assert_eq!(
        rows[0],
        "| echo | 1 | 5.00 ±20% | 16 | 2.50 | 0.50 | 1.25 | 2.50 | 10.25 | 0 |  |"
    );
    assert_eq!(
        rows[1],
        "| echo | 32 | 2.00 | 16 | 3.00 | 1.50 | 1.50 | 2.50 | 10.25 | 2 | short |"
    );
    assert!(
        table.contains("errors at batch 32, concurrency 16: 2 x status 500"),
        "{table}"
    );
    assert!(
        table.contains("1024 distinct examples (8192 wanted"),
        "{table}"
    );
    assert!(table.contains("- short: fewer than 20 requests"), "{table}");
}

#[test]
fn a_table_without_short_runs_does_not_explain_them() {
    let table = render(&run("served"), &[Record::Served(served(1, 16, 0, 2.5))]);
    assert!(!table.contains("short"), "{table}");
}

#[test]
fn a_row_says_where_the_client_was_the_bound() {
    let bound = |bound, seconds| Served {
        client: Some(ClientTime {
            bound,
            ..ClientTime::default()
        }),
        ..served(1, 64, 0, seconds)
    };
    let passes = [bound(Bound::Other, 2.0), bound(Bound::Client, 2.0)].map(Record::Served);
    let table = render(&run("served"), &passes);
    assert!(table.contains("| 0 | short, client-bound |"), "{table}");
    assert!(
        table.contains("- client-bound: the load generator's"),
        "{table}"
    );
    assert!(!table.contains("- cores-bound"), "{table}");
}

#[test]
fn records_without_the_clients_time_are_read() {
    let pass = served(1, 16, 0, 2.5);
    let text = serde_json::to_string(&Record::Served(pass.clone())).unwrap();
    assert!(!text.contains("client"), "{text}");
    let read: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(read, Record::Served(pass));
}

#[test]
fn a_folder_is_rewritten_from_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = Folder::create(Some(dir.path()), &run("matrix")).unwrap();
    let mut records = matrix();
    records.push(Record::Model(Model {
        peer: "galley".into(),
        model: "echo".into(),
        batch: 1,
        shape: vec![1, 64],
        ms: 1.5,
        resident_ms: None,
        items_per_s: 666.7,
        runs: 3,
        dtype: "f32".into(),
        weights: "none".into(),
    }));
    for record in &records {
        folder.append(record).unwrap();
    }
    let table = rewrite(dir.path()).unwrap();
    assert_eq!(table, render(&run("matrix"), &records));
    assert_eq!(
        std::fs::read_to_string(dir.path().join("table.md")).unwrap(),
        table
    );
    let readme = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
    for part in [
        "galley bench matrix echo",
        "abc1234",
        "8.0 GiB",
        "1024, distinct",
    ] {
        assert!(readme.contains(part), "{part} is not in {readme}");
    }
}

#[test]
fn a_damaged_record_is_named_by_its_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("results.jsonl"), "{\"kind\":\"guess\"}\n").unwrap();
    let error = rewrite(dir.path()).unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
}
