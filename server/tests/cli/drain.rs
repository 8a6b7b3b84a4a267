//! A drain that would take too long: what ends it.

use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::json;

use crate::program::Server;

/// Batches of one that take a second each, and more of them than anybody waits for.
const REQUESTS: usize = 20;

/// A server with work for [`REQUESTS`] seconds that has been told to end.
async fn draining(more: &[&str]) -> Server {
    let slow = ["--recipes", "echo", "--option", "echo.sleep=1s"];
    let server = Server::start(&[&slow[..], &["--max-batch-size", "1"], more].concat());
    let (client, url) = (Client::new(), format!("{}/infer", server.url));
    for i in 0..REQUESTS {
        let accepted = client.post(format!("{url}?async=true")).json(&json!([i]));
        assert_eq!(accepted.send().await.unwrap().status(), 200);
    }
    server.terminate();
    let gone = async { while reqwest::get(format!("{}/livez", server.url)).await.is_ok() {} };
    let waited = tokio::time::timeout(Duration::from_secs(10), gone).await;
    waited.expect("a server that drains accepts no connections");
    server
}

fn ends_early(server: Server, since: Instant, reason: &str) {
    let (status, stdout, stderr) = server.wait();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(since.elapsed() < Duration::from_secs(10));
    assert_eq!(stdout, "");
    let last = stderr.lines().last().unwrap();
    assert!(
        last.starts_with("galley: ") && last.contains(reason),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal() {
    let server = draining(&[]).await;
    let start = Instant::now();
    server.terminate();
    ends_early(server, start, "second signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_that_it_may_take() {
    let server = draining(&["--drain-timeout", "200ms"]).await;
    ends_early(server, Instant::now(), "--drain-timeout");
}
