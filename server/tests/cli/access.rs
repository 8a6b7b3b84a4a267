//! Keys and certificates of the program itself: read again on SIGHUP, and never in its log.

use std::path::Path;

use rcgen::CertifiedKey;
use reqwest::{Certificate, Client};
use serde_json::json;

use crate::program::{Server, until};

const FIRST: &str = "first-key-0123456789abcdef";
const SECOND: &str = "second-key-0123456789abcdef";

async fn status(client: &Client, url: &str, key: &str) -> u16 {
    let request = client.get(format!("{url}/meta")).bearer_auth(key);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_on_hangup_and_a_bad_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, FIRST).unwrap();
    let server = Server::start(&[
        "--recipes",
        "echo",
        "--api-key-file",
        file.to_str().unwrap(),
    ]);
    let client = Client::new();
    let status = async |key| status(&client, &server.url, key).await;
    assert_eq!((status(FIRST).await, status(SECOND).await), (200, 401));

    std::fs::write(&file, SECOND).unwrap();
    server.hang_up();
    until("new keys", async || status(SECOND).await == 200).await;
    assert_eq!(status(FIRST).await, 401);

    std::fs::write(&file, format!("{FIRST}\nshort")).unwrap();
    server.hang_up();
    // Nothing can be seen to change, but the log says that the file was read.
    server.until_logged("the old ones stay", 1);
    assert_eq!((status(FIRST).await, status(SECOND).await), (401, 200));
    std::fs::write(&file, format!("{FIRST}\n{SECOND}")).unwrap();
    server.hang_up();
    until("both keys", async || status(FIRST).await == 200).await;
    // The log comes after the change, and the end waits for neither.
    server.until_logged("API keys read again", 2);

    server.terminate();
    let (ended, _, stderr) = server.wait();
    assert_eq!(ended.code(), Some(0), "{stderr}");
    let read = |line: &&str| line.contains("API keys read again");
    assert_eq!(stderr.lines().filter(read).count(), 2, "{stderr}");
    let kept = stderr
        .lines()
        .find(|line| line.contains("the old ones stay"));
    let kept = kept.unwrap_or_else(|| panic!("{stderr}"));
    assert!(kept.contains("ERROR") && kept.contains("line 2"), "{kept}");
}

/// Writes a new certificate with its key, and gives a client that trusts it alone.
fn renew(cert_file: &Path, key_file: &Path) -> Client {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    std::fs::write(cert_file, cert.pem()).unwrap();
    std::fs::write(key_file, signing_key.serialize_pem()).unwrap();
    let root = Certificate::from_pem(cert.pem().as_bytes()).unwrap();
    // No pool: each request shakes hands.
    let client = Client::builder().tls_certs_only([root]);
    client.pool_max_idle_per_host(0).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_on_hangup() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let first = renew(&cert, &key);
    let server = Server::start(&[
        "--recipes",
        "echo",
        "--tls-cert",
        cert.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ]);
    assert!(
        server.url.starts_with("https://127.0.0.1:"),
        "{}",
        server.line
    );
    let livez = format!("{}/livez", server.url);
    let trusts = async |client: &Client| client.get(&livez).send().await.is_ok();
    assert!(trusts(&first).await);
    let second = renew(&cert, &key);
    assert!(trusts(&first).await && !trusts(&second).await);
    server.hang_up();
    until("renewed", async || trusts(&second).await).await;
    assert!(!trusts(&first).await);
}

/// At the most talkative level, with every kind of refusal.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_holds_neither_keys_nor_bodies() {
    const SECRET: &str = "s3cret-of-a-caller";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, format!("app {FIRST}\n")).unwrap();
    let server = Server::start(&[
        "--recipes",
        "echo,deepsegment_en",
        "--api-key-file",
        file.to_str().unwrap(),
        "--log",
        "trace",
    ]);
    let client = Client::new();
    let secret = json!(SECRET);
    let texts = format!("{}/recipes/deepsegment_en/infer", server.url);
    for (query, body, expected) in [
        ("", json!([secret]).to_string(), 200),
        ("", json!([{"text": secret, SECRET: 1}]).to_string(), 400),
        ("", json!([[secret]]).to_string(), 400),
        ("", json!({"data": secret}).to_string(), 400),
        ("", json!(secret).to_string(), 400),
        ("", format!("[\"{SECRET}"), 400),
        ("", SECRET.to_owned(), 400),
        ("?input_type=msgpack", SECRET.to_owned(), 400),
        ("?compressed=True", SECRET.to_owned(), 400),
    ] {
        let request = client.post(format!("{texts}{query}")).bearer_auth(FIRST);
        let answer = request.body(body.clone()).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{body}");
    }
    let tensors = format!("{}/v2/models/deepsegment_en/infer", server.url);
    let tensor = |name: &str, kind: &str, element: &str| json!({"id": SECRET, "inputs": [{"name": name, "shape": [1], "datatype": kind, "data": [element]}]});
    for (body, expected) in [
        (tensor("text", "BYTES", SECRET), 200),
        (tensor(SECRET, "BYTES", SECRET), 400),
        (tensor("text", SECRET, SECRET), 400),
        (
            json!({"inputs": [{"name": "text", "shape": SECRET, "data": SECRET}]}),
            400,
        ),
        (secret.clone(), 400),
    ] {
        let request = client.post(&tensors).bearer_auth(FIRST).json(&body);
        assert_eq!(request.send().await.unwrap().status(), expected, "{body}");
    }
    let url = format!("{}/recipes/echo", server.url);
    // An id is the caller's own, too; the second body makes it a conflict.
    for (body, expected) in [(SECRET, 200), ("another", 409)] {
        let request = client.post(format!("{url}/infer?unique_id={SECRET}"));
        let request = request.header("x-api-key", FIRST).json(&json!([body]));
        assert_eq!(request.send().await.unwrap().status(), expected);
    }
    for key in [SECOND, SECRET] {
        assert_eq!(status(&client, &url, key).await, 401);
    }
    server.hang_up();
    server.terminate();
    let (_, _, stderr) = server.wait();
    for line in ["refused", "admitted"] {
        assert!(stderr.contains(line), "the log is read: {line}");
    }
    for secret in [SECRET, FIRST, SECOND] {
        let found = stderr.lines().find(|line| line.contains(secret));
        assert_eq!(found, None);
    }
}
