//! TLS on the wire: that it is spoken, with whom, and that slow and wrong clients keep nobody else waiting.

use std::{sync::Arc, time::Duration};

use galley::{
    access::{Access, Tls},
    http::HttpConfig,
};
use galley_core::InputKind::Json;
use rcgen::{CertifiedKey, KeyPair};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{NEVER, Server, within};

/// A certificate for `localhost` of its own, and the pair itself for who is to trust it.
pub(crate) fn certificate() -> (Arc<Tls>, CertifiedKey<KeyPair>) {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert_file, pair.cert.pem()).unwrap();
    std::fs::write(&key_file, pair.signing_key.serialize_pem()).unwrap();
    (Arc::new(Tls::open(&cert_file, &key_file).unwrap()), pair)
}

/// A server with a certificate of its own, and a client that trusts no other.
async fn start(config: HttpConfig) -> (Server, Client) {
    let (tls, pair) = certificate();
    let access = Access {
        keys: None,
        tls: Some(tls),
    };
    let mut server = Server::start(Json, 64, HttpConfig { access, ..config }).await;
    server.url = format!("https://localhost:{}", server.address.port());
    let root = Certificate::from_pem(pair.cert.pem().as_bytes()).unwrap();
    let client = Client::builder().tls_certs_only([root]);
    (server, client.build().unwrap())
}

async fn infer(server: &Server, client: &Client) -> Value {
    let request = client.post(format!("{}/infer", server.url));
    let answer = request.json(&json!(["a"])).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_over_tls() {
    let (server, client) = start(HttpConfig::default()).await;
    assert_eq!(infer(&server, &client).await["prediction"], json!(["a"]));
    let stranger = Client::new().get(format!("{}/livez", server.url));
    assert!(stranger.send().await.is_err(), "its certificate is unknown");
    let plain = format!("http://{}/livez", server.address);
    assert!(Client::new().get(plain).send().await.is_err());
    // None of this did harm.
    assert_eq!(infer(&server, &client).await["prediction"], json!(["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_never_ends_holds_up_nobody() {
    let (server, client) = start(HttpConfig {
        header_timeout: NEVER,
        ..HttpConfig::default()
    })
    .await;
    let _slow = begin_handshakes(&server).await;
    let answer = within(infer(&server, &client)).await.expect("an answer");
    assert_eq!(answer["prediction"], json!(["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_never_ends_is_ended() {
    let (server, _) = start(HttpConfig {
        header_timeout: Duration::from_millis(200),
        ..HttpConfig::default()
    })
    .await;
    for mut stream in begin_handshakes(&server).await {
        let mut rest = Vec::new();
        // A reset is as good as an end.
        let _ = within(stream.read_to_end(&mut rest))
            .await
            .expect("the server closes");
    }
}

/// The beginning of a record, then silence; and silence alone.
async fn begin_handshakes(server: &Server) -> Vec<TcpStream> {
    let mut slow = Vec::new();
    for beginning in [&b"\x16\x03\x01"[..], b""].repeat(20) {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        slow.push(stream);
    }
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_handshakes() {
    let (mut server, _) = start(HttpConfig {
        header_timeout: NEVER,
        ..HttpConfig::default()
    })
    .await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    server.engine.drain();
    server.stop.take().unwrap().send(()).unwrap();
    within(server.task)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
}
