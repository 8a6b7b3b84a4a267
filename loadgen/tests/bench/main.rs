//! `galley bench` as a user has it, against a server that fails where it is told to.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod builds;
mod compare;
mod load;
mod models;
mod stand_in;

use std::{collections::HashMap, path::Path};

use clap::Parser;
use galley_loadgen::{
    BenchArgs, Context,
    corpus::{CALIBRATION_SEED, Corpus, CorpusKind, SEED},
    report::record::{Agreement, Native, Record, Run, Served},
};

use self::stand_in::{Fault, StandIn};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

/// What a run wrote.
#[derive(Default)]
struct Written {
    run: Option<Run>,
    native: Vec<Native>,
    served: Vec<Served>,
    agreement: Vec<Agreement>,
    table: String,
}

/// Runs `galley bench ARGS --out DIR` and reads what it wrote.
fn bench(args: &str, out: &Path) -> anyhow::Result<Written> {
    let words = std::iter::once("bench").chain(args.split(' '));
    let cli = Cli::try_parse_from(words.chain(["--out", out.to_str().unwrap()]))?;
    galley_loadgen::run(&cli.bench.command, &Context::default())?;
    let mut written = Written {
        table: std::fs::read_to_string(out.join("table.md"))?,
        ..Written::default()
    };
    for line in std::fs::read_to_string(out.join("results.jsonl"))?.lines() {
        match serde_json::from_str(line)? {
            Record::Run(run) => written.run = Some(*run),
            Record::Native(native) => written.native.push(native),
            Record::Served(served) => written.served.push(served),
            Record::Agreement(agreement) => written.agreement.push(agreement),
            _ => (),
        }
    }
    Ok(written)
}

fn texts(count: usize, seed: u64) -> Vec<String> {
    let corpus = Corpus::open(CorpusKind::Ner, count, seed, &|_, _| ()).unwrap();
    (0..count)
        .map(|index| String::from_utf8(corpus.bytes(index).unwrap().to_vec()).unwrap())
        .collect()
}

#[test]
fn every_example_is_sent_once_and_every_failure_is_counted() {
    let examples = texts(203, SEED);
    let faults = [
        (0, Fault::Status(500)),
        (41, Fault::ShortList),
        (82, Fault::Drop),
        (120, Fault::ItemError),
        (121, Fault::ItemError),
        (160, Fault::NotSuccessful),
        (202, Fault::NotJson),
    ];
    let server = StandIn::start(faults.map(|(index, fault)| (examples[index].clone(), fault)));
    let out = tempfile::tempdir().unwrap();
    let args = format!(
        "served echo --url {} --examples 203 --batch 4 --concurrency 8 --repeats 1 --client-threads 3",
        server.url
    );
    let written = bench(&args, out.path()).unwrap();

    // Each example once; beside them, examples that calibrate (twice) and warm up (a tenth as many, behind the measured ones).
    let mut expected: HashMap<String, usize> = HashMap::new();
    for text in texts(203 + 20, SEED) {
        *expected.entry(text).or_default() += 1;
    }
    for text in texts(64, CALIBRATION_SEED) {
        *expected.entry(text).or_default() += 2;
    }
    assert_eq!(server.take_seen(), expected);

    let served = &written.served[0];
    assert_eq!((served.requests, served.examples), (51, 203));
    let expected = [
        ("status 500", 1),
        ("wrong number of predictions", 1),
        ("connection", 1),
        ("error for an input", 1),
        ("not successful", 1),
        ("malformed answer", 1),
    ];
    assert_eq!(
        served.errors,
        expected
            .map(|(kind, count)| (kind.to_owned(), count))
            .into()
    );
    // Five requests of four failed, and the last, of three.
    assert_eq!(served.items_ok, 203 - 5 * 4 - 3);
    assert!(
        written.table.contains("1 x status 500"),
        "{}",
        written.table
    );
    assert!(written.table.contains("| short"), "{}", written.table);
    assert_eq!(written.run.unwrap().client_threads, Some(3));
    // Linux alone tells, and not every kernel.
    if let Some(client) = &served.client {
        assert!(
            client.threads == 3 && client.ran_seconds > 0.0,
            "{client:?}"
        );
        assert_eq!(client.server_ran_seconds, None);
    }
}

#[test]
fn a_url_with_a_user_is_asked_as_well() {
    let server = StandIn::start([]);
    let url = server.url.replace("http://", "http://me:secret@");
    let out = tempfile::tempdir().unwrap();
    let args = format!("served echo --url {url} --examples 60 --concurrency 8 --repeats 1");
    let written = bench(&args, out.path()).unwrap();
    assert_eq!(written.served[0].items_ok, 60);
}

#[test]
fn a_matrix_has_both_sides_of_every_cell() {
    let server = StandIn::start([]);
    let out = tempfile::tempdir().unwrap();
    let args = format!(
        "matrix echo --url {} --examples 96 --batch 1,32 --concurrency 1,2 --repeats 2",
        server.url
    );
    let written = bench(&args, out.path()).unwrap();
    assert_eq!((written.native.len(), written.served.len()), (4, 8));
    assert!(
        written
            .served
            .iter()
            .all(|served| served.items_ok == 96 && served.errors.is_empty())
    );
    let rows = written
        .table
        .lines()
        .filter(|line| line.starts_with("| echo"));
    assert_eq!(rows.count(), 4 + 2);
    let run = written.run.unwrap();
    assert_eq!(run.server.unwrap().weights.as_deref(), Some("none"));
}

#[test]
fn a_dtype_agrees_with_itself_on_every_label() {
    let out = tempfile::tempdir().unwrap();
    let written = bench("agreement transformers_ner --examples 40", out.path()).unwrap();
    let agreement = &written.agreement[0];
    assert_eq!((agreement.examples, agreement.agreeing_examples), (40, 40));
    assert!(agreement.labels > 40 && agreement.agreeing_labels == agreement.labels);
    assert!(agreement.largest_deviation == 0.0 && agreement.logit_spread > 0.0);
    assert!(
        written.table.contains("40 of 40 (100.000 %)"),
        "{}",
        written.table
    );
}

#[test]
fn what_has_no_logits_cannot_be_compared() {
    let out = tempfile::tempdir().unwrap();
    let error = bench("agreement echo --examples 4", out.path())
        .err()
        .unwrap();
    assert!(error.to_string().contains("no logits"), "{error}");
}

#[test]
fn an_open_loop_sends_at_its_rate() {
    let server = StandIn::start([]);
    let out = tempfile::tempdir().unwrap();
    let args = format!(
        "served echo --url {} --examples 60 --concurrency 8 --repeats 1 --rate 200",
        server.url
    );
    let served = &bench(&args, out.path()).unwrap().served[0];
    assert!(served.seconds >= 59.0 / 200.0, "{served:?}");
    assert_eq!(served.items_ok, 60);
}

#[test]
fn a_server_that_answers_nothing_well_is_an_error() {
    let texts = texts(8, SEED);
    let faults = texts.into_iter().map(|text| (text, Fault::Status(500)));
    let server = StandIn::start(faults);
    let out = tempfile::tempdir().unwrap();
    let args = format!("served echo --url {} --examples 8 --repeats 1", server.url);
    let error = bench(&args, out.path()).err().unwrap().to_string();
    assert!(error.contains("8 x status 500"), "{error}");
}

#[test]
fn a_server_of_another_recipe_is_refused() {
    let server = StandIn::start([]);
    let out = tempfile::tempdir().unwrap();
    let args = format!("served deepsegment_en --url {} --examples 8", server.url);
    let error = bench(&args, out.path()).err().unwrap().to_string();
    assert!(error.contains("/meta names echo"), "{error}");
}
