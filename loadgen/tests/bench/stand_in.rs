//! A stand-in for a server of `echo`: just enough HTTP to answer `/meta` and `/infer`, or what the Open Inference Protocol has for
//! them, and to fail or be late on purpose.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// How a request goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Status(u16),
    ShortList,
    NotSuccessful,
    ItemError,
    NotJson,
    /// The connection closes in the middle of the answer.
    Drop,
}

/// How the server is slow, or other than galley.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// From the request of this number on, for so long, nothing is answered.
    pub(crate) stall: Option<(usize, Duration)>,
    /// One request after another, each taking so long.
    pub(crate) one_by_one: Option<Duration>,
    /// Whether it knows the Open Inference Protocol alone.
    pub(crate) oip: bool,
}

/// What the server has seen, and what it does about it.
#[derive(Debug, Default)]
struct State {
    /// Requests with this text go wrong.
    faults: HashMap<String, Fault>,
    manner: Manner,
    /// How often each text came.
    seen: Mutex<HashMap<String, usize>>,
    requests: Mutex<usize>,
    stalled_until: Mutex<Option<Instant>>,
    /// Whose turn it is, where one goes after another.
    turn: tokio::sync::Mutex<()>,
}

/// A running stand-in. It ends with the test's process.
#[derive(Debug)]
pub(crate) struct StandIn {
    pub(crate) url: String,
    state: Arc<State>,
}

impl StandIn {
    pub(crate) fn start(faults: impl IntoIterator<Item = (String, Fault)>) -> Self {
        Self::with(faults, Manner::default())
    }

    pub(crate) fn with(faults: impl IntoIterator<Item = (String, Fault)>, manner: Manner) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            faults: faults.into_iter().collect(),
            manner,
            ..State::default()
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let state = shared.clone();
                    tokio::spawn(async move { serve(stream, &state).await });
                }
            });
        });
        Self { url, state }
    }

    /// How often each text came since the last time.
    pub(crate) fn take_seen(&self) -> HashMap<String, usize> {
        std::mem::take(&mut self.state.seen.lock().unwrap())
    }
}

async fn serve(stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut path = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if path.ends_with("/infer") {
            state.dawdle().await;
        }
        let (status, answer, whole) = answer(&path, &body, state);
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(head.as_bytes()).await?;
        if !whole {
            stream
                .write_all(&answer.as_bytes()[..answer.len() / 2])
                .await?;
            return stream.flush().await;
        }
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
    }
}

impl State {
    /// Takes the time that it is to take.
    async fn dawdle(&self) {
        let number = {
            let mut requests = self.requests.lock().unwrap();
            *requests += 1;
            *requests - 1
        };
        if let Some((first, time)) = self.manner.stall
            && number == first
        {
            *self.stalled_until.lock().unwrap() = Some(Instant::now() + time);
        }
        let until = *self.stalled_until.lock().unwrap();
        if let Some(until) = until {
            tokio::time::sleep_until(until.into()).await;
        }
        if let Some(time) = self.manner.one_by_one {
            let _turn = self.turn.lock().await;
            tokio::time::sleep(time).await;
        }
    }
}

/// The same in the Open Inference Protocol, without faults.
fn answer_oip(path: &str, body: &[u8]) -> (u16, String, bool) {
    let tensor = |name: &str| json!({"name": name, "datatype": "BYTES", "shape": [-1, 1]});
    let answer = match path {
        "/v2" => json!({"name": "stand-in", "version": "1"}),
        "/v2/models/echo" => {
            json!({"name": "echo", "inputs": [tensor("text")], "outputs": [tensor("prediction")]})
        }
        "/v2/models/echo/infer" => {
            let request: Value = serde_json::from_slice(body).unwrap();
            let input = &request["inputs"][0];
            assert_eq!(
                (&input["name"], &input["datatype"]),
                (&json!("text"), &json!("BYTES"))
            );
            let data = &input["data"];
            assert_eq!(input["shape"], json!([data.as_array().unwrap().len(), 1]));
            let output = json!({"name": "prediction", "datatype": "BYTES", "shape": input["shape"], "data": data});
            json!({"model_name": "echo", "outputs": [output]})
        }
        _ => return (404, "{}".into(), true),
    };
    (200, answer.to_string(), true)
}

/// Status, body, and whether all of it is sent.
fn answer(path: &str, body: &[u8], state: &State) -> (u16, String, bool) {
    if state.manner.oip {
        return answer_oip(path, body);
    }
    if path == "/meta" {
        let meta = json!({"name": "echo", "input_type": "json", "weights": "none", "dtype": "json", "device": "cpu"});
        return (200, meta.to_string(), true);
    }
    if path != "/infer" {
        return (404, "{}".into(), true);
    }
    let texts: Vec<String> = serde_json::from_slice(body).unwrap();
    let mut seen = state.seen.lock().unwrap();
    for text in &texts {
        *seen.entry(text.clone()).or_default() += 1;
    }
    let fault = texts
        .iter()
        .find_map(|text| state.faults.get(text).copied());
    let mut predictions: Vec<Value> = texts.into_iter().map(Value::String).collect();
    let (mut status, mut success) = (200, true);
    match fault {
        Some(Fault::Status(other)) => status = other,
        Some(Fault::ShortList) => drop(predictions.pop()),
        Some(Fault::NotSuccessful) => success = false,
        Some(Fault::ItemError) => predictions[0] = json!({"error": "on purpose"}),
        Some(Fault::NotJson) => return (200, "no".into(), true),
        Some(Fault::Drop) | None => (),
    }
    let answer =
        json!({"success": success, "unique_id": "u", "prediction": predictions, "reason": null});
    (
        status,
        answer.to_string(),
        !matches!(fault, Some(Fault::Drop)),
    )
}
