//! Clients that take their time: between requests, with a body, with reading an answer.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use galley::http::HttpConfig;
use galley_core::InputKind::Json;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    grpc::{
        self,
        client::{ModelInferRequest, model_infer_request::InferInputTensor},
    },
    support::{NEVER, Server, until, within},
    wire::{answer, get, metrics, narrow, post, read_all, send},
};

const SHORT: Duration = Duration::from_millis(100);

/// Nothing ends a connection but what a test says.
fn patient() -> HttpConfig {
    HttpConfig {
        header_timeout: NEVER,
        keep_alive_timeout: NEVER,
        body_timeout: NEVER,
        write_timeout: NEVER,
        timeout: NEVER,
        ..HttpConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn between_requests_the_time_for_headers_does_not_count() {
    let config = HttpConfig {
        header_timeout: SHORT,
        ..patient()
    };
    let server = Server::start(Json, 64, config).await;
    let mut stream = send(&server, get("/livez")).await;
    answer(&mut stream).await;
    // Some clients end a request with a line of their own.
    stream.write_all(b"\r\n").await.unwrap();
    tokio::time::sleep(4 * SHORT).await;
    stream.write_all(&get("/livez")).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    // Once it has begun, a header has its time.
    stream.write_all(b"GET /livez HT").await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_close_after_their_own_time() {
    let config = HttpConfig {
        keep_alive_timeout: SHORT,
        ..patient()
    };
    let server = Server::start(Json, 64, config).await;
    let mut stream = send(&server, get("/livez")).await;
    answer(&mut stream).await;
    assert_eq!(read_all(&mut stream).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stands_still_is_408() {
    let config = HttpConfig {
        body_timeout: SHORT,
        ..patient()
    };
    let server = Server::start(Json, 64, config).await;
    for path in ["/infer", "/v2/models/fake/infer", "/result"] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[");
        let mut stream = send(&server, request).await;
        let answer = read_all(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{path}: {answer}");
        assert!(answer.contains("--body-timeout"), "{path}: {answer}");
    }
}

/// Unfinished bodies hold all the room there is, and yet a small request is answered.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_stand_still_give_way() {
    const BODY: usize = 100_000;
    let config = HttpConfig {
        max_body: 2 * BODY as u64,
        max_buffered: 8 * BODY as u64 + 10,
        ..patient()
    };
    let server = Server::start(Json, 64, config).await;
    let head = format!(
        "POST /infer HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        BODY + 1
    );
    let begun = [head.as_bytes(), &vec![b' '; BODY]].concat();
    let mut stuck = Vec::new();
    for _ in 0..8 {
        stuck.push(send(&server, &begun).await);
    }
    let small = reqwest::Client::new().post(format!("{}/infer", server.url));
    let body = format!("[{:>1000}]", "1");
    until(async || {
        let small = small.try_clone().unwrap().body(body.clone());
        let answer = small.send().await.unwrap();
        // Before all bodies have come there is room.
        answer.status() == 200 && stuck.iter().any(gave_way)
    })
    .await;
    let mut gone = 0;
    for stream in &mut stuck {
        let seen = tokio::time::timeout(Duration::from_secs(2), stream.readable()).await;
        if seen.is_ok() {
            // A reset, because not all had been read, may come before the answer.
            let answer = read_all(stream).await;
            let refused = answer.starts_with(REFUSED);
            assert!(
                refused || answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
                "{answer}"
            );
            gone += usize::from(!refused);
        }
    }
    assert!((1..8).contains(&gone), "{gone} gave way");
}

/// A body that comes while a small one has the last of the room, and no other is slow yet, is refused itself.
const REFUSED: &str = "HTTP/1.1 429";

/// Whether the server has ended a request, and not for want of room when it came.
fn gave_way(stream: &TcpStream) -> bool {
    let mut head = [0; REFUSED.len()];
    let seen = stream.peek(&mut head).now_or_never();
    seen.is_some_and(|seen| seen.is_err() || head != REFUSED.as_bytes())
}

/// A client that asks for this much and reads nothing of it.
async fn stuck(server: &Server, bytes: usize) -> TcpStream {
    let mut stream = narrow(server).await;
    let request = post("/infer", &format!("[\"{}\"]", "x".repeat(bytes)));
    stream.write_all(&request).await.unwrap();
    stream
}

const LARGE: usize = 12 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_counts_until_its_time_is_over() {
    let config = HttpConfig {
        write_timeout: Duration::from_secs(3),
        max_buffered: 3 * LARGE as u64,
        ..patient()
    };
    let server = Server::start(Json, 64, config).await;
    let _stuck = [stuck(&server, LARGE).await, stuck(&server, LARGE).await];
    let answered = r#"protocol="fastdeploy",outcome="ok"} 2"#;
    until(async || metrics(&server).await.contains(answered)).await;
    let body = format!("[\"{}\"]", "x".repeat(LARGE));
    let large = reqwest::Client::new().post(format!("{}/infer", server.url));
    let status = async || {
        let large = large.try_clone().unwrap().body(body.clone());
        large.send().await.unwrap().status().as_u16()
    };
    assert_eq!(
        status().await,
        429,
        "two answers and a body's values are too much"
    );
    until(async || status().await == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_clients_that_do_not_read() {
    let config = HttpConfig {
        write_timeout: SHORT,
        drain_linger: SHORT,
        ..patient()
    };
    let mut server = Server::start(Json, 64, config).await;
    let _stuck = stuck(&server, LARGE).await;
    let answered = r#"protocol="fastdeploy",outcome="ok"} 1"#;
    until(async || metrics(&server).await.contains(answered)).await;
    server.engine.drain();
    server.stop.take().unwrap().send(()).unwrap();
    within(server.task)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
}

/// Over HTTP/2 a client may read its socket and yet take nothing of an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_is_not_taken_ends_its_connection() {
    let config = HttpConfig {
        write_timeout: SHORT,
        ..patient()
    };
    let server = grpc::Server::start(Json, 64, config).await;
    let text = vec![b'x'; 1 << 20];
    let input = InferInputTensor {
        name: "text".into(),
        datatype: "BYTES".into(),
        shape: vec![1],
        ..InferInputTensor::default()
    };
    let request = ModelInferRequest {
        model_name: "fake".into(),
        inputs: vec![input],
        raw_input_contents: vec![[&(text.len() as u32).to_le_bytes()[..], &text].concat()],
        ..ModelInferRequest::default()
    };
    let message = request.encode_to_vec();
    let message = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1000)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let path = format!(
        "http://{}/inference.GRPCInferenceService/ModelInfer",
        server.address
    );
    let call = hyper::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(message)))
        .unwrap();
    let answer = within(client.send_request(call)).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("grpc-status"), "refused");
    let _ = within(connection).await.expect("the server ends it");
    drop(answer);
}

/// No more answers are made for a client than it has room for.
#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_of_a_client_that_does_not_read_are_left_alone() {
    let server = Server::start(Json, 64, patient()).await;
    let mut stream = narrow(&server).await;
    let heads = "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let mut sent = 0;
    let stuck = loop {
        match tokio::time::timeout(Duration::from_secs(2), stream.write_all(heads.as_bytes())).await
        {
            Ok(written) => written.unwrap(),
            Err(_) => break true,
        }
        sent += heads.len();
        // Far more than sockets hold.
        if sent > 64 << 20 {
            break false;
        }
    };
    assert!(stuck, "{sent} bytes of requests were taken");
}
