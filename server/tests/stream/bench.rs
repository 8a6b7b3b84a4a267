//! `galley bench stream`: a worker of its own, held against the recipe in process.

use serde_json::Value;

use crate::program::{Place, galley, run};

#[test]
fn a_benchmark_counts_the_rows_and_compares_answers() {
    let place = Place::new();
    let out = place.path("results");
    let table = place.path("answers.db");
    let args = [
        &["bench", "stream", "echo", "--examples", "300", "--repeats"][..],
        &["2", "--out", &out, "--to", &table],
    ];
    let ended = run(galley(&args.concat()));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(place.rows().len(), 600, "300 of each pass");
    let results = std::fs::read_to_string(place.path("results/results.jsonl")).unwrap();
    let records: Vec<Value> = results
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<_> = records.iter().map(|record| &record["kind"]).collect();
    assert_eq!(kinds, ["run", "native", "streamed", "native", "streamed"]);
    let streamed = &records[4];
    assert_eq!(streamed["source"], "list");
    assert_eq!(
        (&streamed["examples"], &streamed["compared"]),
        (&300.into(), &200.into())
    );
    for positive in ["seconds", "items_per_s", "bytes_per_s", "native_ratio"] {
        assert!(streamed[positive].as_f64() > Some(0.0), "{streamed}");
    }
    let rows = ended.stdout.lines();
    assert_eq!(
        rows.filter(|line| line.starts_with("| echo | list | sqlite |"))
            .count(),
        1,
        "{}",
        ended.stdout
    );
}

#[test]
fn a_benchmark_of_a_worker_that_fails_says_why() {
    let place = Place::new();
    let out = place.path("results");
    let args = [
        &["bench", "stream", "echo", "--examples", "10", "--out", &out][..],
        &["--stream-arg=--max-batch-size=none"],
    ];
    let ended = run(galley(&args.concat()));
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("worker"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("--max-batch-size"),
        "{}",
        ended.stderr
    );
}

#[test]
fn only_what_a_broker_has_is_published_at_a_rate() {
    let args = ["bench", "stream", "echo", "--rate", "60/s"];
    let ended = run(galley(&args));
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("--rate"), "{}", ended.stderr);
}
