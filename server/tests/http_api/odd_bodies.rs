//! What clients send that is not quite what was asked for: files without their type, marks before JSON, escapes in names.

use axum::{body::Body, http::Request};
use galley_core::InputKind::{File, Json};
use serde_json::json;

use crate::support::{App, several};

/// The beginnings of files, as far as a body is known by them, and their types.
const IMAGES: [(&[u8], &str); 6] = [
    (b"\xff\xd8\xff\xe0", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF89a", "image/gif"),
    (b"RIFF\x10\0\0\0WEBP", "image/webp"),
    (b"MM\0*", "image/tiff"),
    (b"\0\0\0\x1cftypavif", "image/avif"),
];

#[tokio::test]
async fn an_image_is_answered_without_its_type() {
    let app = App::new(File).await;
    for (bytes, name) in IMAGES {
        // The first is what curl sends unless told.
        for content_type in [
            "application/x-www-form-urlencoded",
            "application/octet-stream",
            "text/plain",
            "",
        ] {
            let reply = app.post("/infer", content_type, bytes).await;
            assert_eq!(reply.status, 200, "{name} as {content_type:?}");
            assert_eq!(
                reply.json()["prediction"],
                json!([String::from_utf8_lossy(bytes)])
            );
        }
    }
}

#[tokio::test]
async fn an_image_with_a_wrong_type_is_told_the_right_one() {
    let app = App::new(File).await;
    for (bytes, name) in IMAGES {
        for (path, content_type) in [
            ("/infer", "application/json"),
            ("/infer?input_type=json", "application/octet-stream"),
        ] {
            let reply = app.post(path, content_type, bytes).await;
            assert_eq!(reply.status, 400, "{path} {name}");
            let right = format!("Content-Type: {name}");
            assert!(reply.reason().contains(&right), "{}", reply.reason());
        }
    }
    // Where images are of no use, that is what is wrong.
    let app = App::new(Json).await;
    for content_type in ["", "application/json", "application/x-www-form-urlencoded"] {
        let reply = app.post("/infer", content_type, IMAGES[0].0).await;
        assert_eq!(reply.status, 400, "{content_type}");
        assert!(reply.reason().contains("image/jpeg"), "{}", reply.reason());
    }
}

#[tokio::test]
async fn a_byte_order_mark_is_passed_over() {
    for (kind, body, expected) in [
        (Json, "\u{feff}[\"a\"]", "a"),
        (Json, "\u{feff}{\"data\": [\"a\"]}", "a"),
        (File, "\u{feff}[\"Y2F0\"]", "cat"),
    ] {
        let app = App::new(kind).await;
        let reply = app.post("/infer", "application/json", body).await;
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        assert_eq!(reply.json()["prediction"], json!([expected]));
    }
}

#[tokio::test]
async fn what_is_no_json_is_named() {
    let app = App::new(Json).await;
    for (body, reason) in [
        (&b"[NaN]"[..], "NaN at line 1"),
        (
            b"{\"data\": [{\"a\": [1,\n-Infinity]}]}",
            "-Infinity at line 2",
        ),
        (b"[\"a\"]\nNaN", "NaN at line 2"),
        (b"[None]", "None"),
        (b"\xff\xfe[\0]\0", "UTF-16"),
        (b"%PDF-1.7", "PDF"),
    ] {
        let reply = app.post("/infer", "application/json", body).await;
        assert_eq!(reply.status, 400);
        assert!(reply.reason().contains(reason), "{}", reply.reason());
    }
}

#[tokio::test]
async fn a_recipe_may_be_named_with_escapes() {
    let app = several().await;
    for name in ["texts", "t%65xts", "%74%65%78%74%73", "t%65xt%73"] {
        let infer = format!("/recipes/{name}/infer");
        let reply = app.post(&infer, "", r#"["a"]"#).await;
        assert_eq!(reply.status, 200, "{infer}: {}", reply.text());
        let by_query = format!("/infer?recipe={name}");
        assert_eq!(app.post(&by_query, "", r#"["a"]"#).await.status, 200);
        let job = format!("{infer}?async=true&unique_id={}", name.len());
        assert_eq!(app.post(&job, "", r#"["a"]"#).await.status, 200);
        let result = format!("/recipes/{name}/result?unique_id={}", name.len());
        assert_eq!(app.get(&result).await.status, 200, "{result}");
        let meta = app.get(&format!("/recipes/{name}/meta")).await;
        assert_eq!(meta.json()["name"], "texts");
        let health = app.get(&format!("/recipes/{name}/health")).await;
        assert_eq!(health.json()["recipes"], json!(["texts"]));
    }
    for name in ["t%2565xts", "texts%00", "%ff", "%"] {
        let request = Request::get(format!("/recipes/{name}/meta"));
        let reply = app.ask(request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.status, 404, "{name}");
        assert!(
            reply.reason().contains("texts, files"),
            "{}",
            reply.reason()
        );
    }
}
