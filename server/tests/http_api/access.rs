//! API keys under every spelling of every path, and CORS.

use std::sync::Arc;

use axum::{body::Body, http::Request};
use galley::{
    access::{Access, Keyring},
    http::HttpConfig,
};
use galley_core::InputKind::Json;
use serde_json::{Value, json};

use crate::support::{App, Reply};

pub(crate) const KEY: &str = "0123456789abcdef0123456789abcdef";
const OTHER_KEY: &str = "fedcba9876543210fedcba9876543210";

/// A server that wants one of two keys.
pub(crate) async fn guarded(config: HttpConfig) -> App {
    let access = Access {
        keys: Some(keys()),
        tls: None,
    };
    App::with(Json, 64, HttpConfig { access, ..config }).await
}

/// Both keys, from a file.
pub(crate) fn keys() -> Arc<Keyring> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{KEY}\nother {OTHER_KEY}\n")).unwrap();
    Arc::new(Keyring::open(file.path()).unwrap())
}

async fn ask(app: &App, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let request = Request::builder().method(method).uri(path);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    app.ask(request.body(Body::from(r#"["a"]"#)).unwrap()).await
}

/// Paths that answer, ones that almost do, and ones that never will: without a key nobody can tell which is which.
const SPELLINGS: &[&str] = &[
    "/infer",
    "/infer/",
    "//infer",
    "/./infer",
    "/livez/../infer",
    "/livez/infer",
    "/%69nfer",
    "/infer%2f",
    "/INFER",
    "/infer;/livez",
    "/infer?x=/livez",
    "/sync",
    "/result",
    "/result?unique_id=x",
    "/meta",
    "/health",
    "/recipes/fake/infer",
    "/recipes/fake/sync",
    "/recipes/fake/result",
    "/recipes/fake/meta",
    "/recipes/fake/health",
    "/recipes/fake/prometheus_metrics",
    "/recipes//infer",
    "/recipes/fake//infer",
    "/recipes/%66ake/infer",
    "/recipes/nobody/infer",
    "/recipes",
    "/recipes/",
    "/metrics",
    "/prometheus_metrics",
    "/openapi.json",
    "/v2",
    "/v2/",
    "/v2/health/live",
    "/v2/models/fake",
    "/v2/models/fake/infer",
    "/v2/models/fake/versions/1/infer",
    "/v2/models/stats",
    "/v2/repository/index",
    "/v2//models/fake/infer",
    "/%76%32/models/fake/infer",
    "/page/%2e%2e/infer",
    "/page/../infer",
    "/page/a/b",
    "/nothing",
    // Open ones, spelt otherwise.
    "//",
    "/livez/",
    "//livez",
    "/live%7A",
    "/readyz/",
    "/page",
];

#[tokio::test]
async fn without_a_key_only_what_is_listed_is_open() {
    let app = guarded(HttpConfig::default()).await;
    for path in SPELLINGS {
        for method in ["GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE"] {
            let reply = ask(&app, method, path, &[]).await;
            assert_eq!(reply.status, 401, "{method} {path}");
            assert_eq!(
                reply.header("www-authenticate"),
                "Bearer realm=\"galley\"",
                "{method} {path}"
            );
        }
    }
    assert_eq!(app.controls.items(), 0);
    for path in ["/livez", "/readyz", "/", "/page/main.mjs"] {
        for method in ["GET", "HEAD"] {
            assert_eq!(ask(&app, method, path, &[]).await.status, 200, "{path}");
        }
        assert_eq!(ask(&app, "POST", path, &[]).await.status, 401, "{path}");
    }
    let unauthorized = SPELLINGS.len() * 6 + 4;
    let metrics = ask(&app, "GET", "/metrics", &[("x-api-key", KEY)]).await;
    let line = format!("galley_unauthorized_total {unauthorized}\n");
    assert!(metrics.text().contains(&line), "{line}");
}

#[tokio::test]
async fn a_key_opens_everything_in_either_header() {
    let app = guarded(HttpConfig::default()).await;
    let bearer = format!("Bearer {KEY}");
    let other = format!("bearer {OTHER_KEY}");
    for headers in [
        &[("authorization", bearer.as_str())][..],
        &[("authorization", &other)],
        &[("x-api-key", KEY)],
        &[("X-API-Key", OTHER_KEY)],
        // A proxy's own, beside ours.
        &[("authorization", "Basic dTpw"), ("x-api-key", KEY)],
        &[("authorization", &bearer), ("x-api-key", "anything")],
    ] {
        for path in ["/infer", "/recipes/fake/infer"] {
            let reply = ask(&app, "POST", path, headers).await;
            assert_eq!(reply.json()["prediction"], json!(["a"]), "{headers:?}");
        }
        assert_eq!(ask(&app, "GET", "/meta", headers).await.status, 200);
        assert_eq!(ask(&app, "GET", "/nothing", headers).await.status, 404);
    }
}

#[tokio::test]
async fn a_wrong_key_is_told_so_in_the_protocols_shape() {
    let app = guarded(HttpConfig::default()).await;
    let longer = format!("Bearer {KEY}x");
    for (name, value) in [
        ("authorization", longer.as_str()),
        ("authorization", KEY),
        ("authorization", "Bearer "),
        ("authorization", "Basic 0123456789abcdef"),
        ("x-api-key", ""),
        ("x-api-key", "other"),
    ] {
        let reply = ask(&app, "POST", "/infer", &[(name, value)]).await;
        assert_eq!(reply.status, 401, "{name}: {value}");
        let challenge = reply.header("www-authenticate");
        assert!(challenge.contains("invalid_token"), "{challenge}");
    }

    let fastdeploy = ask(&app, "POST", "/infer", &[]).await.json();
    assert_eq!(fastdeploy["success"], false);
    assert!(fastdeploy["reason"].as_str().unwrap().contains("X-API-Key"));
    // In the encoding that its client reads.
    let packed = ask(&app, "POST", "/infer?input_type=msgpack", &[]).await;
    let packed: Value = rmp_serde::from_slice(&packed.body).unwrap();
    assert_eq!(packed, fastdeploy);
    let inference = ask(&app, "POST", "/v2/models/fake/infer", &[]).await.json();
    assert_eq!(inference, json!({"error": fastdeploy["reason"]}));
}

#[tokio::test]
async fn metrics_can_be_opened_and_the_index_shows_strangers_no_recipes() {
    let app = guarded(HttpConfig {
        open_metrics: true,
        ..HttpConfig::default()
    })
    .await;
    for (path, status) in [
        ("/metrics", 200),
        ("/prometheus_metrics", 200),
        ("/metrics/", 401),
        ("/recipes/fake/prometheus_metrics", 401),
        ("/meta", 401),
    ] {
        assert_eq!(ask(&app, "GET", path, &[]).await.status, status, "{path}");
    }
    assert!(!ask(&app, "GET", "/", &[]).await.text().contains("fake"));
    let known = ask(&app, "GET", "/", &[("x-api-key", KEY)]).await;
    assert!(known.text().contains("fake"));
}

const ORIGIN: &str = "https://example.com";

#[tokio::test]
async fn other_origins_are_let_in_only_by_name() {
    let origin = [("origin", ORIGIN)];
    let app = App::new(Json).await;
    let reply = ask(&app, "POST", "/infer", &origin).await;
    assert_eq!(reply.header("access-control-allow-origin"), "");

    let config = HttpConfig {
        cors_origins: vec![
            ORIGIN.parse().unwrap(),
            "http://localhost:3000".parse().unwrap(),
        ],
        ..HttpConfig::default()
    };
    let app = guarded(config).await;
    // A browser asks first, and without the key.
    let asks = [
        ("origin", ORIGIN),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,x-api-key"),
    ];
    let reply = ask(&app, "OPTIONS", "/infer", &asks).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), ORIGIN);
    let headers = reply.header("access-control-allow-headers");
    assert!(headers.contains("x-api-key"), "{headers}");
    // What is refused for want of a key can be read, too.
    let reply = ask(&app, "POST", "/infer", &origin).await;
    assert_eq!(
        (reply.status, reply.header("access-control-allow-origin")),
        (401, ORIGIN)
    );
    let reply = ask(&app, "POST", "/infer", &[origin[0], ("x-api-key", KEY)]).await;
    assert_eq!(
        (reply.status, reply.header("access-control-allow-origin")),
        (200, ORIGIN)
    );
    for stranger in ["https://example.com.evil.org", "http://example.com", "null"] {
        let reply = ask(&app, "POST", "/infer", &[("origin", stranger)]).await;
        assert_eq!(
            reply.header("access-control-allow-origin"),
            "",
            "{stranger}"
        );
    }
}
