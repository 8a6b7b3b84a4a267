//! Every way to send inputs, and what random bytes do.

use std::sync::OnceLock;

use galley::http::HttpConfig;
use galley_core::InputKind::{self, File, Json};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_bytes_stand_in::Bin;
use serde_json::{Value, json};

use crate::support::App;

/// Bytes as msgpack's `bin`, which a plain `Vec<u8>` would not become.
mod serde_bytes_stand_in {
    pub(crate) struct Bin(pub(crate) &'static [u8]);

    impl serde::Serialize for Bin {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }
}

const MULTIPART: &str = "multipart/form-data; boundary=x";

fn multipart(parts: &[&str]) -> String {
    let part = |part: &&str| {
        format!(
            "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n{part}\r\n"
        )
    };
    parts.iter().map(part).collect::<String>() + "--x--\r\n"
}

async fn predicts(
    kind: InputKind,
    path: &str,
    content_type: &str,
    body: impl Into<axum::body::Body>,
    expected: Value,
) {
    let reply = App::new(kind).await.post(path, content_type, body).await;
    assert_eq!(reply.status, 200, "{path} {content_type}: {}", reply.text());
    let body = reply.json();
    assert_eq!(body["prediction"], expected, "{path} {content_type}");
    assert_eq!(
        (&body["success"], &body["reason"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(body["unique_id"].as_str().unwrap().len(), 36);
    assert_eq!(body.as_object().unwrap().len(), 4);
    assert_eq!(reply.header("content-type"), "application/json");
}

#[tokio::test]
async fn json_in_every_form() {
    let body = r#"["a", {"text": "ü", "option": [1, 2.5, null]}]"#;
    let expected = json!(["a", {"text": "ü", "option": [1, 2.5, null]}]);
    predicts(Json, "/infer", "application/json", body, expected.clone()).await;
    predicts(Json, "/infer", "", body, expected.clone()).await;
    predicts(
        Json,
        "/infer",
        "application/x-www-form-urlencoded",
        body,
        expected.clone(),
    )
    .await;
    predicts(
        Json,
        "/infer?input_type=json",
        "application/octet-stream",
        body,
        expected.clone(),
    )
    .await;
    predicts(
        Json,
        "/infer",
        "application/json",
        format!(r#"{{"data": {body}}}"#),
        expected,
    )
    .await;
}

#[tokio::test]
async fn files_in_every_form() {
    predicts(
        File,
        "/infer",
        MULTIPART,
        multipart(&["cat", "dog", "cat"]),
        json!(["cat", "dog", "cat"]),
    )
    .await;
    predicts(
        File,
        "/infer",
        "application/json",
        r#"["Y2F0", "ZG9n"]"#,
        json!(["cat", "dog"]),
    )
    .await;
    predicts(
        File,
        "/infer",
        "",
        r#"{"data": [{"z.jpg": "Y2F0"}, {"a.jpg": "ZG9n"}]}"#,
        json!(["cat", "dog"]),
    )
    .await;
    predicts(File, "/infer", "", r#"{"z.jpg": "Y2F0"}"#, json!(["cat"])).await;
    predicts(File, "/infer", "image/jpeg", "cat", json!(["cat"])).await;
    predicts(
        File,
        "/infer",
        "application/octet-stream",
        "cat",
        json!(["cat"]),
    )
    .await;
    let large = "c".repeat(300_000);
    predicts(
        File,
        "/infer",
        MULTIPART,
        multipart(&[&large, "dog"]),
        json!([large, "dog"]),
    )
    .await;
}

#[tokio::test]
async fn an_empty_list_is_answered_at_once() {
    let app = App::new(Json).await;
    app.controls.close();
    let reply = app.post("/infer", "", "[]").await;
    assert_eq!(
        (reply.status, &reply.json()["prediction"]),
        (200, &json!([]))
    );
}

#[derive(Debug, Deserialize)]
struct MsgpackAnswer {
    success: bool,
    unique_id: String,
    prediction: Option<Vec<Value>>,
    reason: Option<String>,
}

/// As the official client does: `input_type=msgpack&compressed=True`, a fresh id, an opaque content type.
#[tokio::test]
async fn msgpack_and_zstd_there_and_back() {
    let app = App::new(File).await;
    let plain = rmp_serde::to_vec(&[Bin(b"cat"), Bin(b"dog")]).unwrap();
    let packed = zstd::bulk::compress(&plain, -1).unwrap();
    let path = "/infer?unique_id=4-2&async=False&input_type=msgpack&compressed=True";
    let reply = app.post(path, "application/octet-stream", packed).await;
    assert_eq!(reply.status, 200);
    // One call with the size taken from the frame, which the official client depends on.
    let size = zstd::zstd_safe::get_frame_content_size(&reply.body)
        .unwrap()
        .unwrap();
    let plain = zstd::bulk::decompress(&reply.body, size as usize).unwrap();
    let answer: MsgpackAnswer = rmp_serde::from_slice(&plain).unwrap();
    assert!(answer.success && answer.unique_id == "4-2" && answer.reason.is_none());
    assert_eq!(answer.prediction.unwrap(), [json!("cat"), json!("dog")]);

    let texts = rmp_serde::to_vec(&("a", 1.5, json!({"k": null}))).unwrap();
    let reply = App::new(Json)
        .await
        .post("/infer?input_type=msgpack", "", texts)
        .await;
    assert_eq!(reply.header("content-type"), "application/msgpack");
    let answer: MsgpackAnswer = rmp_serde::from_slice(&reply.body).unwrap();
    assert_eq!(
        answer.prediction.unwrap(),
        [json!("a"), json!(1.5), json!({"k": null})]
    );

    let reply = app.post("/infer?input_type=msgpack", "", vec![0x01]).await;
    assert_eq!(reply.status, 400);
    let answer: MsgpackAnswer = rmp_serde::from_slice(&reply.body).unwrap();
    assert!(
        !answer.success && answer.prediction.is_none() && answer.reason.unwrap().contains("list")
    );
}

#[tokio::test]
async fn json_and_zstd_there_and_back() {
    let app = App::new(Json).await;
    let text = "x".repeat(500_000);
    let packed = zstd::bulk::compress(json!([text]).to_string().as_bytes(), 3).unwrap();
    let reply = app.post("/infer?compressed=true", "", packed).await;
    let plain = zstd::bulk::decompress(&reply.body, 1 << 20).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&plain).unwrap()["prediction"],
        json!([text])
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_what_was_expected() {
    let json_app = App::new(Json).await;
    let file_app = App::new(File).await;
    for (app, path, content_type, body, status, expected) in [
        (&json_app, "/infer", "", "", 400, "JSON"),
        (&json_app, "/infer", "", "[1", 400, "JSON"),
        (&json_app, "/infer", "", "[1] x", 400, "JSON"),
        (&json_app, "/infer", "", "\"a\"", 400, "list"),
        (&json_app, "/infer", "", "{\"text\": 1}", 400, "list"),
        (&json_app, "/infer", "image/jpeg", "cat", 400, "expected"),
        (
            &json_app,
            "/infer",
            "multipart/form-data",
            "x",
            400,
            "boundary",
        ),
        (&json_app, "/infer", MULTIPART, "x", 400, "multipart"),
        (
            &json_app,
            "/infer?input_type=xml",
            "",
            "[1]",
            400,
            "json or msgpack",
        ),
        (
            &json_app,
            "/infer?input_type=pickle",
            "",
            "[1]",
            415,
            "use msgpack or json",
        ),
        (&json_app, "/infer?timeout=NaN", "", "[1]", 400, "timeout"),
        (&json_app, "/infer?timeout=-1", "", "[1]", 400, "timeout"),
        (&json_app, "/infer?async=perhaps", "", "[1]", 400, "async"),
        (&file_app, "/infer", "", "[\"!\"]", 400, "base64"),
        (&file_app, "/infer", "", "[7]", 400, "base64"),
        (&file_app, "/infer", "image/jpeg", "", 400, "empty"),
    ] {
        let reply = app.post(path, content_type, body).await;
        let reason = reply.reason().replace("input_type=", "");
        assert_eq!(
            reply.status, status,
            "{path} {content_type} {body}: {reason}"
        );
        assert!(
            reason.contains(expected),
            "{path} {content_type} {body}: {reason}"
        );
        assert_eq!(reply.json()["success"], false);
    }
    let reply = json_app.post("/infer?compressed=True", "", "[1]").await;
    let plain = zstd::bulk::decompress(&reply.body, 1 << 20).unwrap();
    assert!(reply.status == 400 && String::from_utf8(plain).unwrap().contains("zstd"));
}

const QUERIES: [&str; 5] = [
    "",
    "?input_type=json",
    "?input_type=msgpack",
    "?compressed=True",
    "?input_type=msgpack&compressed=True",
];
const TYPES: [&str; 5] = [
    "",
    "application/json",
    "application/octet-stream",
    "image/png",
    MULTIPART,
];

fn apps() -> &'static (tokio::runtime::Runtime, [App; 2]) {
    static APPS: OnceLock<(tokio::runtime::Runtime, [App; 2])> = OnceLock::new();
    APPS.get_or_init(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let config = HttpConfig {
            max_decompressed: 1 << 20,
            ..HttpConfig::default()
        };
        let apps = runtime.block_on(async {
            [
                App::with(Json, 64, config.clone()).await,
                App::with(File, 64, config).await,
            ]
        });
        (runtime, apps)
    })
}

/// Bytes that are almost something.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let framed = |head: &'static [u8]| {
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(move |tail| [head, &tail].concat())
    };
    let part = b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n";
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..256),
        "[\\[\\]{}\",:0-9a-z\\\\ ]{0,40}".prop_map(String::into_bytes),
        framed(b"{\"data\": ["),
        framed(&[0x28, 0xb5, 0x2f, 0xfd]),
        framed(&[0x93]),
        framed(&[0xdd, 0xff, 0xff, 0xff, 0xff]),
        framed(&[0xc6, 0xff, 0xff, 0xff, 0xff]),
        framed(part),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever comes, it is the client's mistake, or answered.
    #[test]
    fn random_bytes_never_break_the_server(
        body in bytes(),
        query in proptest::sample::select(&QUERIES),
        content_type in proptest::sample::select(&TYPES),
        path in proptest::sample::select(&["/infer", "/result"]),
    ) {
        let (runtime, apps) = apps();
        for app in apps {
            let reply = runtime.block_on(app.post(&format!("{path}{query}"), content_type, body.clone()));
            prop_assert!(reply.status < 500, "{} {query} {content_type}: {reply:?}", reply.status);
        }
    }
}

#[derive(Serialize)]
struct Nested(Vec<Nested>);

#[tokio::test]
async fn nesting_is_bounded() {
    let app = App::new(Json).await;
    let reply = app.post("/infer", "", "[".repeat(100_000)).await;
    assert_eq!(reply.status, 400);
    let mut nested = Nested(Vec::new());
    for _ in 0..500 {
        nested = Nested(vec![nested]);
    }
    let reply = app
        .post(
            "/infer?input_type=msgpack",
            "",
            rmp_serde::to_vec(&nested).unwrap(),
        )
        .await;
    assert_eq!(reply.status, 400);
}
