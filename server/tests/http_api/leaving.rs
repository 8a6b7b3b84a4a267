//! Clients that end their side of a connection: those that still read, and those that have gone.

use std::time::Duration;

use galley::http::HttpConfig;
use galley_core::InputKind::Json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    support::{NEVER, Server, until},
    wire::{metrics, post, read_all, send},
};

/// A server where the end of a stream within this time is part of the request.
async fn start(half_close: Duration) -> Server {
    let config = HttpConfig {
        half_close,
        header_timeout: NEVER,
        keep_alive_timeout: NEVER,
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 64, config).await;
    server.controls.close();
    server
}

async fn until_depth(server: &Server, depth: usize) {
    let line = format!("galley_queue_depth{{recipe=\"fake\"}} {depth}\n");
    until(async || metrics(server).await.contains(&line)).await;
}

/// Keeps the only device busy.
async fn occupy(server: &Server) -> TcpStream {
    let first = send(server, post("/infer", r#"["first"]"#)).await;
    server.controls.until_busy().await;
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_nothing_more_gets_its_answer() {
    let server = start(NEVER).await;
    let mut stream = send(&server, post("/infer", r#"["a"]"#)).await;
    stream.shutdown().await.unwrap();
    server.controls.until_busy().await;
    // Long enough for the server to look at it more than once.
    tokio::time::sleep(Duration::from_millis(600)).await;
    server.controls.open();
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""prediction":["a"]"#), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_do_its_pipelined_requests() {
    let server = start(NEVER).await;
    server.controls.open();
    let both = [post("/infer", r#"["a"]"#), post("/infer", r#"["b"]"#)].concat();
    let mut stream = send(&server, both).await;
    stream.shutdown().await.unwrap();
    let answers = read_all(&mut stream).await;
    assert!(
        answers.contains(r#"["a"]"#) && answers.contains(r#"["b"]"#),
        "{answers}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_resets_after_that_has_gone() {
    let server = start(NEVER).await;
    let _first = occupy(&server).await;
    let mut leaving = send(&server, post("/infer", r#"["b", "c"]"#)).await;
    leaving.shutdown().await.unwrap();
    until_depth(&server, 2).await;
    leaving.set_zero_linger().unwrap();
    drop(leaving);
    until_depth(&server, 0).await;
    server.controls.open();
}

/// Whatever lies there unread.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_ends_later_has_gone() {
    let server = start(Duration::ZERO).await;
    let _first = occupy(&server).await;
    for more in [
        "",
        "\n",
        "\r\n",
        "G",
        "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let request = [&post("/infer", r#"["b", "c"]"#), more.as_bytes()].concat();
        let leaving = send(&server, request).await;
        until_depth(&server, 2).await;
        drop(leaving);
        until_depth(&server, 0).await;
    }
    // Bytes that come apart from the request.
    let mut leaving = send(&server, post("/infer", r#"["b", "c"]"#)).await;
    until_depth(&server, 2).await;
    leaving.write_all(b"\n").await.unwrap();
    drop(leaving);
    until_depth(&server, 0).await;
    server.controls.open();
}
