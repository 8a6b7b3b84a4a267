//! Paths, methods, recipes by name, `/meta`, probes and metrics.

use galley_core::InputKind::{File, Json};
use serde_json::json;

use crate::support::{App, several};

#[tokio::test]
async fn a_lone_recipe_answers_at_the_root_and_under_its_name() {
    let app = App::new(Json).await;
    for path in [
        "/infer",
        "/sync",
        "/recipes/fake/infer",
        "/recipes/fake/sync",
        "/infer?recipe=fake",
    ] {
        let reply = app.post(path, "application/json", r#"["a"]"#).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.json()["prediction"], json!(["a"]), "{path}");
    }
}

#[tokio::test]
async fn several_recipes_answer_by_name_only() {
    let app = several().await;
    for path in ["/recipes/texts/infer", "/infer?recipe=texts"] {
        assert_eq!(
            app.post(path, "", r#"["a"]"#).await.json()["prediction"],
            json!(["a"]),
            "{path}"
        );
    }
    assert_eq!(
        app.post("/recipes/files/infer", "image/png", "cat")
            .await
            .json()["prediction"],
        json!(["cat"])
    );
    assert_eq!(app.get("/recipes/files/meta").await.json()["name"], "files");
    assert_eq!(app.get("/meta?recipe=files").await.json()["name"], "files");
    for reply in [
        app.post("/infer", "", "[]").await,
        app.post("/result", "", r#"{"unique_id": "x"}"#).await,
        app.get("/meta").await,
    ] {
        assert_eq!(reply.status, 400);
        assert!(
            reply.reason().contains("texts, files"),
            "{}",
            reply.reason()
        );
    }
    for path in [
        "/recipes/nobody/infer",
        "/infer?recipe=nobody",
        "/recipes/nobody/else",
    ] {
        let reply = app.post(path, "", "[]").await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(
            reply.reason().contains("texts, files"),
            "{path}: {}",
            reply.reason()
        );
    }
    assert_eq!(
        app.get("/health").await.json()["recipes"],
        json!(["texts", "files"])
    );
    assert_eq!(
        app.get("/recipes/files/health").await.json()["recipes"],
        json!(["files"])
    );
    assert_eq!(app.get("/health?recipe=nobody").await.status, 404);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_answered_in_the_usual_shape() {
    let app = App::new(Json).await;
    for (reply, status) in [
        (app.get("/nothing").await, 404),
        (app.get("/infer").await, 405),
        (app.get("/recipes/fake/infer").await, 405),
        (app.post("/meta", "", "x").await, 405),
        (app.post("/metrics", "", "x").await, 405),
    ] {
        assert_eq!(reply.status, status);
        let body = reply.json();
        assert_eq!(body["success"], false);
        assert!(
            body["reason"].is_string()
                && body["prediction"].is_null()
                && body["unique_id"].is_null()
        );
    }
}

#[tokio::test]
async fn meta_says_how_to_talk_to_the_recipe() {
    let app = App::new(File).await;
    let meta = app.get("/meta").await.json();
    for (key, value) in [
        ("name", json!("fake")),
        ("example", json!(["ZXhhbXBsZQ=="])),
        ("is_pickle_allowed", json!(false)),
        ("timeout", json!(60.0)),
        ("input_type", json!("file")),
        ("weights", json!("none")),
        ("dtype", json!("f32")),
        ("device", json!("cpu")),
        ("max_batch_size", json!(1)),
        ("result_ttl", json!(600.0)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(meta[key], value, "{key}");
    }
    assert_eq!(
        app.get("/meta?is_pickle_allowed=").await.json()["is_pickle_allowed"],
        false
    );
    // The example is a request.
    let reply = app
        .post("/infer", "application/json", meta["example"].to_string())
        .await;
    assert_eq!(reply.json()["prediction"], json!(["example"]));
}

#[tokio::test]
async fn operators_see_liveness_readiness_and_metrics() {
    let app = App::new(Json).await;
    assert_eq!(app.get("/livez").await.status, 200);
    assert_eq!(app.get("/readyz").await.json(), json!({"status": "ready"}));
    app.post("/infer", "", r#"["a", "bad"]"#).await;
    app.post("/infer", "", "nonsense").await;
    for path in ["/metrics", "/prometheus_metrics"] {
        let reply = app.get(path).await;
        assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4");
        for outcome in ["partial", "bad_request"] {
            let line = format!(
                r#"galley_requests_total{{recipe="fake",protocol="fastdeploy",outcome="{outcome}"}} 1"#
            );
            assert!(
                reply.text().contains(&line),
                "{line} is missing in\n{}",
                reply.text()
            );
        }
    }
    let index = app.get("/").await.text();
    assert!(
        index.contains("fake") && index.contains("/infer") && index.contains("curl"),
        "{index}"
    );
}
