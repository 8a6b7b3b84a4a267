//! What the Open Inference Protocol says of models over REST, and of what is not there.

use galley_core::InputKind::Json;
use serde_json::json;

use crate::{
    oip::{INFER, error, infer, text_request},
    support::{App, several},
};

#[tokio::test]
async fn the_server_and_its_models_are_described() {
    let app = App::new(Json).await;
    let server = app.get("/v2").await.json();
    assert_eq!(server["name"], "galley");
    assert_eq!(
        server["extensions"],
        json!(["binary_tensor_data", "statistics", "model_configuration"])
    );
    assert_eq!(
        app.get("/v2/health/live").await.json(),
        json!({"live": true})
    );
    assert_eq!(
        app.get("/v2/health/ready").await.json(),
        json!({"ready": true})
    );
    let model = json!({
        "name": "fake", "versions": ["1"], "platform": "galley",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}],
        "outputs": [{"name": "prediction", "datatype": "BYTES", "shape": [-1]}],
    });
    let config = json!({
        "name": "fake", "platform": "galley", "backend": "candle", "max_batch_size": 64,
        "input": [{"name": "text", "data_type": "TYPE_STRING", "dims": [1], "optional": false}],
        "output": [{"name": "prediction", "data_type": "TYPE_STRING", "dims": [1]}],
        "dynamic_batching": {"preferred_batch_size": [1], "max_queue_delay_microseconds": 0},
        "model_transaction_policy": {"decoupled": false},
    });
    for base in ["/v2/models/fake", "/v2/models/fake/versions/1"] {
        assert_eq!(app.get(base).await.json(), model);
        assert_eq!(app.get(&format!("{base}/config")).await.json(), config);
        let ready = app.get(&format!("{base}/ready")).await;
        assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    }
    let index = json!([{"name": "fake", "version": "1", "state": "READY", "reason": ""}]);
    for body in ["", "{}", "null", r#"{"ready": null}"#, r#"{"ready": true}"#] {
        assert_eq!(
            app.post("/v2/repository/index", "", body).await.json(),
            index
        );
    }
}

#[tokio::test]
async fn what_is_not_there_says_so_in_the_protocols_shape() {
    let app = App::new(Json).await;
    for (path, status) in [
        ("/v2/models/other", 404),
        ("/v2/models/other/ready", 404),
        ("/v2/models/fake/versions/2", 404),
        ("/v2/models/fake/nonsense", 404),
        ("/v2/nonsense", 404),
        (INFER, 405),
        ("/v2/repository/index", 405),
    ] {
        let reply = app.get(path).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(!error(&reply).is_empty());
    }
    let reply = app.post("/v2/models/other/infer", "", "{}").await;
    assert_eq!(reply.status, 404);
    assert!(error(&reply).contains("fake"), "the models are named");
}

#[tokio::test]
async fn models_are_listed_by_name() {
    let app = several().await;
    let reply = app.get("/v2/models").await;
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({"models": ["texts", "files"]}))
    );
}

#[tokio::test]
async fn a_model_may_be_named_with_escapes() {
    let app = App::new(Json).await;
    for path in ["/v2/models/f%61ke", "/v2/models/%66%61%6B%65/versions/%31"] {
        let reply = app.get(path).await;
        assert_eq!(
            (reply.status, &reply.json()["name"]),
            (200, &json!("fake")),
            "{path}"
        );
    }
    assert_eq!(app.get("/v2/models/f%2561ke").await.status, 404);
}

#[tokio::test]
async fn extensions_that_are_not_here_say_so() {
    let app = App::new(Json).await;
    for (path, words) in [
        (
            "/v2/systemsharedmemory/region/r/register",
            "shares no memory",
        ),
        ("/v2/systemsharedmemory/unregister", "shares no memory"),
        ("/v2/cudasharedmemory/region/r/register", "shares no memory"),
        ("/v2/repository/models/fake/unload", "--recipes"),
        ("/v2/logging", "--log"),
    ] {
        let reply = app.post(path, "application/json", "{}").await;
        assert_eq!(reply.status, 501, "{path}");
        assert!(error(&reply).contains(words), "{path}: {}", error(&reply));
    }
    let status = app.get("/v2/systemsharedmemory/status").await;
    assert_eq!(status.status, 501);
}

#[tokio::test]
async fn requests_are_counted_by_protocol_and_in_the_models_statistics() {
    let app = App::new(Json).await;
    infer(&app, &text_request(&["a", "b"])).await;
    infer(&app, &json!({})).await;
    let metrics = app.get("/metrics").await.text();
    for outcome in ["ok", "bad_request"] {
        let line = format!(
            "galley_requests_total{{recipe=\"fake\",protocol=\"oip\",outcome=\"{outcome}\"}} 1"
        );
        assert!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    }
    for path in [
        "/v2/models/stats",
        "/v2/models/fake/stats",
        "/v2/models/fake/versions/1/stats",
    ] {
        let statistics = &app.get(path).await.json()["model_stats"][0];
        assert_eq!(statistics["name"], "fake");
        assert_eq!(
            (
                &statistics["inference_count"],
                &statistics["execution_count"]
            ),
            (&json!(2), &json!(2))
        );
        assert!(statistics["last_inference"].as_u64().unwrap() > 1_700_000_000_000);
        for stage in [
            "success",
            "queue",
            "compute_input",
            "compute_infer",
            "compute_output",
        ] {
            let stage = &statistics["inference_stats"][stage];
            assert_eq!(stage["count"], 1, "{stage}");
            assert!(stage["ns"].is_u64());
        }
        for stage in ["fail", "cache_hit", "cache_miss"] {
            assert_eq!(
                statistics["inference_stats"][stage],
                json!({"count": 0, "ns": 0})
            );
        }
        assert_eq!(statistics["batch_stats"][0]["batch_size"], 1);
        assert_eq!(statistics["batch_stats"][0]["compute_infer"]["count"], 2);
    }
}
