//! A small hub on port 0 that serves one repository, and misbehaves where a test tells it to.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use galley_core::HubWeights;
use sha2::{Digest, Sha256};

pub(crate) const REPO: &str = "owner/model";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const CONFIG: &[u8] = b"hello\n";
/// What `git hash-object` says of `CONFIG`.
pub(crate) const CONFIG_ETAG: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
pub(crate) const WEIGHTS: HubWeights = HubWeights {
    repo: REPO,
    files: &["config.json", "model.safetensors"],
    optional_files: &["onnx/tokenizer.json", "vocab.txt"],
    licence: "Apache-2.0",
};

/// The large file: 600,000 bytes that do not repeat.
pub(crate) fn model() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..600_000).map(|_| next()).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        })
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A request for a file's content.
    pub(crate) fn gets(&self, file: &str) -> bool {
        self.method == "GET" && self.path.ends_with(file)
    }

    /// A request for a file's headers.
    pub(crate) fn heads(&self, file: &str) -> bool {
        self.method == "HEAD" && self.path.ends_with(file)
    }

    /// The first byte that is asked for.
    pub(crate) fn start(&self) -> usize {
        self.header("range").map_or(0, |range| {
            let start = range.strip_prefix("bytes=").unwrap();
            start.strip_suffix('-').unwrap().parse().unwrap()
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    sent: usize,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::ok(Vec::new()).with_status(status)
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status: 200,
            headers: Vec::new(),
            sent: body.len(),
            body,
        }
    }

    /// The content from where the request wants it.
    pub(crate) fn content(request: &Request, content: &[u8]) -> Self {
        match request.start() {
            0 => Self::ok(content),
            start => {
                let end = content.len();
                let range = format!("bytes {start}-{}/{end}", end - 1);
                Self::ok(&content[start..])
                    .with_status(206)
                    .with("content-range", &range)
            }
        }
    }

    /// Where a file is, and what the hub says of it.
    pub(crate) fn announce(commit: &str, etag: &str, size: usize) -> Self {
        Self::status(302)
            .with("location", "http://127.0.0.1:9/never-followed")
            .with("x-repo-commit", commit)
            .with("x-linked-etag", &format!("\"{etag}\""))
            .with("x-linked-size", &size.to_string())
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Announces the whole body and sends this many bytes of it.
    pub(crate) fn dropped_after(mut self, bytes: usize) -> Self {
        self.sent = bytes.min(self.body.len());
        self
    }

    fn send(&self, request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Status\r\nconnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        if !self
            .headers
            .iter()
            .any(|(name, _)| name == "content-length")
        {
            write!(head, "content-length: {}\r\n", self.body.len()).unwrap();
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if request.method != "HEAD" {
            stream.write_all(&self.body[..self.sent])?;
        }
        stream.flush()
    }
}

/// A hub on a port of its own. It lives as long as the test program.
pub(crate) struct StandIn {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
}

impl StandIn {
    /// A hub that does everything right.
    pub(crate) fn good() -> Self {
        Self::start(|_| None)
    }

    /// A hub that answers as told, and where it is told nothing, right.
    pub(crate) fn start(
        misbehave: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (misbehave, shared) = (Arc::new(misbehave), Arc::clone(&log));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (misbehave, log) = (Arc::clone(&misbehave), Arc::clone(&shared));
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(request) = read(&stream) else { return };
                    log.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(request.clone());
                    let reply = misbehave(&request).unwrap_or_else(|| behave(&request));
                    // The client may hang up on a reply that it does not like.
                    let _ = reply.send(&request, &mut stream);
                });
            }
        });
        Self { address, log }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }

    /// Requests for the large file's content.
    pub(crate) fn downloads(&self) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.gets("model.safetensors"));
        requests
    }
}

/// What the API says, with this commit.
pub(crate) fn info(commit: &str) -> Reply {
    let files = ["config.json", "model.safetensors", "onnx/tokenizer.json"];
    let siblings: Vec<_> = files
        .iter()
        .map(|file| serde_json::json!({ "rfilename": file }))
        .collect();
    let info = serde_json::json!({ "id": REPO, "sha": commit, "siblings": siblings });
    Reply::ok(info.to_string())
}

fn behave(request: &Request) -> Reply {
    let file = match request.path.split_once("/resolve/") {
        None if request.path.starts_with("/api/models/") => return info(COMMIT),
        Some((_, place)) => place.split_once('/').map(|(_, file)| file),
        None => None,
    };
    match file {
        Some("model.safetensors") if request.method == "HEAD" => {
            Reply::announce(COMMIT, &sha256(&model()), model().len())
        }
        Some("model.safetensors") => Reply::content(request, &model()),
        // Both of git's own files have the same content, hence the same blob.
        Some("config.json" | "onnx/tokenizer.json") => Reply::content(request, CONFIG)
            .with("x-repo-commit", COMMIT)
            .with("etag", &format!("W/\"{CONFIG_ETAG}\"")),
        _ => Reply::status(404),
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut parts = first.split(' ');
    let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut headers = Vec::new();
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    Some(Request {
        method,
        path,
        headers,
    })
}

/// Does it for the first `times` requests that match.
pub(crate) fn first(
    times: usize,
    reply: impl Fn(&Request) -> Option<Reply>,
) -> impl Fn(&Request) -> Option<Reply> {
    let count = AtomicUsize::new(0);
    move |request| {
        let reply = reply(request)?;
        (count.fetch_add(1, Ordering::SeqCst) < times).then_some(reply)
    }
}

pub(crate) fn model_reply(
    reply: impl Fn(&Request) -> Reply + Send + Sync,
) -> impl Fn(&Request) -> Option<Reply> + Send + Sync {
    move |request| request.gets("model.safetensors").then(|| reply(request))
}
