//! The Open Inference Protocol over REST.

use std::{sync::atomic::Ordering, time::Duration};

use axum::{body::Body, http::Request};
use galley::http::HttpConfig;
use galley_core::InputKind::{File, Json};
use serde_json::{Value, json};

use crate::support::{App, Reply, until};

pub(crate) const INFER: &str = "/v2/models/fake/infer";

pub(crate) fn text_request(texts: &[&str]) -> Value {
    json!({"inputs": [{"name": "text", "shape": [texts.len()], "datatype": "BYTES", "data": texts}]})
}

/// BYTES elements as they are in a binary tensor.
pub(crate) fn binary(elements: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for element in elements {
        bytes.extend((element.len() as u32).to_le_bytes());
        bytes.extend(*element);
    }
    bytes
}

pub(crate) async fn infer(app: &App, request: &Value) -> Reply {
    app.post(INFER, "application/json", request.to_string())
        .await
}

/// Posts JSON and what follows it, with the header that says where it ends; without a content type, as clients do.
pub(crate) async fn infer_binary(app: &App, json: &Value, rest: &[u8]) -> Reply {
    let json = json.to_string();
    let length = json.len().to_string();
    infer_raw(app, &length, [json.as_bytes(), rest].concat()).await
}

pub(crate) async fn infer_raw(app: &App, json_length: &str, body: Vec<u8>) -> Reply {
    let request = Request::post(INFER)
        .header("inference-header-content-length", json_length)
        .body(Body::from(body));
    Reply::read(app.send(request.unwrap()).await).await
}

pub(crate) fn error(reply: &Reply) -> String {
    reply.json()["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn texts_are_answered_in_json_in_their_order() {
    let app = App::new(Json).await;
    let mut request = text_request(&["a", "ü\"", ""]);
    request["id"] = json!("7");
    let reply = infer(&app, &request).await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, "application/json")
    );
    assert_eq!(
        reply.json(),
        json!({"model_name": "fake", "model_version": "1", "id": "7", "outputs": [
            {"name": "prediction", "datatype": "BYTES", "shape": [3], "data": ["\"a\"", "\"ü\\\"\"", "\"\""]}]})
    );
    let reply = infer(&app, &text_request(&[])).await;
    assert_eq!(reply.json()["outputs"][0]["shape"], json!([0]));
    assert_eq!(reply.json().get("id"), None);
}

#[tokio::test]
async fn null_is_what_absence_is() {
    let app = App::new(Json).await;
    let input = json!({"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"], "parameters": null});
    let output = json!({"name": "prediction", "parameters": null});
    let nothing =
        json!({"timeout": null, "priority": null, "sequence_id": null, "binary_data_output": null});
    let of_input = json!({"binary_data_size": null, "shared_memory_region": null});
    let of_output =
        json!({"binary_data": null, "classification": null, "shared_memory_region": null});
    for (member, value) in [
        ("/id", json!(null)),
        ("/parameters", json!(null)),
        ("/parameters", nothing),
        ("/outputs", json!(null)),
        ("/outputs", json!([])),
        ("/outputs", json!([output])),
        ("/inputs/0/parameters", of_input),
        ("/outputs/0/parameters", of_output),
    ] {
        let mut request = json!({
            "id": "7", "parameters": {}, "inputs": [input], "outputs": [output],
        });
        *request.pointer_mut(member).unwrap() = value;
        let reply = infer(&app, &request).await;
        assert_eq!(reply.status, 200, "{request}: {}", reply.text());
        assert_eq!(reply.json()["outputs"][0]["data"], json!(["\"a\""]));
    }
    // What there must be cannot be null.
    for member in [
        "/inputs",
        "/inputs/0",
        "/inputs/0/name",
        "/inputs/0/shape",
        "/outputs/0/name",
    ] {
        let mut request = json!({"inputs": [input], "outputs": [output]});
        *request.pointer_mut(member).unwrap() = Value::Null;
        assert_eq!(infer(&app, &request).await.status, 400, "{request}");
    }
}

#[tokio::test]
async fn what_is_no_json_is_named() {
    let app = App::new(Json).await;
    let marked = [b"\xef\xbb\xbf", text_request(&["a"]).to_string().as_bytes()].concat();
    assert_eq!(app.post(INFER, "", marked).await.status, 200);
    let nan = text_request(&["a"]).to_string().replace("\"a\"", "NaN");
    for (body, reason) in [
        (nan.into_bytes(), "NaN at line 1"),
        (
            b"\xff\xd8\xff\xe0".to_vec(),
            "Inference-Header-Content-Length: 0",
        ),
        (b"\x1f\x8b\x08\0".to_vec(), "Content-Encoding: gzip"),
    ] {
        let reply = app.post(INFER, "", body).await;
        assert_eq!(reply.status, 400);
        assert!(error(&reply).contains(reason), "{}", error(&reply));
    }
}

#[tokio::test]
async fn texts_may_have_a_dimension_of_their_own() {
    let app = App::new(Json).await;
    for data in [json!(["a", "b"]), json!([["a"], ["b"]])] {
        let mut request = text_request(&["a", "b"]);
        request["inputs"][0]["shape"] = json!([2, 1]);
        request["inputs"][0]["data"] = data;
        let reply = infer(&app, &request).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(
            reply.json()["outputs"][0]["data"],
            json!(["\"a\"", "\"b\""])
        );
    }
}

#[tokio::test]
async fn files_come_binary_or_in_base64() {
    let app = App::new(File).await;
    let bytes = binary(&[b"cat", b"dog"]);
    let request = json!({"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES",
        "parameters": {"binary_data_size": bytes.len()}}]});
    let reply = infer_binary(&app, &request, &bytes).await;
    assert_eq!(
        reply.json()["outputs"][0]["data"],
        json!(["\"cat\"", "\"dog\""])
    );
    let request =
        json!({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["Y2F0"]}]});
    let reply = infer(&app, &request).await;
    assert_eq!(reply.json()["outputs"][0]["data"], json!(["\"cat\""]));
}

#[tokio::test]
async fn malformed_requests_are_400_and_say_what_was_expected() {
    let app = App::new(Json).await;
    let input = |changes: Value| {
        let mut input = json!({"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]});
        input
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        json!({"inputs": [input]})
    };
    let output = |output: Value| {
        let mut request = text_request(&["a"]);
        request["outputs"] = output;
        request
    };
    let parameter = |parameters: Value| {
        let mut request = text_request(&["a"]);
        request["parameters"] = parameters;
        request
    };
    for (request, reason) in [
        (json!([]), "JSON"),
        (json!({}), "inputs"),
        (json!({"inputs": []}), "expected one input of text, got 0"),
        (json!({"inputs": [{"name": "text"}]}), "shape"),
        (
            input(json!({"name": "image"})),
            "no such input; there is text",
        ),
        (
            input(json!({"datatype": "FP32"})),
            "expected datatype BYTES",
        ),
        (input(json!({"shape": [-1]})), "expected shape [n]"),
        (input(json!({"shape": []})), "expected shape [n]"),
        (
            input(json!({"shape": [1, 2]})),
            "expected shape [n] or [n, 1]",
        ),
        (input(json!({"shape": [1.5]})), "JSON"),
        (
            input(json!({"shape": [2]})),
            "expected 2 elements by the shape, got 1",
        ),
        (input(json!({"data": ["a", "b"]})), "got more"),
        (input(json!({"data": [1]})), "expected a text, got a number"),
        (input(json!({"data": [null]})), "expected a text"),
        (input(json!({"data": "a"})), "expected a list"),
        (
            input(json!({"data": null})),
            "either data or the parameter binary_data_size",
        ),
        (
            input(json!({"parameters": {"binary_data_size": 5}})),
            "either data or",
        ),
        (
            input(json!({"data": null, "parameters": {"binary_data_size": 5}})),
            "binary_data_size is 5, but 0 bytes are left",
        ),
        (
            input(json!({"data": null, "parameters": {"binary_data_size": u64::MAX}})),
            "0 bytes are left",
        ),
        (
            input(json!({"parameters": {"shared_memory_region": "r"}})),
            "shared_memory_region",
        ),
        (
            output(json!([{"name": "label"}])),
            "no such output; there is prediction",
        ),
        (
            output(json!([{"name": "prediction"}, {"name": "prediction"}])),
            "named twice",
        ),
        (
            output(json!([{"name": "prediction", "parameters": {"classification": 3}}])),
            "classification",
        ),
        (parameter(json!({"priority": 1})), "priority"),
        (parameter(json!({"timeout": -1})), "timeout"),
        (parameter(json!({"sequence_id": 1})), "sequence_id"),
    ] {
        let reply = infer(&app, &request).await;
        assert_eq!(reply.status, 400, "{request}");
        assert!(
            error(&reply).contains(reason),
            "{request}: {}",
            error(&reply)
        );
    }
    assert_eq!(app.controls.items(), 0, "nothing of them ran");
    assert_eq!(infer(&app, &text_request(&["a"])).await.status, 200);
}

#[tokio::test]
async fn limits_are_413_and_named() {
    let config = HttpConfig {
        max_body: 2000,
        ..HttpConfig::default()
    };
    let app = App::with(Json, 2, config).await;
    let items = infer(&app, &text_request(&["a", "b", "c"])).await;
    let claimed =
        json!({"inputs": [{"name": "text", "shape": [i64::MAX], "datatype": "BYTES", "data": []}]});
    let claimed = infer(&app, &claimed).await;
    let long = infer(&app, &text_request(&["a".repeat(3000).as_str()])).await;
    for (reply, option) in [
        (items, "--max-queue-size"),
        (claimed, "--max-queue-size"),
        (long, "--max-body"),
    ] {
        assert_eq!(reply.status, 413);
        assert!(error(&reply).contains(option), "{}", error(&reply));
    }
}

#[tokio::test]
async fn an_item_that_cannot_be_read_fails_its_request() {
    let app = App::new(Json).await;
    for (texts, status, reason) in [
        (&["good", "bad"][..], 400, "item 1 of 2: not an image"),
        (&["huge"], 413, "--max-pixels"),
    ] {
        let reply = infer(&app, &text_request(texts)).await;
        assert_eq!(reply.status, status);
        assert!(error(&reply).contains(reason), "{}", error(&reply));
    }
}

#[tokio::test]
async fn the_clients_timeout_ends_a_request() {
    let app = App::new(Json).await;
    app.controls.close();
    let mut request = text_request(&["a"]);
    request["parameters"] = json!({"timeout": 50_000, "priority": 0});
    let reply = infer(&app, &request).await;
    assert_eq!((reply.status, error(&reply).as_str()), (504, "timeout"));
    app.controls.open();
}

#[tokio::test]
async fn a_full_queue_is_429_and_a_failing_device_500() {
    let app = App::with(Json, 1, HttpConfig::default()).await;
    app.controls.close();
    let depth = async |items: usize| {
        let line = format!("galley_queue_depth{{recipe=\"fake\"}} {items}");
        until(async || app.get("/metrics").await.text().contains(&line)).await;
    };
    let (one, two) = (text_request(&["a"]), text_request(&["b"]));
    let second = async {
        until(async || {
            app.get("/metrics")
                .await
                .text()
                .contains("galley_in_flight{recipe=\"fake\"} 1")
        })
        .await;
        depth(0).await;
        infer(&app, &two).await
    };
    let refused = async {
        until(async || {
            app.get("/metrics")
                .await
                .text()
                .contains("galley_in_flight{recipe=\"fake\"} 2")
        })
        .await;
        depth(1).await;
        let refused = infer(&app, &text_request(&["c"])).await;
        app.controls.open();
        refused
    };
    let (first, second, refused) = tokio::join!(infer(&app, &one), second, refused);
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"));

    app.controls.fails.store(true, Ordering::SeqCst);
    let reply = infer(&app, &text_request(&["a"])).await;
    assert_eq!(reply.status, 500);
    assert!(!reply.text().contains("secret"), "{}", reply.text());
}

#[tokio::test]
async fn a_draining_server_is_not_ready_and_takes_nothing() {
    let app = App::new(Json).await;
    app.engine.drain();
    for path in ["/v2/health/ready", "/v2/models/fake/ready"] {
        let reply = app.get(path).await;
        assert_eq!((reply.status, &reply.json()["ready"]), (503, &json!(false)));
    }
    assert_eq!(app.get("/v2/health/live").await.status, 200);
    let reply = infer(&app, &text_request(&["a"])).await;
    assert_eq!(reply.status, 503);
    assert_eq!(
        app.post("/v2/repository/index", "", r#"{"ready": true}"#)
            .await
            .json(),
        json!([])
    );
    let index = app.post("/v2/repository/index", "", "").await.json();
    assert_eq!(index[0]["state"], "UNAVAILABLE");
}

#[tokio::test]
async fn a_body_that_never_ends_is_504() {
    let short = HttpConfig {
        timeout: Duration::from_millis(50),
        ..HttpConfig::default()
    };
    let app = App::with(Json, 4, short).await;
    let never = futures::stream::pending::<Result<&'static str, std::io::Error>>();
    let reply = app.post(INFER, "", Body::from_stream(never)).await;
    assert_eq!(reply.status, 504);
}
