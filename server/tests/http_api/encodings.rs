//! Compressed bodies, the same over every protocol.

use std::io::Write as _;

use axum::{body::Body, http::Request};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use galley::http::HttpConfig;
use galley_core::InputKind::Json;
use serde_json::json;

use crate::{
    oip::{INFER, text_request},
    support::{App, Reply},
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

/// A body in two halves, each compressed by itself.
fn halves(compress: fn(&[u8]) -> Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    let (one, two) = bytes.split_at(bytes.len() / 2);
    [compress(one), compress(two)].concat()
}

async fn post(app: &App, path: &str, encoding: &str, body: Vec<u8>) -> Reply {
    let request = Request::post(path)
        .header("content-encoding", encoding)
        .header("accept-encoding", "gzip")
        .body(Body::from(body));
    app.ask(request.unwrap()).await
}

/// Where a body of one text goes, and that body.
fn requests(text: &str) -> [(&'static str, Vec<u8>); 3] {
    [
        ("/infer", json!([text]).to_string().into_bytes()),
        (
            "/recipes/fake/infer",
            json!({"data": [text]}).to_string().into_bytes(),
        ),
        (INFER, text_request(&[text]).to_string().into_bytes()),
    ]
}

#[tokio::test]
async fn bodies_may_be_compressed_in_any_way_that_is_known() {
    let app = App::new(Json).await;
    // A small body is read where it arrives, a large one on the pool; what is large may become so only here.
    for text in ["abc".to_owned(), "a".repeat(500_000)] {
        for (path, body) in requests(&text) {
            for (encoding, packed) in [
                ("gzip", gzip(&body)),
                ("GZIP", halves(gzip, &body)),
                ("x-gzip", gzip(&body)),
                ("Deflate", deflate(&body)),
                ("zstd", zstd(&body)),
                ("ZStd", halves(zstd, &body)),
                ("identity", body.clone()),
                ("Identity, gzip", gzip(&body)),
            ] {
                let reply = post(&app, path, encoding, packed).await;
                assert_eq!(reply.status, 200, "{path} {encoding}");
                let plain = match reply.header("content-encoding") {
                    "gzip" => {
                        let mut plain = Vec::new();
                        let mut decoder = flate2::read::GzDecoder::new(&*reply.body);
                        std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
                        plain
                    }
                    _ => reply.body,
                };
                let plain = String::from_utf8(plain).unwrap();
                assert!(plain.contains(&text), "{path} {encoding}");
            }
        }
    }
}

#[tokio::test]
async fn a_job_and_its_result_may_be_asked_for_compressed() {
    let app = App::new(Json).await;
    let id = "/infer?async=true&unique_id=a";
    let accepted = post(&app, id, "gzip", gzip(b"[\"x\"]")).await;
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    let wanted = gzip(b"\xef\xbb\xbf{\"unique_id\": \"a\"}");
    let result = post(&app, "/result", "Gzip", wanted).await;
    assert_eq!(result.status, 200, "{}", result.text());
    let index = post(
        &app,
        "/v2/repository/index",
        "gzip",
        gzip(b"{\"ready\": true}"),
    )
    .await;
    assert_eq!(index.json()[0]["name"], "fake");
}

#[tokio::test]
async fn the_querys_compression_is_within_that_of_http() {
    let app = App::new(Json).await;
    let body = gzip(&zstd(b"[\"x\"]"));
    let reply = post(&app, "/infer?compressed=true", "gzip", body).await;
    assert_eq!(reply.status, 200);
    let plain = zstd::decode_all(&*reply.body).unwrap();
    assert!(String::from_utf8(plain).unwrap().contains("\"x\""));
}

#[tokio::test]
async fn what_is_not_so_compressed_is_refused() {
    let app = App::new(Json).await;
    for (path, body) in requests("abc") {
        for (encoding, packed, status) in [
            ("br", body.clone(), 415),
            ("gzip, zstd", gzip(&zstd(&body)), 415),
            ("gzip", body.clone(), 400),
            ("zstd", gzip(&body), 400),
            ("deflate", gzip(&body), 400),
            ("gzip", gzip(&body)[..20].to_vec(), 400),
            ("gzip", [gzip(&body), b"more".to_vec()].concat(), 400),
            ("deflate", [deflate(&body), b"more".to_vec()].concat(), 400),
            ("gzip", Vec::new(), 400),
        ] {
            let reply = post(&app, path, encoding, packed).await;
            assert_eq!(reply.status, status, "{path} {encoding}: {}", reply.text());
        }
        let plain = post(&app, path, "", gzip(&body)).await;
        assert_eq!(plain.status, 400);
        assert!(
            plain.text().contains("Content-Encoding: gzip"),
            "{}",
            plain.text()
        );
    }
    assert_eq!(app.controls.items(), 0);
}

#[tokio::test]
async fn what_comes_out_has_a_limit_however_it_was_packed() {
    let config = HttpConfig {
        max_decompressed: 4000,
        ..HttpConfig::default()
    };
    let app = App::with(Json, 2, config).await;
    let bomb = [b' '; 2500];
    for path in ["/infer", INFER] {
        for (encoding, packed) in [
            ("gzip", halves(gzip, &[bomb, bomb].concat())),
            ("zstd", halves(zstd, &[bomb, bomb].concat())),
            ("deflate", deflate(&[bomb, bomb].concat())),
        ] {
            let reply = post(&app, path, encoding, packed).await;
            assert_eq!(reply.status, 413, "{path} {encoding}");
            assert!(reply.text().contains("--max-decompressed"));
        }
    }
}
