//! A log that cannot be written, or that nobody reads, and what it never holds. And stdout without a reader.

use std::{
    fs::File,
    io::PipeReader,
    process::{ExitStatus, Stdio},
};

use reqwest::Client;
use serde_json::{Value, json};

use crate::program::{Server, galley, run, until};

/// Answers a malformed request, serves on, and drains with a request in flight.
async fn serves_without_its_log(server: Server) -> ExitStatus {
    let infer = format!("{}/infer", server.url);
    let client = Client::new();
    let malformed = client.post(&infer).body("x").send().await.unwrap();
    assert_eq!(malformed.status(), 400);
    let in_flight = client.post(&infer).json(&json!(["a", "b", "c"])).send();
    let in_flight = tokio::spawn(in_flight);
    let metrics = format!("{}/metrics", server.url);
    until("in flight", async || {
        let metrics = client.get(&metrics).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        metrics.contains("galley_in_flight{recipe=\"echo\"} 1")
    })
    .await;
    server.terminate();
    let answer = in_flight.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["prediction"], json!(["a", "b", "c"]));
    tokio::task::spawn_blocking(|| server.wait().0)
        .await
        .unwrap()
}

/// A recipe that takes a while, and every line that there could be.
const ARGS: [&str; 9] = [
    "--recipes",
    "echo",
    "--option",
    "echo.sleep=300ms",
    "--max-batch-size",
    "1",
    "--log",
    "trace",
    "--drain-linger=0s",
];

fn without_reader() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_reader_of_its_log_a_server_serves_and_drains() {
    let server = Server::start_with(&ARGS, without_reader());
    assert_eq!(serves_without_its_log(server).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_where_the_reader_stands_still() {
    let (reader, writer): (PipeReader, _) = std::io::pipe().unwrap();
    let server = Server::start_with(&ARGS, writer.into());
    // More lines than a pipe holds.
    let client = Client::new();
    for _ in 0..2000 {
        let malformed = client.post(format!("{}/infer", server.url)).body("x");
        assert_eq!(malformed.send().await.unwrap().status(), 400);
    }
    assert_eq!(serves_without_its_log(server).await.code(), Some(0));
    drop(reader);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_on_a_full_disk() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let server = Server::start_with(&ARGS, full.into());
    assert_eq!(serves_without_its_log(server).await.code(), Some(0));
}

#[test]
fn what_is_wrong_has_its_status_though_nobody_reads_it() {
    let mut command = galley(&["serve", "--recipes", "nonsense"]);
    command.stdout(Stdio::null()).stderr(without_reader());
    assert_eq!(command.status().unwrap().code(), Some(2));
}

#[test]
fn commands_whose_reader_goes_end_without_a_word() {
    let lines = "a line\n".repeat(1000);
    for args in [
        &["predict", "echo", "-"][..],
        &["recipes"],
        &["recipes", "--json"],
    ] {
        let ended = run_without_reader(args, &lines);
        assert_eq!(ended, (Some(0), String::new()), "{args:?}");
    }
}

fn run_without_reader(args: &[&str], stdin: &str) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = galley(args);
    command.stdin(Stdio::piped()).stdout(writer);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    // It may end before it has read all of it.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), stderr)
}

#[test]
fn a_full_disk_is_a_failure_of_what_is_printed() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let mut command = galley(&["predict", "echo", "a"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stderr.is_empty());
}

/// Others' crates would log texts by character, bodies by frame, and headers.
#[tokio::test(flavor = "multi_thread")]
async fn at_the_most_talkative_level_others_say_no_more_than_info() {
    const SIGNS: [char; 2] = ['\u{298}', '\u{2d0}'];
    for filter in [
        "trace",
        "trace,tokenizers=trace,hyper=trace",
        "tokenizers=trace,hyper=debug",
    ] {
        let server = Server::start(&["--recipes", "transformers_ner", "--log", filter]);
        let text = format!("Sarah {} Johnson", String::from_iter(SIGNS));
        let answer = Client::new().post(format!("{}/infer", server.url));
        let answer = answer.json(&json!([text])).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        server.terminate();
        let (status, _, stderr) = server.wait();
        assert_eq!(status.code(), Some(0), "{stderr}");
        for line in stderr.lines() {
            assert!(!line.contains(SIGNS), "{line}");
            let is_talk = line.contains(" TRACE ") || line.contains(" DEBUG ");
            assert!(!is_talk || line.contains(" galley"), "{line}");
        }
        let own = stderr.lines().filter(|line| line.contains(" galley"));
        assert_eq!(own.count() > 0, filter.starts_with("trace"), "{stderr}");
    }
}

/// The last lines are not lost in the thread that writes them.
#[test]
fn a_log_is_written_to_its_end() {
    let server = Server::start(&["--recipes", "echo"]);
    server.terminate();
    let (_, _, stderr) = server.wait();
    let last = stderr.lines().last().unwrap();
    assert!(last.contains("drained"), "{stderr}");
    let ended = run(galley(&["serve", "--recipes", "nonsense"]), "");
    assert!(ended.stderr.starts_with("galley: "), "{}", ended.stderr);
}
