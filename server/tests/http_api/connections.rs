//! What happens on the wire: slow and endless clients, clients that leave, and the drain.

use std::time::Duration;

use galley::http::HttpConfig;
use galley_core::InputKind::Json;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{NEVER, Server, until, within};

async fn start() -> Server {
    Server::start(Json, 64, HttpConfig::default()).await
}

async fn metrics(server: &Server) -> String {
    reqwest::get(format!("{}/metrics", server.url))
        .await
        .unwrap()
        .text()
        .await
        .unwrap()
}

async fn read_all(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = within(stream.read_to_end(&mut text))
        .await
        .expect("the server closes");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_one_connection_are_answered_one_after_the_other() {
    let server = start().await;
    let client = reqwest::Client::new();
    let post = async || {
        client
            .post(format!("{}/infer", server.url))
            .json(&json!(["a"]))
            .send()
            .await
            .unwrap()
    };
    for _ in 0..20 {
        let answer: Value = post().await.json().await.unwrap();
        assert_eq!(answer["prediction"], json!(["a"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_parts_by_a_real_client() {
    let server = start().await;
    let form = reqwest::multipart::Form::new()
        .text("b", "first")
        .text("a", "second");
    let answer = reqwest::Client::new()
        .post(format!("{}/infer", server.url))
        .multipart(form)
        .send()
        .await
        .unwrap();
    assert_eq!(
        answer.json::<Value>().await.unwrap()["prediction"],
        json!(["first", "second"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_never_ends_closes_the_connection() {
    let config = HttpConfig {
        header_timeout: Duration::from_millis(200),
        timeout: NEVER,
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 64, config).await;
    for beginning in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n",
        "POST /infer HTTP/1.1\r\nHost: x\r\nX: ",
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        // Nothing else would close it.
        let answer = read_all(stream).await;
        assert!(!answer.contains("200"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_is_504() {
    let config = HttpConfig {
        timeout: Duration::from_millis(200),
        header_timeout: NEVER,
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 64, config).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"POST /infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[")
        .await
        .unwrap();
    assert!(read_all(stream).await.starts_with("HTTP/1.1 504"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_length_over_the_limit_is_refused_before_the_body() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_all(stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.contains("--max-body"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_too_much_without_asking_reads_why() {
    let server = Server::start(
        Json,
        64,
        HttpConfig {
            max_body: 1000,
            ..HttpConfig::default()
        },
    )
    .await;
    let reply = reqwest::Client::new()
        .post(format!("{}/infer", server.url))
        .body("x".repeat(8 << 20))
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), 413);

    // Chunks without end.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"POST /infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let writing =
        tokio::spawn(
            async move { while writer.write_all(b"a\r\n0123456789\r\n").await.is_ok() {} },
        );
    let mut answer = [0; 12];
    within(reader.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    drop(reader);
    writing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_100_continue_is_honoured() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    stream.write_all(br#"["a"]"#).await.unwrap();
    assert!(read_all(stream).await.contains(r#""prediction":["a"]"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_items_along() {
    // However soon it does.
    let config = HttpConfig {
        half_close: Duration::ZERO,
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 64, config).await;
    server.controls.close();
    let infer = format!("{}/infer", server.url);
    let client = reqwest::Client::new();
    let first = tokio::spawn(client.post(&infer).json(&json!(["a"])).send());
    server.controls.until_busy().await;
    let leaving = tokio::spawn(client.post(&infer).json(&json!(["b", "c"])).send());
    until(async || {
        metrics(&server)
            .await
            .contains("galley_queue_depth{recipe=\"fake\"} 2")
    })
    .await;
    leaving.abort();
    until(async || {
        metrics(&server)
            .await
            .contains("galley_queue_depth{recipe=\"fake\"} 0")
    })
    .await;
    // Counted just after its items have gone.
    until(async || {
        metrics(&server)
            .await
            .contains(r#"protocol="fastdeploy",outcome="cancelled"} 1"#)
    })
    .await;
    server.controls.open();
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(server.controls.items(), 1);
}

/// A server whose idle connections stay open for so long in a drain.
async fn start_lingering(drain_linger: Duration) -> Server {
    let config = HttpConfig {
        drain_linger,
        header_timeout: NEVER,
        keep_alive_timeout: NEVER,
        ..HttpConfig::default()
    };
    Server::start(Json, 64, config).await
}

/// Stops accepting, and waits until that can be seen.
async fn stop(server: &mut Server) {
    server.stop.take().unwrap().send(()).unwrap();
    until(async || TcpStream::connect(server.address).await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_was_accepted_and_refuses_the_rest() {
    let mut server = start_lingering(NEVER).await;
    server.controls.close();
    let infer = format!("{}/infer", server.url);
    let client = reqwest::Client::new();
    let in_flight = tokio::spawn(client.post(&infer).json(&json!(["a"])).send());
    let accepted = client
        .post(format!("{infer}?async=true&unique_id=job"))
        .json(&json!(["b"]))
        .send()
        .await
        .unwrap();
    assert_eq!(accepted.status(), 200);
    until(async || {
        metrics(&server)
            .await
            .contains("galley_in_flight{recipe=\"fake\"} 2")
    })
    .await;
    // Connected before the drain, not yet used.
    let mut untouched = TcpStream::connect(server.address).await.unwrap();

    server.engine.drain();
    until(async || {
        client
            .get(format!("{}/readyz", server.url))
            .send()
            .await
            .unwrap()
            .status()
            == 503
    })
    .await;
    let refused = client
        .post(&infer)
        .json(&json!(["c"]))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["connection"], "close");
    assert!(
        refused.json::<Value>().await.unwrap()["reason"]
            .as_str()
            .unwrap()
            .contains("shutting down")
    );

    stop(&mut server).await;
    // A connection that is open still gets its answer.
    untouched
        .write_all(b"POST /infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n[\"d\"]")
        .await
        .unwrap();
    let answer = read_all(untouched).await.to_lowercase();
    assert!(
        answer.starts_with("http/1.1 503") && answer.contains("connection: close"),
        "{answer}"
    );
    assert!(!server.task.is_finished(), "two requests are still running");

    server.controls.open();
    let answer = in_flight.await.unwrap().unwrap();
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["connection"].to_str().unwrap()
        ),
        (200, "close")
    );
    // All connections have been told, so that none is waited for.
    drop((client, accepted));
    within(server.task)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
    assert_eq!(server.controls.items(), 2, "the job has run as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_closes_idle_connections_in_the_end() {
    let mut server = start_lingering(Duration::from_millis(50)).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    idle.readable().await.unwrap();
    let untouched = TcpStream::connect(server.address).await.unwrap();
    server.engine.drain();
    stop(&mut server).await;
    assert!(
        read_all(idle).await.starts_with("HTTP/1.1 200"),
        "answered, and closed once idle"
    );
    assert_eq!(read_all(untouched).await, "");
    within(server.task)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
}
