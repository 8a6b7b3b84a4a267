//! Binary tensors over REST, and requests that are nothing but one.

use galley_core::InputKind::{File, Json};
use serde_json::{Value, json};

use crate::{
    oip::{binary, error, infer_binary, infer_raw, text_request},
    support::App,
};

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
async fn a_header_of_no_length_makes_the_body_the_one_element() {
    let app = App::new(File).await;
    let reply = infer_raw(&app, "0", b"cat".to_vec()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    let length: usize = reply
        .header("inference-header-content-length")
        .parse()
        .unwrap();
    let json: Value = serde_json::from_slice(&reply.body[..length]).unwrap();
    assert_eq!(json["outputs"][0]["shape"], json!([1]));
    assert_eq!(&reply.body[length..], binary(&[b"\"cat\""]));
    // Bytes that look like a request are an element like any others.
    let app = App::new(Json).await;
    let text = text_request(&["a"]).to_string();
    let reply = infer_raw(&app, "0", text.clone().into_bytes()).await;
    assert!(
        reply
            .body
            .ends_with(serde_json::to_string(&text).unwrap().as_bytes())
    );
    for (body, reason) in [(&b"\xff"[..], "UTF-8"), (b"bad", "not an image")] {
        let reply = infer_raw(&app, "0", body.to_vec()).await;
        assert_eq!(reply.status, 400);
        assert!(error(&reply).contains(reason), "{}", error(&reply));
    }
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
