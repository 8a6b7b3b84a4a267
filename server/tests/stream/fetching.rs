//! Inputs from servers: what passes is tried again, what does not is given up.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;

use crate::program::{Ended, Place, repository, run};

fn photo() -> Vec<u8> {
    std::fs::read(repository("recipes/efficientnet/examples/coffee_small.jpg")).unwrap()
}

async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

async fn end(command: std::process::Command) -> Ended {
    tokio::task::spawn_blocking(move || run(command))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_tried_again_and_what_does_not_is_given_up() {
    let asked = Arc::new(AtomicUsize::new(0));
    let times = Arc::clone(&asked);
    let flaky = move || {
        let time = times.fetch_add(1, Ordering::SeqCst);
        async move {
            match time {
                0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                1 => StatusCode::TOO_MANY_REQUESTS.into_response(),
                _ => photo().into_response(),
            }
        }
    };
    let app = Router::new()
        .route("/images/flaky", get(flaky))
        .route("/images/never", get(|| async { StatusCode::BAD_GATEWAY }));
    let server = serve(app).await;
    let place = Place::new();
    let list = [
        "images/flaky?key=hidden",
        "images/never",
        "images/missing",
        "other",
    ];
    let list: Vec<String> = list.iter().map(|path| format!("{server}/{path}")).collect();
    place.write("list", list.join("\n"));
    let allow = format!("{server}/images/");
    let args = [
        "--allow",
        &allow,
        "--retry-delays",
        "10ms,20ms",
        "--attempts",
        "3",
    ];
    let ended = end(place.stream("efficientnet_lite0", &args)).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let row = |path: &str| place.row(&format!("{server}/{path}"));
    let flaky = row("images/flaky");
    assert_eq!((flaky.status.as_str(), flaky.deliveries), ("ok", 3));
    let never = row("images/never");
    assert_eq!((never.status.as_str(), never.deliveries), ("gave_up", 3));
    assert!(never.error.unwrap().contains("502"));
    assert_eq!(row("images/missing").status, "refused");
    assert_eq!(row("other").status, "refused");
    assert_eq!(ended.count("returned"), 4);
    assert_eq!(place.begun(), 0);
    assert!(!ended.stderr.contains("hidden"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_asked_with_their_credentials() {
    let object = |Path(name): Path<String>, headers: HeaderMap| async move {
        let signed = headers.get("authorization").is_some_and(|value| {
            let value = value.to_str().unwrap_or_default();
            value.starts_with("AWS4-HMAC-SHA256 Credential=me/")
        });
        match (signed, name.as_str()) {
            (true, "a b.jpg") => (
                [
                    ("etag", "\"7\""),
                    ("last-modified", "Sun, 29 Nov 2026 00:00:00 GMT"),
                ],
                photo(),
            )
                .into_response(),
            (true, _) => StatusCode::NOT_FOUND.into_response(),
            (false, _) => StatusCode::FORBIDDEN.into_response(),
        }
    };
    let app: Router = Router::new().route("/bucket/images/{*name}", get(object));
    let server: String = serve(app).await;
    let place = Place::new();
    place.write(
        "list",
        "s3://bucket/images/a%20b.jpg\ns3://bucket/images/c.jpg\ns3://bucket/d.jpg\n",
    );
    let mut command = place.stream("efficientnet_lite0", &["--allow", "s3://bucket/images"]);
    command
        .env("AWS_ENDPOINT", &server)
        .env("AWS_ALLOW_HTTP", "true");
    command
        .env("AWS_ACCESS_KEY_ID", "me")
        .env("AWS_SECRET_ACCESS_KEY", "secret");
    let ended = end(command).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(place.row("s3://bucket/images/a%20b.jpg").status, "ok");
    let missing = place.row("s3://bucket/images/c.jpg");
    assert_eq!(missing.error.as_deref(), Some("not found"));
    let other = place.row("s3://bucket/d.jpg").error.unwrap();
    assert!(other.contains("not allowed"), "{other}");
}
