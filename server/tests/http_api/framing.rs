//! Requests that two programs could read as two different ones.

use galley::http::HttpConfig;
use galley_core::InputKind::Json;
use tokio::io::AsyncWriteExt;

use crate::{
    support::Server,
    wire::{answer, read_all, send},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_could_be_read_in_two_ways_is_refused_and_the_connection_closed() {
    let server = Server::start(Json, 64, HttpConfig::default()).await;
    let chunks = "5\r\n[\"a\"]\r\n0\r\n\r\n";
    for (path, lines, body, named) in [
        ("/infer", "Host: y\r\nContent-Length: 5", "[\"a\"]", "Host"),
        (
            "/infer",
            "Transfer-Encoding: gzip, chunked",
            chunks,
            "Transfer-Encoding",
        ),
        (
            "/infer",
            "Transfer-Encoding: identity, chunked",
            chunks,
            "Transfer-Encoding",
        ),
        (
            "/infer",
            "Transfer-Encoding: chunked, chunked",
            chunks,
            "Transfer-Encoding",
        ),
        (
            "/infer",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            chunks,
            "both",
        ),
        (
            "/infer",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            chunks,
            "both",
        ),
        (
            "/v2/models/fake/infer",
            "content-length: 5\r\ntransfer-encoding: chunked",
            chunks,
            "both",
        ),
        ("/livez", "host: x", "", "Host"),
    ] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n{body}");
        let mut stream = send(&server, request).await;
        let answer = read_all(&mut stream).await.to_lowercase();
        assert!(answer.starts_with("http/1.1 400"), "{lines}: {answer}");
        assert!(answer.contains(&named.to_lowercase()), "{lines}: {answer}");
        assert!(answer.contains("connection: close"), "{lines}: {answer}");
    }
    for lines in ["Transfer-Encoding: chunked", "Transfer-Encoding: Chunked"] {
        let request = format!("POST /infer HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n{chunks}");
        let answer = answer(&mut send(&server, request).await).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{lines}: {answer}");
    }
}

/// What hyper takes away of a header cannot be seen where that came together with the request before.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_chunks_follows_an_answer_and_not_a_request() {
    let server = Server::start(Json, 64, HttpConfig::default()).await;
    let head = "POST /infer HTTP/1.1\r\nHost: x\r\n";
    let plain = format!("{head}Content-Length: 5\r\n\r\n[\"a\"]");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\n[\"a\"]\r\n0\r\n\r\n");
    let both = chunked.replacen("chunked", "chunked\r\nContent-Length: 5", 1);
    for second in [&chunked, &both] {
        let mut stream = send(&server, format!("{plain}{second}")).await;
        let answers = read_all(&mut stream).await;
        assert!(answers.starts_with("HTTP/1.1 200"), "{answers}");
        assert_eq!(answers.matches("HTTP/1.1 400").count(), 1, "{answers}");
    }
    let mut stream = send(&server, chunked.clone()).await;
    for _ in 0..20 {
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
        stream.write_all(chunked.as_bytes()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_a_value_in_msgpack() {
    let app = crate::support::App::new(Json).await;
    let value = rmp_serde::to_vec(&["a"]).unwrap();
    assert_eq!(
        app.post("/infer?input_type=msgpack", "", value.clone())
            .await
            .status,
        200
    );
    for rest in [&b"\x00"[..], b"\xc1", b"\x93", b"\n", &value] {
        let body = [&value, rest].concat();
        let reply = app.post("/infer?input_type=msgpack", "", body).await;
        assert_eq!(reply.status, 400, "{rest:?}");
    }
    let id = rmp_serde::to_vec_named(&serde_json::json!({"unique_id": "x"})).unwrap();
    let id = [&id[..], b"\x00"].concat();
    let reply = app.post("/result?input_type=msgpack", "", id).await;
    assert_eq!(reply.status, 400);
}
