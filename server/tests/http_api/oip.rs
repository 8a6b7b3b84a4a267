//! The Open Inference Protocol over REST.

use std::{sync::atomic::Ordering, time::Duration};

use axum::{body::Body, http::Request};
use galley::http::HttpConfig;
use galley_core::InputKind::{File, Json};
use serde_json::{Value, json};

use crate::support::{App, Reply, until};

const INFER: &str = "/v2/models/fake/infer";

fn text_request(texts: &[&str]) -> Value {
    json!({"inputs": [{"name": "text", "shape": [texts.len()], "datatype": "BYTES", "data": texts}]})
}

/// BYTES elements as they are in a binary tensor.
fn binary(elements: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for element in elements {
        bytes.extend((element.len() as u32).to_le_bytes());
        bytes.extend(*element);
    }
    bytes
}

async fn infer(app: &App, request: &Value) -> Reply {
    app.post(INFER, "application/json", request.to_string())
        .await
}

/// Posts JSON and what follows it, with the header that says where it ends; without a content type, as clients do.
async fn infer_binary(app: &App, json: &Value, rest: &[u8]) -> Reply {
    let json = json.to_string();
    let length = json.len().to_string();
    infer_raw(app, &length, [json.as_bytes(), rest].concat()).await
}

async fn infer_raw(app: &App, json_length: &str, body: Vec<u8>) -> Reply {
    let request = Request::post(INFER)
        .header("inference-header-content-length", json_length)
        .body(Body::from(body));
    Reply::read(app.send(request.unwrap()).await).await
}

fn error(reply: &Reply) -> String {
    reply.json()["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_server_and_its_models_are_described() {
    let app = App::new(Json).await;
    let server = app.get("/v2").await.json();
    assert_eq!(server["name"], "galley");
    assert_eq!(
        server["extensions"],
        json!(["binary_tensor_data", "statistics", "model_configuration"])
    );
    assert_eq!(
        app.get("/v2/health/live").await.json(),
        json!({"live": true})
    );
    assert_eq!(
        app.get("/v2/health/ready").await.json(),
        json!({"ready": true})
    );
    let model = json!({
        "name": "fake", "versions": ["1"], "platform": "galley",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "prediction", "datatype": "BYTES", "shape": [-1]}],
    });
    let config = json!({
        "name": "fake", "platform": "galley", "backend": "candle", "max_batch_size": 0,
        "input": [{"name": "text", "data_type": "TYPE_STRING", "dims": [-1], "optional": false}],
        "output": [{"name": "prediction", "data_type": "TYPE_STRING", "dims": [-1]}],
        "dynamic_batching": {"preferred_batch_size": [1], "max_queue_delay_microseconds": 0},
        "model_transaction_policy": {"decoupled": false},
    });
    for base in ["/v2/models/fake", "/v2/models/fake/versions/1"] {
        assert_eq!(app.get(base).await.json(), model);
        assert_eq!(app.get(&format!("{base}/config")).await.json(), config);
        let ready = app.get(&format!("{base}/ready")).await;
        assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    }
    let index = json!([{"name": "fake", "version": "1", "state": "READY", "reason": ""}]);
    for body in ["", "{}", r#"{"ready": true}"#] {
        assert_eq!(
            app.post("/v2/repository/index", "", body).await.json(),
            index
        );
    }
}

#[tokio::test]
async fn what_is_not_there_says_so_in_the_protocols_shape() {
    let app = App::new(Json).await;
    for (path, status) in [
        ("/v2/models/other", 404),
        ("/v2/models/other/ready", 404),
        ("/v2/models/fake/versions/2", 404),
        ("/v2/models/fake/nonsense", 404),
        ("/v2/nonsense", 404),
        (INFER, 405),
        ("/v2/repository/index", 405),
    ] {
        let reply = app.get(path).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(!error(&reply).is_empty());
    }
    let reply = app.post("/v2/models/other/infer", "", "{}").await;
    assert_eq!(reply.status, 404);
    assert!(error(&reply).contains("fake"), "the models are named");
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
async fn binary_tensors_go_both_ways() {
    let app = App::new(Json).await;
    let bytes = binary(&[b"one", b"", "zwei\u{fc}".as_bytes()]);
    let mut request = json!({
        "inputs": [{"name": "text", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": bytes.len()}}],
        "parameters": {"binary_data_output": true},
    });
    let reply = infer_binary(&app, &request, &bytes).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let length: usize = reply
        .header("inference-header-content-length")
        .parse()
        .unwrap();
    let json: Value = serde_json::from_slice(&reply.body[..length]).unwrap();
    let expected = binary(&[b"\"one\"", b"\"\"", "\"zwei\u{fc}\"".as_bytes()]);
    assert_eq!(&reply.body[length..], expected);
    assert_eq!(
        json["outputs"][0]["parameters"]["binary_data_size"],
        expected.len()
    );
    assert_eq!(json["outputs"][0].get("data"), None);
    // What an output says itself counts.
    request["outputs"] = json!([{"name": "prediction", "parameters": {"binary_data": false}}]);
    let reply = infer_binary(&app, &request, &bytes).await;
    assert_eq!(reply.header("inference-header-content-length"), "");
    assert_eq!(reply.json()["outputs"][0]["data"][0], "\"one\"");
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
        (input(json!({"shape": [1, 1]})), "expected shape [n]"),
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
async fn binary_parts_that_do_not_fit_are_400() {
    let app = App::new(Json).await;
    let sized = |count: i64, size: usize| json!({"inputs": [{"name": "text", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": size}}]});
    for (request, bytes, reason) in [
        (
            sized(1, 5),
            &b"\x01\0\0\0ab"[..],
            "1 bytes are left after all inputs",
        ),
        (sized(1, 6), b"\x01\0\0\0a", "but 5 bytes are left"),
        (
            sized(1, 6),
            b"\x01\0\0\0ab",
            "1 bytes are left after 1 elements",
        ),
        (
            sized(1, 5),
            b"\xff\xff\xff\xffa",
            "element 0 has 4294967295 bytes",
        ),
        (
            sized(2, 5),
            b"\x01\0\0\0a",
            "expected 2 elements, got the bytes of 1",
        ),
        (sized(1, 3), b"\x01\0\0", "expected 1 elements"),
        (
            sized(1, 5),
            b"\x01\0\0\0\xff",
            "element 0: expected a text in UTF-8",
        ),
    ] {
        let reply = infer_binary(&app, &request, bytes).await;
        assert_eq!(reply.status, 400, "{request}");
        assert!(
            error(&reply).contains(reason),
            "{request}: {}",
            error(&reply)
        );
    }
    let body = text_request(&["a"]).to_string().into_bytes();
    for length in ["99999", "-1", "x", "18446744073709551616"] {
        let reply = infer_raw(&app, length, body.clone()).await;
        assert_eq!(reply.status, 400, "{length}");
        assert!(error(&reply).contains("Inference-Header-Content-Length"));
    }
}

#[tokio::test]
async fn limits_are_413_and_named() {
    let config = HttpConfig {
        max_body: 2000,
        max_decompressed: 4000,
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
    let bomb = compressed(&vec![b' '; 100_000]);
    let reply = post_compressed(&app, "gzip", bomb).await;
    assert_eq!(
        (reply.status, error(&reply).contains("--max-decompressed")),
        (413, true)
    );
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

async fn post_compressed(app: &App, encoding: &str, body: Vec<u8>) -> Reply {
    let request = Request::post(INFER)
        .header("content-encoding", encoding)
        .header("accept-encoding", "gzip")
        .body(Body::from(body));
    Reply::read(app.send(request.unwrap()).await).await
}

#[tokio::test]
async fn bodies_may_be_compressed_both_ways() {
    let app = App::new(Json).await;
    let long = "a".repeat(5000);
    let request = text_request(&[long.as_str()]).to_string();
    let reply = post_compressed(&app, "gzip", compressed(request.as_bytes())).await;
    assert_eq!(
        (reply.status, reply.header("content-encoding")),
        (200, "gzip")
    );
    let mut plain = String::new();
    let mut decoder = flate2::read::GzDecoder::new(reply.body.as_slice());
    std::io::Read::read_to_string(&mut decoder, &mut plain).unwrap();
    assert!(plain.contains(&long));
    assert_eq!(post_compressed(&app, "br", Vec::new()).await.status, 415);
    let broken = post_compressed(&app, "gzip", b"not gzip".to_vec()).await;
    assert_eq!(broken.status, 400);
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
async fn requests_are_counted_by_protocol_and_in_the_models_statistics() {
    let app = App::new(Json).await;
    infer(&app, &text_request(&["a", "b"])).await;
    infer(&app, &json!({})).await;
    let metrics = app.get("/metrics").await.text();
    for outcome in ["ok", "bad_request"] {
        let line = format!(
            "galley_requests_total{{recipe=\"fake\",protocol=\"oip\",outcome=\"{outcome}\"}} 1"
        );
        assert!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    }
    for path in [
        "/v2/models/stats",
        "/v2/models/fake/stats",
        "/v2/models/fake/versions/1/stats",
    ] {
        let statistics = &app.get(path).await.json()["model_stats"][0];
        assert_eq!(statistics["name"], "fake");
        assert_eq!(
            (
                &statistics["inference_count"],
                &statistics["execution_count"]
            ),
            (&json!(2), &json!(2))
        );
        assert!(statistics["last_inference"].as_u64().unwrap() > 1_700_000_000_000);
        for stage in [
            "success",
            "queue",
            "compute_input",
            "compute_infer",
            "compute_output",
        ] {
            let stage = &statistics["inference_stats"][stage];
            assert_eq!(stage["count"], 1, "{stage}");
            assert!(stage["ns"].is_u64());
        }
        for stage in ["fail", "cache_hit", "cache_miss"] {
            assert_eq!(
                statistics["inference_stats"][stage],
                json!({"count": 0, "ns": 0})
            );
        }
        assert_eq!(statistics["batch_stats"][0]["batch_size"], 1);
        assert_eq!(statistics["batch_stats"][0]["compute_infer"]["count"], 2);
    }
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
