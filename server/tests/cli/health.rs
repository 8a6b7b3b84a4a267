//! `galley health` against servers that are ready, leaving, silent or not there.

use std::net::TcpListener;

use reqwest::Client;
use serde_json::json;

use crate::program::{Ended, Server, galley, run};

fn health(args: &[&str]) -> Ended {
    run(galley(&[&["health"], args].concat()), "")
}

/// It has ended as a failed check does: with this on its one line.
fn is_unhealthy(ended: &Ended, reason: &str) {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(
        ended.stderr.starts_with("galley: not healthy: "),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn a_ready_server_is_found_by_its_address_and_by_its_variables() {
    let server = Server::start(&["--recipes", "echo"]);
    let by_url = health(&["--url", &server.url]);
    assert_eq!(by_url.code, Some(0), "{}", by_url.stderr);
    assert_eq!(by_url.stdout, format!("{}/readyz is ready\n", server.url));

    let port = server.url.rsplit(':').next().unwrap();
    let mut command = galley(&["health"]);
    command
        .env("GALLEY_HOST", "0.0.0.0")
        .env("GALLEY_PORT", port);
    let by_variables = run(command, "");
    assert_eq!(by_variables.code, Some(0), "{}", by_variables.stderr);
}

#[test]
fn a_server_that_listens_at_a_name_is_found_by_it() {
    let server = Server::start(&["--recipes", "echo", "--host", "localhost"]);
    let port = server.url.rsplit(':').next().unwrap();
    // The line says which address it is.
    let said = ["http://127.0.0.1:", "http://[::1]:"];
    assert!(
        said.iter().any(|url| server.line.contains(url)),
        "{}",
        server.line
    );
    let ended = health(&["--host", "localhost", "--port", port]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(
        ended.stdout,
        format!("http://localhost:{port}/readyz is ready\n")
    );
}

/// Kubernetes sets them for Services called galley and galley-grpc.
#[test]
fn variables_of_a_service_of_its_name_are_ignored_and_named() {
    let mut command = galley(&["serve", "--recipes", "echo", "--port", "0"]);
    command.env("GALLEY_GRPC_PORT", "tcp://10.0.0.2:8081");
    command.env("GALLEY_SERVICE_HOST", "10.0.0.1");
    let server = Server::spawn(command);
    assert!(!server.line.contains("grpc"), "{}", server.line);
    server.until_logged("GALLEY_GRPC_PORT", 1);
    server.until_logged("enableServiceLinks", 1);
    let mut command = galley(&["health", "--timeout", "5s"]);
    command.env("GALLEY_PORT", "tcp://10.0.0.1:9999");
    let ended = run(command, "");
    // Whoever may listen there, it is the port that it would be without the variable.
    let all = ended.stdout + &ended.stderr;
    assert!(all.contains("http://127.0.0.1:8080/readyz"), "{all}");
    assert!(all.contains("GALLEY_PORT"), "{all}");
}

#[test]
fn a_certificate_of_the_servers_own_will_do_on_this_machine() {
    let pair = rcgen::generate_simple_self_signed(vec!["galley.example.com".into()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let server = Server::start(&["--recipes", "echo", "--tls-cert", cert, "--tls-key", key]);
    let port = server.url.rsplit(':').next().unwrap();
    let ended = health(&["--port", port, "--tls-cert", cert]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("https://"), "{}", ended.stdout);
}

#[test]
fn no_server_and_a_silent_one_are_not_healthy() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    is_unhealthy(
        &health(&["--url", &url, "--timeout", "200ms"]),
        "does not answer",
    );
    // Port 1 is nobody's.
    is_unhealthy(&health(&["--url", "http://127.0.0.1:1"]), "does not answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_says_so_and_answers_until_its_delay_is_over() {
    let server = Server::start(&["--recipes", "echo", "--drain-delay", "1h"]);
    let client = Client::new();
    let infer = client
        .post(format!("{}/infer", server.url))
        .json(&json!(["a"]));
    let before = infer.try_clone().unwrap().send().await.unwrap();
    assert_eq!(before.headers().get("connection"), None);

    server.terminate();
    let ready = client.get(format!("{}/readyz", server.url));
    while ready.try_clone().unwrap().send().await.unwrap().status() == 200 {}
    is_unhealthy(&health(&["--url", &server.url]), "answered 503, leaving");
    let model = client.get(format!("{}/v2/health/ready", server.url));
    assert!(!model.send().await.unwrap().status().is_success());

    let answer = infer.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    // The next request of this client is then another server's, behind a load balancer.
    assert_eq!(answer.headers()["connection"], "close");

    // A second signal ends the delay, and the server drains as ever.
    server.terminate();
    let (status, _, stderr) = server.wait();
    assert!(status.success(), "{stderr}");
    assert!(stderr.contains("drained"), "{stderr}");
}
