//! Too large, in every dimension.

use axum::body::Body;
use galley::http::HttpConfig;
use galley_core::InputKind::{File, Json};
use serde_json::json;

use crate::support::{App, until};

fn small() -> HttpConfig {
    HttpConfig {
        max_body: 1000,
        max_decompressed: 2000,
        ..HttpConfig::default()
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_413_and_name_the_option() {
    let app = App::with(Json, 64, small()).await;
    let text = "x".repeat(1001);
    let chunks = || {
        let chunk = |_| Ok::<_, std::io::Error>("x".repeat(100));
        Body::from_stream(futures::stream::iter((0..11).map(chunk)))
    };
    for body in [Body::from(text.clone()), chunks()] {
        let reply = app.post("/infer", "", body).await;
        assert_eq!(reply.status, 413);
        assert_eq!(
            reply.reason(),
            "the body exceeds the limit of 1000 bytes (--max-body)"
        );
    }
    let inside = json!(["x".repeat(996)]).to_string();
    assert_eq!(inside.len(), 1000);
    assert_eq!(app.post("/infer", "", inside).await.status, 200);
}

#[tokio::test]
async fn a_bomb_is_413_and_names_the_option() {
    for size in [2001, 300 << 10, 64 << 20] {
        let app = App::with(
            Json,
            64,
            HttpConfig {
                max_body: 1 << 20,
                ..small()
            },
        )
        .await;
        let bomb = zstd::bulk::compress(&vec![b'['; size], 3).unwrap();
        let reply = app.post("/infer?compressed=true", "", bomb).await;
        assert_eq!(reply.status, 413, "{size}");
        let plain = String::from_utf8(zstd::bulk::decompress(&reply.body, 1000).unwrap()).unwrap();
        assert!(plain.contains("2000 bytes (--max-decompressed)"), "{plain}");
    }
}

#[tokio::test]
async fn values_and_parts_are_counted() {
    let app = App::with(Json, 64, small()).await;
    let values = |n: usize| format!("[[{}]]", vec!["0"; n].join(","));
    assert_eq!(app.post("/infer", "", values(31)).await.status, 200);
    let reply = app.post("/infer", "", values(32)).await;
    assert!(
        reply.status == 413 && reply.reason().contains("--max-body"),
        "{}",
        reply.reason()
    );

    let app = App::with(File, 2, HttpConfig::default()).await;
    let part = "--x\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\ncat\r\n";
    let reply = app
        .post(
            "/infer",
            "multipart/form-data; boundary=x",
            part.repeat(3) + "--x--\r\n",
        )
        .await;
    assert!(
        reply.status == 413 && reply.reason().contains("--max-queue-size"),
        "{}",
        reply.reason()
    );
}

#[tokio::test]
async fn all_bodies_together_are_bounded() {
    let app = App::with(
        Json,
        64,
        HttpConfig {
            max_buffered: 1500,
            ..HttpConfig::default()
        },
    )
    .await;
    app.controls.close();
    let large = json!(["x".repeat(1000)]).to_string();
    let held = app.post("/infer", "", large.clone());
    let refused = async {
        let held = "galley_in_flight{recipe=\"fake\"} 1";
        until(async || app.get("/metrics").await.text().contains(held)).await;
        let refused = app.post("/infer", "", large.clone()).await;
        app.controls.open();
        refused
    };
    let (held, refused) = tokio::join!(held, refused);
    assert_eq!((held.status, refused.status), (200, 429));
    assert!(
        refused.reason().contains("--max-buffered"),
        "{}",
        refused.reason()
    );
    assert_eq!(app.post("/infer", "", large).await.status, 200);
}
