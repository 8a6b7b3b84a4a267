//! `galley serve` as a newcomer types it: the three bundled recipes against their goldens, and a drain under load.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    client::conn::http1,
    header::{CONNECTION, HOST},
};
use hyper_util::rt::TokioIo;
use reqwest::{
    Client,
    multipart::{Form, Part},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::program::{Server, repository, until};

const CLIENTS: usize = 16;
/// How many answers there have been when the signal comes.
const LOAD: usize = 4 * CLIENTS;

/// One server for all of it, for its start-up is most of what the test takes.
#[tokio::test(flavor = "multi_thread")]
async fn the_bundled_recipes_answer_until_the_last_request() {
    // Idle connections stay open for as long as it takes to tell the slowest client.
    let server = Server::start(&["--drain-linger", "10m", "--drain-timeout", "20m"]);
    assert_eq!(
        server.line,
        format!(
            "galley is ready at {} serving efficientnet_lite0, deepsegment_en, transformers_ner\n",
            server.url
        )
    );
    images(&server).await;
    sentences(&server).await;
    entities(&server).await;
    metrics(&server).await;
    drain_under_load(server).await;
}

/// A constant is copied into every crate that reads it; what is large has to be a static.
#[test]
fn large_files_are_in_the_program_once() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_galley")).unwrap();
    let bundled = galley_catalog::entries().filter_map(|entry| entry.bundled.as_ref());
    let large: Vec<_> = bundled
        .flat_map(|weights| weights.files.0)
        .filter(|file| file.len() > 64 << 10)
        .collect();
    assert!(large.len() >= 3, "{} files", large.len());
    for file in large {
        let middle = &file[file.len() / 2..][..4096];
        assert_eq!(memchr::memmem::find_iter(&program, middle).count(), 1);
    }
}

async fn predictions(request: reqwest::RequestBuilder) -> Vec<Value> {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["success"], true);
    serde_json::from_value(answer["prediction"].take()).unwrap()
}

async fn of_json(server: &Server, recipe: &str, inputs: &[Value]) -> Vec<Value> {
    let url = format!("{}/recipes/{recipe}/infer", server.url);
    predictions(Client::new().post(url).json(inputs)).await
}

async fn of_files(server: &Server, recipe: &str, files: &[&[u8]]) -> Vec<Value> {
    let url = format!("{}/recipes/{recipe}/infer", server.url);
    let form = files.iter().fold(Form::new(), |form, file| {
        form.part("file", Part::bytes(file.to_vec()).file_name("image"))
    });
    predictions(Client::new().post(url).multipart(form)).await
}

async fn images(server: &Server) {
    let read = |path: &str| std::fs::read(repository("recipes/efficientnet").join(path)).unwrap();
    let coffee = read("examples/coffee.jpg");
    let answers = of_files(server, "efficientnet_lite0", &[&coffee]).await;
    assert_eq!(answers[0][0]["class"], "espresso");

    // One bad image spoils its own answer and no other.
    let (small, bomb) = (
        read("examples/coffee_small.jpg"),
        read("tests/data/bomb_40000x40000.png"),
    );
    let mut files = vec![small.as_slice(); 32];
    files[17] = &bomb;
    let answers = of_files(server, "efficientnet_lite0", &files).await;
    assert_eq!(answers.len(), 32);
    for (place, answer) in answers.iter().enumerate() {
        if place == 17 {
            assert!(answer["error"].as_str().unwrap().contains("--max-pixels"));
        } else {
            assert_eq!(answer[0]["class"], "espresso", "{place}");
        }
    }
}

async fn sentences(server: &Server) {
    #[derive(Deserialize)]
    struct Goldens {
        items: Vec<Golden>,
    }
    #[derive(Deserialize)]
    struct Golden {
        text: String,
        segments_long: Value,
    }
    let goldens = std::fs::read(repository("recipes/deepsegment/tests/data/golden.json")).unwrap();
    let goldens: Goldens = serde_json::from_slice(&goldens).unwrap();
    let some: Vec<_> = goldens.items.iter().step_by(5).collect();
    assert!(some.len() >= 5);
    let texts: Vec<_> = some.iter().map(|golden| json!(golden.text)).collect();
    let answers = of_json(server, "deepsegment_en", &texts).await;
    let expected: Vec<_> = some.iter().map(|golden| &golden.segments_long).collect();
    assert_eq!(answers.iter().collect::<Vec<_>>(), expected);
}

async fn entities(server: &Server) {
    #[derive(Deserialize)]
    struct Golden {
        text: String,
        truncated: bool,
        /// Group, word, score, start, end.
        entities: Vec<(String, String, f64, usize, usize)>,
    }
    let goldens = repository("recipes/encoders/tests/data/rampart.json");
    let goldens: Vec<Golden> = serde_json::from_slice(&std::fs::read(goldens).unwrap()).unwrap();
    let some: Vec<_> = goldens
        .iter()
        .filter(|golden| !golden.truncated)
        .step_by(6)
        .collect();
    assert!(some.len() >= 5 && some.iter().any(|golden| !golden.entities.is_empty()));
    let inputs: Vec<_> = some
        .iter()
        .map(|golden| json!({"text": golden.text, "aggregation": "simple"}))
        .collect();
    let answers = of_json(server, "transformers_ner", &inputs).await;
    for (golden, answer) in some.iter().zip(answers) {
        let answer = answer.as_array().unwrap();
        assert_eq!(answer.len(), golden.entities.len(), "{}", golden.text);
        for (got, (group, word, score, start, end)) in answer.iter().zip(&golden.entities) {
            assert_eq!(
                (
                    &got["entity_group"],
                    &got["word"],
                    &got["start"],
                    &got["end"]
                ),
                (&json!(group), &json!(word), &json!(start), &json!(end))
            );
            assert!((got["score"].as_f64().unwrap() - score).abs() < 0.01);
        }
    }
}

async fn metrics(server: &Server) {
    let answer = reqwest::get(format!("{}/metrics", server.url)).await;
    let text = answer.unwrap().text().await.unwrap();
    for (recipe, outcome) in [
        ("efficientnet_lite0", "ok"),
        ("efficientnet_lite0", "partial"),
        ("deepsegment_en", "ok"),
        ("transformers_ner", "ok"),
    ] {
        let line = format!(
            r#"galley_requests_total{{recipe="{recipe}",protocol="fastdeploy",outcome="{outcome}"}} 1"#
        );
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
    if cfg!(target_os = "linux") {
        let memory = text.lines().find_map(|line| {
            line.strip_prefix(r#"galley_device_memory_bytes{device="cpu",kind="resident"} "#)
        });
        let bytes: f64 = memory.expect("resident memory").parse().unwrap();
        assert!(bytes > 10e6, "{bytes}");
    }
}

/// Clients that send a request as soon as the last is answered, until they are told that the server goes away: each of
/// their requests is answered, however the signal falls.
async fn drain_under_load(server: Server) {
    let answered = AtomicUsize::new(0);
    let address = server.url.strip_prefix("http://").unwrap();
    // All are connected before the signal comes: a connection that arrives as the listener closes may be reset.
    let connections = (0..CLIENTS).map(|_| connect(address));
    let connections = futures::future::join_all(connections).await;
    let clients = connections
        .into_iter()
        .map(|connection| until_told(connection, address, &answered));
    let signal = async {
        until("load", async || answered.load(Ordering::SeqCst) >= LOAD).await;
        server.terminate();
    };
    tokio::join!(signal, futures::future::join_all(clients));
    let url = server.url.clone();
    let (status, stdout, stderr) = server.wait();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(stdout, "", "one line is all that stdout gets");
    assert!(stderr.contains("drained"), "{stderr}");
    assert!(reqwest::get(url).await.unwrap_err().is_connect());
}

type Connection = http1::SendRequest<Full<Bytes>>;

async fn connect(address: &str) -> Connection {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    // How it ends is seen by whoever sends.
    tokio::spawn(connection);
    sender
}

/// Counts answers until one says that the connection closes. A pool of connections might open another one meanwhile.
async fn until_told(mut connection: Connection, address: &str, answered: &AtomicUsize) {
    let body = Bytes::from(json!(["i came i saw"]).to_string());
    loop {
        connection.ready().await.expect("it stays open until told");
        let request = Request::post("/recipes/deepsegment_en/infer")
            .header(HOST, address)
            .body(Full::new(body.clone()))
            .unwrap();
        let answer = connection.send_request(request).await;
        let answer = answer.expect("an answer to every request");
        let status = answer.status().as_u16();
        let closes = answer
            .headers()
            .get(CONNECTION)
            .is_some_and(|v| v == "close");
        let body = answer.into_body().collect().await.expect("a whole answer");
        let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
        match status {
            200 => {
                assert!(body["prediction"][0].is_array(), "{body}");
                answered.fetch_add(1, Ordering::SeqCst);
            }
            503 => assert!(closes, "a server that goes away says so"),
            _ => panic!("{status}: {body}"),
        }
        if closes {
            return;
        }
    }
}
