//! `/health` and its parameters.

use std::{sync::atomic::Ordering, time::Duration};

use galley::http::HttpConfig;
use galley_core::InputKind::Json;

use crate::support::{App, NEVER};

const FAILED: &str = "fail_if_percentage_of_requests_failed_in_last_x_seconds_is_more_than_y";
const TIMED_OUT: &str = "fail_if_requests_timedout_in_last_x_seconds_is_more_than_y";
const PENDING: &str = "fail_if_requests_older_than_x_seconds_pending";
const UP_TIME: &str = "fail_if_up_time_more_than_x_seconds";

/// A server that believes the engine's last answer for as long as the test takes.
async fn start() -> App {
    let config = HttpConfig {
        health_window: NEVER,
        ..HttpConfig::default()
    };
    App::with(Json, 64, config).await
}

async fn health(app: &App, parameter: &str, value: &str) -> u16 {
    let reply = app.get(&format!("/health?{parameter}={value}")).await;
    if reply.status == 503 {
        assert_eq!(reply.json()["status"], "failing");
        assert!(!reply.reason().is_empty());
    }
    reply.status
}

#[tokio::test]
async fn an_engine_that_answers_is_healthy() {
    let app = start().await;
    let reply = app.get("/health").await;
    assert_eq!(
        (reply.status, reply.json()["status"].as_str()),
        (200, Some("ok"))
    );
    assert!(
        app.get("/metrics")
            .await
            .text()
            .contains(r#"protocol="probe",outcome="ok"} 1"#)
    );
    assert_eq!(app.get("/health").await.status, 200);
    let text = app.get("/metrics").await.text();
    assert!(
        text.contains(r#"protocol="probe",outcome="ok"} 1"#),
        "it answered lately, and need not be asked: {text}"
    );
}

#[tokio::test]
async fn too_many_failures() {
    let app = start().await;
    assert_eq!(
        health(&app, FAILED, "3600,0").await,
        200,
        "nothing has failed"
    );
    app.controls.fails.store(true, Ordering::SeqCst);
    app.post("/infer", "", r#"["a"]"#).await;
    app.controls.fails.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        app.post("/infer", "", r#"["a"]"#).await;
    }
    assert_eq!(health(&app, FAILED, "3600,24").await, 503);
    assert_eq!(health(&app, FAILED, "3600,25").await, 200);
    assert_eq!(health(&app, TIMED_OUT, "3600,0").await, 200);
}

#[tokio::test]
async fn too_many_timeouts() {
    let app = start().await;
    app.controls.close();
    app.post("/infer?timeout=0.01", "", r#"["a"]"#).await;
    app.controls.open();
    app.post("/infer", "", r#"["a"]"#).await;
    assert_eq!(health(&app, TIMED_OUT, "3600,49").await, 503);
    assert_eq!(health(&app, TIMED_OUT, "3600,50").await, 200);
    assert_eq!(health(&app, FAILED, "3600,0").await, 200);
}

#[tokio::test]
async fn requests_pending_for_too_long() {
    let app = start().await;
    app.post("/infer", "", r#"["a"]"#).await;
    app.controls.close();
    let pending = app.post("/infer", "", r#"["a"]"#);
    let asked = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let statuses = [
            health(&app, PENDING, "0.2").await,
            health(&app, PENDING, "3000").await,
        ];
        app.controls.open();
        statuses
    };
    let (_, statuses) = tokio::join!(pending, asked);
    assert_eq!(statuses, [503, 200]);
    assert_eq!(health(&app, PENDING, "0").await, 200);
}

#[tokio::test]
async fn up_for_too_long() {
    let app = start().await;
    assert_eq!(health(&app, UP_TIME, "0").await, 503);
    assert_eq!(health(&app, UP_TIME, "100000").await, 200);
}

#[tokio::test]
async fn malformed_parameters_are_400() {
    let app = start().await;
    for (parameter, value) in [
        (FAILED, "5"),
        (FAILED, "x,y"),
        (TIMED_OUT, "1,"),
        (PENDING, "soon"),
        (UP_TIME, "-1"),
    ] {
        let reply = app.get(&format!("/health?{parameter}={value}")).await;
        assert_eq!(reply.status, 400, "{parameter}={value}");
        assert!(reply.reason().contains(parameter), "{}", reply.reason());
    }
}
