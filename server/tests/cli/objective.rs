//! An objective (`--slo`): what cannot keep it is refused at once, and nothing that was accepted times out.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use reqwest::Client;
use serde_json::json;
use tokio::task::JoinSet;

use crate::program::Server;

/// Callers at a time, each of which asks again and again.
const CALLERS: usize = 4;
/// How many refusals all of them wait for.
const REFUSALS: usize = 20;

/// Asks until enough have been refused: how often it was answered, and what its refusals said.
async fn ask(url: String, refusals: Arc<AtomicUsize>) -> (usize, Vec<u64>) {
    let client = Client::new();
    let (mut answered, mut refused) = (0, Vec::new());
    while refusals.load(Ordering::Relaxed) < REFUSALS {
        let response = client.post(&url).json(&json!(["a"])).send().await.unwrap();
        match response.status().as_u16() {
            200 => answered += 1,
            429 => {
                refusals.fetch_add(1, Ordering::Relaxed);
                refused.push(
                    response.headers()["retry-after"]
                        .to_str()
                        .unwrap()
                        .parse()
                        .unwrap(),
                );
            }
            other => panic!("expected 200 or 429, got {other}"),
        }
    }
    (answered, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_keep_an_objective_is_refused_with_the_time_that_it_would_have_to_wait() {
    // Items run one by one, and one alone takes longer than the objective: it is tried all the same, so that a wrong prediction
    // can be put right, and whoever comes meanwhile is refused.
    let server = Server::start(&[
        "--recipes",
        "echo",
        "--option",
        "echo.sleep=1s",
        "--max-batch-size",
        "1",
        "--slo",
        "1h,echo=200ms",
    ]);
    let refusals = Arc::default();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(ask(format!("{}/infer", server.url), Arc::clone(&refusals)));
    }
    let outcomes = callers.join_all().await;
    assert!(outcomes.iter().any(|(answered, _)| *answered > 0));
    // Two seconds of work, of which the objective allows for a fifth of one.
    let waits = outcomes.iter().flat_map(|(_, refused)| refused);
    assert!(waits.clone().all(|&seconds| seconds >= 2), "{outcomes:?}");
    let metrics = reqwest::get(format!("{}/metrics", server.url))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        r#"galley_requests_total{recipe="echo",protocol="fastdeploy",outcome="timeout"} 0"#,
        r#"galley_forward_prediction_ratio_bucket{recipe="echo",le="0.25"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}
