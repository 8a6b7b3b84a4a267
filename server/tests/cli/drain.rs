//! A drain that would take too long: what ends it.

use reqwest::Client;
use serde_json::json;

use crate::program::{Server, until};

/// Batches of one that take a second each, and more of them than anybody waits for: far more seconds than a test's patience.
const ITEMS: usize = 3600;

/// A server with work for [`ITEMS`] seconds that has been told to end.
async fn draining(more: &[&str]) -> Server {
    let slow = ["--recipes", "echo", "--option", "echo.sleep=1s"];
    // The request's own time does not end it sooner.
    let patient = ["--max-batch-size", "1", "--timeout", "2h"];
    let server = Server::start(&[&slow[..], &patient, more].concat());
    let work = vec!["a"; ITEMS];
    let accepted = Client::new().post(format!("{}/infer?async=true", server.url));
    let accepted = accepted.json(&json!(work)).send().await;
    assert_eq!(accepted.unwrap().status(), 200);
    server.terminate();
    let livez = format!("{}/livez", server.url);
    until("a server that drains accepts no connections", async || {
        reqwest::get(&livez).await.is_err()
    })
    .await;
    server
}

/// It does end, and `wait` would not wait for the work to be done.
fn ends_early(server: Server, reason: &str) {
    let (status, stdout, stderr) = server.wait();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stdout, "");
    let last = stderr.lines().last().unwrap();
    assert!(
        last.starts_with("galley: ") && last.contains(reason),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal() {
    let server = draining(&["--drain-timeout", "2h"]).await;
    server.terminate();
    ends_early(server, "second signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_that_it_may_take() {
    let server = draining(&["--drain-timeout", "200ms"]).await;
    ends_early(server, "--drain-timeout");
}
