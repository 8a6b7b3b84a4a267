//! Asynchronous requests in a table that replicas share.

use std::{sync::atomic::Ordering, time::Duration};

use galley::{
    database::Address,
    http::HttpConfig,
    jobs::{JobTable, JobsConfig},
};
use galley_core::InputKind::{File, Json};
use serde_json::json;

use crate::support::{App, until};

/// A replica with that folder's table.
async fn replica(
    folder: &tempfile::TempDir,
    kind: galley_core::InputKind,
    more: HttpConfig,
) -> App {
    let config = JobsConfig {
        address: Address::Sqlite(folder.path().join("jobs.db")),
        lease: Duration::from_secs(3600),
        attempts: 5,
    };
    let jobs = Some(JobTable::open(&config).await.unwrap());
    App::with(kind, 64, HttpConfig { jobs, ..more }).await
}

#[tokio::test]
async fn any_replica_tells_a_result_as_the_one_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = replica(&folder, Json, HttpConfig::default()).await;
    let other = replica(&folder, Json, HttpConfig::default()).await;
    first.controls.close();
    let ids = ["some", "none", "broken"];
    let path = |id: &str| format!("/infer?async=true&unique_id={id}");
    let accepted = first.post(&path("some"), "", r#"["a", "bad"]"#).await;
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    assert_eq!(
        accepted.json(),
        json!({"success": true, "unique_id": "some"})
    );
    let reply = other.get("/result?unique_id=some").await;
    assert_eq!(reply.json()["reason"], "processing");
    let known = other.post(&path("some"), "", r#"["a", "bad"]"#).await;
    assert_eq!(known.status, 200);
    assert_eq!(other.post(&path("some"), "", r#"["x"]"#).await.status, 409);
    first.controls.open();
    until(async || other.get("/result?unique_id=some").await.json()["success"] == true).await;
    assert_eq!(
        first.post(&path("none"), "", r#"["huge"]"#).await.status,
        200
    );
    first.controls.fails.store(true, Ordering::SeqCst);
    assert_eq!(
        first.post(&path("broken"), "", r#"["c"]"#).await.status,
        200
    );
    until(async || other.get("/result?unique_id=none").await.status == 413).await;
    until(async || other.get("/result?unique_id=broken").await.status == 500).await;
    for (id, status) in ids.into_iter().zip([200, 413, 500]) {
        let path = format!("/result?unique_id={id}");
        let replies = [first.get(&path).await, other.get(&path).await];
        for reply in &replies {
            assert_eq!(reply.status, status, "{}", reply.text());
            assert_eq!(reply.text(), replies[0].text());
        }
    }
    let some = other.get("/result?unique_id=some").await;
    assert_eq!(
        some.json()["prediction"],
        json!(["a", {"error": "not an image"}])
    );
    // A failure is no result: sent again, to anybody, it runs there.
    let again = other
        .post("/infer?async=true&unique_id=broken", "", r#"["c"]"#)
        .await;
    assert_eq!(again.status, 200);
    until(async || {
        first.get("/result?unique_id=broken").await.json()["prediction"] == json!(["c"])
    })
    .await;
    assert_eq!(first.get("/result?unique_id=nobody").await.status, 404);
    assert_eq!(other.controls.items(), 1);
}

#[tokio::test]
async fn what_is_waited_for_stays_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let first = replica(&folder, File, HttpConfig::default()).await;
    let other = replica(&folder, File, HttpConfig::default()).await;
    let waited = first.post("/infer?unique_id=x", "image/png", "file").await;
    assert_eq!(waited.status, 200);
    assert_eq!(first.get("/result?unique_id=x").await.json(), waited.json());
    assert_eq!(other.get("/result?unique_id=x").await.status, 404);
}

#[tokio::test]
async fn results_expire_and_are_bounded_in_the_table_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = HttpConfig {
        max_results: 2,
        result_ttl: Duration::from_millis(300),
        ..HttpConfig::default()
    };
    let app = replica(&folder, Json, config).await;
    app.controls.close();
    let mut statuses = Vec::new();
    for id in 0..3 {
        let path = format!("/infer?async=true&unique_id={id}");
        statuses.push(app.post(&path, "", r#"["a"]"#).await.status);
    }
    assert_eq!(statuses, [200, 200, 429]);
    app.controls.open();
    for id in 0..2 {
        let path = format!("/result?unique_id={id}");
        until(async || app.get(&path).await.status == 404).await;
    }
    let other_body = app.post("/infer?async=true&unique_id=0", "", r#"["b"]"#);
    assert_eq!(other_body.await.status, 200, "the id is free again");
}
