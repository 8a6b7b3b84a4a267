//! Requests with an id: asynchronous, sent twice, sent with another body.

use std::{sync::atomic::Ordering, time::Duration};

use galley::http::HttpConfig;
use galley_core::InputKind::Json;
use serde_json::{Value, json};

use crate::support::{App, Reply, until};

async fn result(app: &App, id: &str) -> Reply {
    app.post(
        "/result",
        "application/json",
        json!({"unique_id": id}).to_string(),
    )
    .await
}

#[tokio::test]
async fn an_async_request_is_answered_at_once_and_its_result_later() {
    let app = App::new(Json).await;
    app.controls.close();
    let accepted = app.post("/infer?async=True", "", r#"["a", "bad"]"#).await;
    assert_eq!(
        (accepted.status, accepted.json()["success"].clone()),
        (200, json!(true))
    );
    let id = accepted.json()["unique_id"].as_str().unwrap().to_owned();
    let processing = result(&app, &id).await;
    assert_eq!(processing.status, 200);
    assert_eq!(
        (&processing.json()["success"], &processing.json()["reason"]),
        (&Value::Null, &json!("processing"))
    );
    app.controls.open();
    until(async || result(&app, &id).await.json()["success"] == true).await;
    let expected = json!({"success": true, "unique_id": id, "prediction": ["a", {"error": "not an image"}], "reason": null});
    // As often as it is asked for, by POST and by GET.
    assert_eq!(result(&app, &id).await.json(), expected);
    assert_eq!(
        app.get(&format!("/result?unique_id={id}")).await.json(),
        expected
    );
    let reply = app
        .get(&format!(
            "/result?unique_id={id}&input_type=msgpack&compressed=True"
        ))
        .await;
    let plain = zstd::bulk::decompress(&reply.body, 1000).unwrap();
    assert_eq!(rmp_serde::from_slice::<Value>(&plain).unwrap(), expected);
    let wanted = zstd::bulk::compress(
        &rmp_serde::to_vec_named(&json!({"unique_id": id})).unwrap(),
        1,
    )
    .unwrap();
    assert_eq!(
        app.post("/result?input_type=msgpack&compressed=True", "", wanted)
            .await
            .body,
        reply.body
    );
    assert_eq!(app.controls.items(), 1);
}

#[tokio::test]
async fn an_async_failure_is_told_with_its_status() {
    let app = App::new(Json).await;
    app.controls.close();
    for id in ["slow", "broken"] {
        // Time enough to be accepted, whatever else the machine does.
        let timeout = if id == "slow" { 2 } else { 60 };
        app.controls.fails.store(id == "broken", Ordering::SeqCst);
        let path = format!("/infer?async=true&unique_id={id}&timeout={timeout}");
        assert_eq!(app.post(&path, "", r#"["a"]"#).await.status, 200);
        if id == "slow" {
            until(async || result(&app, "slow").await.status == 504).await;
        }
    }
    app.controls.open();
    until(async || result(&app, "broken").await.status == 500).await;
    let all_bad = app
        .post("/infer?async=true&unique_id=bad", "", r#"["bad"]"#)
        .await;
    assert!([200, 400].contains(&all_bad.status));
    until(async || result(&app, "bad").await.status == 400).await;
}

#[tokio::test]
async fn unknown_and_malformed_ids() {
    let app = App::new(Json).await;
    assert_eq!(result(&app, "nobody").await.status, 404);
    for (body, path) in [
        ("", "/result"),
        ("[]", "/result"),
        (r#"{"unique_id": 7}"#, "/result"),
        (r#"{"unique_id": ""}"#, "/result"),
    ] {
        assert_eq!(app.post(path, "", body).await.status, 400, "{body}");
    }
    assert_eq!(app.get("/result").await.status, 400);
    assert_eq!(
        app.post("/infer?unique_id=x", "", r#"["a"]"#).await.status,
        200
    );
    assert_eq!(
        result(&app, "x").await.json()["prediction"],
        json!(["a"]),
        "synchronous ones are remembered too"
    );
}

#[tokio::test]
async fn a_result_is_forgotten_after_its_time() {
    let app = App::with(
        Json,
        64,
        HttpConfig {
            result_ttl: Duration::from_millis(200),
            ..HttpConfig::default()
        },
    )
    .await;
    // While it runs it has no age.
    app.controls.close();
    let accepted = app.post("/infer?async=true&unique_id=x", "", r#"["a"]"#);
    assert_eq!(accepted.await.status, 200);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(result(&app, "x").await.json()["reason"], "processing");
    app.controls.open();
    until(async || result(&app, "x").await.status == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_and_body_is_one_inference_for_many_callers() {
    let app = App::new(Json).await;
    app.controls.close();
    let body = r#"["a", "b"]"#;
    let calls = (0..20).map(|_| app.post("/infer?unique_id=x", "", body));
    let calls = futures::future::join_all(calls);
    let open = async {
        // One of them asynchronously, one with little patience, one in another encoding of the same.
        assert_eq!(
            app.post("/infer?unique_id=x&async=true", "", body)
                .await
                .status,
            200
        );
        assert_eq!(
            app.post("/infer?unique_id=x&timeout=0.01", "", body)
                .await
                .status,
            504
        );
        app.controls.open();
        app.post("/infer?unique_id=x", "", r#"{"data": ["a", "b"]}"#)
            .await
    };
    let (replies, other) = tokio::join!(calls, open);
    for reply in replies.iter().chain([&other]) {
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(
            reply.json(),
            json!({"success": true, "unique_id": "x", "prediction": ["a", "b"], "reason": null})
        );
    }
    assert_eq!(app.post("/infer?unique_id=x", "", body).await.status, 200);
    assert_eq!(app.controls.items(), 2);
}

#[tokio::test]
async fn the_same_id_with_another_body_is_409() {
    let app = App::new(Json).await;
    assert_eq!(
        app.post("/infer?unique_id=x", "", r#"["a"]"#).await.status,
        200
    );
    for path in ["/infer?unique_id=x", "/infer?unique_id=x&async=true"] {
        assert_eq!(app.post(path, "", r#"["b"]"#).await.status, 409);
    }
    assert_eq!(app.controls.items(), 1);
}

#[tokio::test]
async fn a_failed_request_runs_again_when_it_is_sent_again() {
    let app = App::new(Json).await;
    app.controls.fails.store(true, Ordering::SeqCst);
    assert_eq!(
        app.post("/infer?unique_id=x", "", r#"["a"]"#).await.status,
        500
    );
    app.controls.fails.store(false, Ordering::SeqCst);
    assert_eq!(
        app.post("/infer?unique_id=x", "", r#"["a"]"#).await.status,
        200
    );
}

#[tokio::test]
async fn when_as_many_run_as_may_more_are_429() {
    let app = App::with(
        Json,
        64,
        HttpConfig {
            max_results: 2,
            ..HttpConfig::default()
        },
    )
    .await;
    app.controls.close();
    let mut statuses = Vec::new();
    for id in 0..3 {
        statuses.push(
            app.post(&format!("/infer?async=true&unique_id={id}"), "", r#"["a"]"#)
                .await
                .status,
        );
    }
    assert_eq!(statuses, [200, 200, 429]);
    app.controls.open();
    until(async || result(&app, "1").await.json()["success"] == true).await;
    assert_eq!(
        app.post("/infer?unique_id=3", "", r#"["a"]"#).await.status,
        200
    );
    assert_eq!(
        result(&app, "0").await.status,
        404,
        "the oldest has made room"
    );
}
