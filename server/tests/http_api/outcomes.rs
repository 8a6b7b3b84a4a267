//! What becomes of requests that do not simply succeed.

use std::{sync::atomic::Ordering, time::Duration};

use galley::http::HttpConfig;
use galley_core::InputKind::{File, Json};
use serde_json::json;

use crate::support::{App, until};

#[tokio::test]
async fn one_bad_item_of_32_fails_alone() {
    let app = App::new(Json).await;
    let mut items: Vec<String> = (0..32).map(|item| item.to_string()).collect();
    items[13] = "bad".into();
    let reply = app.post("/infer", "", json!(items).to_string()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["success"], true);
    let mut expected = json!(items);
    expected[13] = json!({"error": "not an image"});
    assert_eq!(reply.json()["prediction"], expected);
}

#[tokio::test]
async fn items_refused_before_and_by_the_recipe_keep_their_places() {
    let app = App::new(File).await;
    // "bad" is YmFk; "?" is no base64.
    let reply = app.post("/infer", "", r#"["?", "YmFk", "Y2F0", 5]"#).await;
    let prediction = &reply.json()["prediction"];
    assert_eq!(prediction[1], json!({"error": "not an image"}));
    assert_eq!(prediction[2], "cat");
    assert!(prediction[0]["error"].as_str().unwrap().contains("base64"));
    assert!(
        prediction[3]["error"]
            .as_str()
            .unwrap()
            .contains("a number")
    );
}

#[tokio::test]
async fn if_every_item_fails_the_request_does() {
    let app = App::new(Json).await;
    for (id, body, status, reason) in [
        ("one", r#"["bad"]"#, 400, "not an image"),
        (
            "mixed",
            r#"["bad", "huge"]"#,
            400,
            "none of the 2 inputs can be answered; the first: not an image",
        ),
        ("large", r#"["huge", "huge"]"#, 413, "--max-pixels"),
    ] {
        let reply = app.post(&format!("/infer?unique_id={id}"), "", body).await;
        assert_eq!(reply.status, status, "{body}");
        assert!(
            reply.reason().contains(reason),
            "{body}: {}",
            reply.reason()
        );
        let answer = reply.json();
        assert_eq!(
            (&answer["success"], &answer["unique_id"]),
            (&json!(false), &json!(id))
        );
        assert!(answer["prediction"][0]["error"].is_string());
    }
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let app = App::with(Json, 2, HttpConfig::default()).await;
    app.controls.close();
    let first = app.post("/infer", "", r#"["a"]"#);
    let others = app.post("/infer", "", r#"["b", "c"]"#);
    let refused = async {
        // One runs and two wait.
        until(async || {
            app.get("/metrics")
                .await
                .text()
                .contains("galley_queue_depth{recipe=\"fake\"} 2")
        })
        .await;
        let refused = app.post("/infer", "", r#"["d"]"#).await;
        let by_id = app.post("/infer?unique_id=d", "", r#"["d"]"#).await;
        let asynchronous = app
            .post("/infer?unique_id=e&async=true", "", r#"["d"]"#)
            .await;
        app.controls.open();
        [refused, by_id, asynchronous]
    };
    // In that order: the first is taken by the device before the others come.
    let others = async {
        app.controls.until_busy().await;
        others.await
    };
    let (first, others, refused) = tokio::join!(first, others, refused);
    assert_eq!((first.status, others.status), (200, 200));
    for reply in refused {
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (429, "1"),
            "{}",
            reply.text()
        );
    }
    // An id whose request was refused is free again.
    assert_eq!(
        app.post("/infer?unique_id=d", "", r#"["other"]"#)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn more_items_than_the_queue_holds_are_413() {
    let app = App::with(Json, 2, HttpConfig::default()).await;
    let reply = app.post("/infer", "", r#"["a", "b", "c"]"#).await;
    assert_eq!(reply.status, 413);
    assert!(
        reply.reason().contains("--max-queue-size"),
        "{}",
        reply.reason()
    );
}

#[tokio::test]
async fn a_deadline_passed_is_504() {
    let app = App::new(Json).await;
    app.controls.close();
    for path in ["/infer?timeout=0.05", "/infer?timeout=0.05&unique_id=x"] {
        let reply = app.post(path, "", r#"["a"]"#).await;
        assert_eq!(
            (reply.status, reply.reason().as_str()),
            (504, "timeout"),
            "{path}"
        );
    }
    app.controls.open();
    let short = HttpConfig {
        timeout: Duration::from_millis(50),
        ..HttpConfig::default()
    };
    let app = App::with(Json, 64, short).await;
    app.controls.close();
    assert_eq!(
        app.post("/infer?timeout=1000", "", r#"["a"]"#).await.status,
        504,
        "the server's own maximum counts"
    );
    app.controls.open();
}

#[tokio::test]
async fn a_failing_device_is_500_without_its_secrets() {
    let app = App::new(Json).await;
    app.controls.fails.store(true, Ordering::SeqCst);
    let reply = app.post("/infer", "", r#"["a"]"#).await;
    assert_eq!(reply.status, 500);
    assert!(
        !reply.reason().is_empty() && !reply.text().contains("secret"),
        "{}",
        reply.text()
    );
    app.controls.fails.store(false, Ordering::SeqCst);
    assert_eq!(app.post("/infer", "", r#"["a"]"#).await.status, 200);
}
