//! A recipe that does as it is told, and servers of it.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, http::Request, response::Response};
use galley::{
    engine::{Device, Engine, EngineConfig},
    http::{AppState, HttpConfig, router, serve},
    metrics::Registry,
};
use galley_core::{
    AnyRecipe, ForwardError, Input, InputError, InputKind, Output, RawTensors, Recipe, RecipeInfo,
};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::error::Elapsed};
use tower::ServiceExt;

/// How a test handles its recipe.
#[derive(Default)]
pub(crate) struct Controls {
    /// Items run, without those of the warm-up and of probes.
    pub(crate) items: AtomicUsize,
    /// Whether batches fail.
    pub(crate) fails: AtomicBool,
    closed: Mutex<bool>,
    opened: Condvar,
    /// Batches that wait for the opening.
    waiting: AtomicUsize,
}

impl Controls {
    /// From now on batches wait.
    pub(crate) fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    /// No longer.
    pub(crate) fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }

    /// Waits until a batch does.
    pub(crate) async fn until_busy(&self) {
        until(async || self.waiting.load(Ordering::SeqCst) > 0).await;
    }

    pub(crate) fn items(&self) -> usize {
        self.items.load(Ordering::SeqCst)
    }
}

/// Answers what it was given. Inputs that begin with `bad` cannot be read, those with `huge` are too large.
struct Fake {
    info: RecipeInfo,
    controls: Arc<Controls>,
}

const EXAMPLE: &str = "example";

impl Recipe for Fake {
    type Prepared = Value;
    type Raw = ();

    fn info(&self) -> &RecipeInfo {
        &self.info
    }

    fn example(&self) -> Input {
        match self.info.input_kind {
            InputKind::File => Input::File(EXAMPLE.as_bytes().into()),
            InputKind::Json => Input::text(EXAMPLE),
        }
    }

    fn prepare(&self, input: Input) -> Result<Value, InputError> {
        let got = input.describe();
        let value = match (input, self.info.input_kind) {
            (Input::File(bytes), InputKind::File) => String::from_utf8_lossy(&bytes).into(),
            (Input::Json(value), InputKind::Json) => value,
            _ => {
                return Err(InputError::WrongKind {
                    expected: "the other kind",
                    got,
                });
            }
        };
        match value.as_str() {
            Some(text) if text.starts_with("bad") => {
                Err(InputError::Unreadable("not an image".into()))
            }
            Some(text) if text.starts_with("huge") => Err(InputError::TooLarge {
                what: "image of 100 pixels".into(),
                limit: "10 pixels".into(),
                option: "--max-pixels",
            }),
            _ => Ok(value),
        }
    }

    fn forward(&self, batch: &[&Value]) -> Result<Vec<()>, ForwardError> {
        let items = batch.iter().filter(|value| ***value != EXAMPLE).count();
        if items > 0 {
            let mut closed = self.controls.closed.lock().unwrap();
            self.controls.waiting.fetch_add(1, Ordering::SeqCst);
            while *closed {
                closed = self.controls.opened.wait(closed).unwrap();
            }
            self.controls.waiting.fetch_sub(1, Ordering::SeqCst);
            if self.controls.fails.load(Ordering::SeqCst) {
                return Err(ForwardError::Failed(candle_core::Error::Msg(
                    "/secret/path.rs:7".into(),
                )));
            }
        }
        self.controls.items.fetch_add(items, Ordering::SeqCst);
        Ok(vec![(); batch.len()])
    }

    fn finish(&self, prepared: Value, (): ()) -> Output {
        Output::Json(prepared)
    }

    fn sample(&self, _: Option<usize>, _: u64) -> Value {
        EXAMPLE.into()
    }

    fn forward_tensors(&self, _: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        Err(ForwardError::BadTensors("none are taken".into()))
    }
}

/// A recipe of that name and kind, with its controls.
pub(crate) fn fake(name: &'static str, input_kind: InputKind) -> (AnyRecipe, Arc<Controls>) {
    let controls = Arc::new(Controls::default());
    let info = RecipeInfo {
        name,
        input_kind,
        weights: "none".into(),
        dtype: "f32",
        device: "cpu".into(),
        cost_unit: "items",
        inline_bytes: 1000,
        max_batch_size: None,
    };
    (
        Arc::new(Fake {
            info,
            controls: Arc::clone(&controls),
        }),
        controls,
    )
}

/// A state with these recipes, warmed up.
pub(crate) async fn state_of(
    recipes: Vec<AnyRecipe>,
    max_queue_size: usize,
    config: HttpConfig,
) -> (AppState, Arc<Engine>) {
    let registry = Arc::new(Registry::new().unwrap());
    let engine_config = EngineConfig {
        max_batch_size: Some(1),
        max_queue_size,
        ..EngineConfig::default()
    };
    let devices = vec![Device {
        name: "cpu".into(),
        recipes,
        batches_in_flight: NonZeroUsize::MIN,
        beside: false,
    }];
    let engine = Engine::start(devices, &engine_config, &registry).unwrap();
    engine.ready().await.unwrap();
    (AppState::new(Arc::clone(&engine), registry, config), engine)
}

/// A server's handlers without its sockets.
pub(crate) struct App {
    pub(crate) state: AppState,
    pub(crate) engine: Arc<Engine>,
    pub(crate) controls: Arc<Controls>,
}

impl App {
    pub(crate) async fn new(kind: InputKind) -> Self {
        Self::with(kind, 64, HttpConfig::default()).await
    }

    pub(crate) async fn with(kind: InputKind, max_queue_size: usize, config: HttpConfig) -> Self {
        let (recipe, controls) = fake("fake", kind);
        let (state, engine) = state_of(vec![recipe], max_queue_size, config).await;
        Self {
            state,
            engine,
            controls,
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Response {
        router(self.state.clone()).oneshot(request).await.unwrap()
    }

    /// Posts a body of that type; with an empty type, of none.
    pub(crate) async fn post(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::post(path);
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        Reply::read(self.send(request.body(body.into()).unwrap()).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Reply {
        Reply::read(self.send(request).await).await
    }
}

/// An app with two recipes, `texts` and `files`.
pub(crate) async fn several() -> App {
    let (texts, controls) = fake("texts", InputKind::Json);
    let (files, _) = fake("files", InputKind::File);
    let (state, engine) = state_of(vec![texts, files], 64, HttpConfig::default()).await;
    App {
        state,
        engine,
        controls,
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn reason(&self) -> String {
        self.json()["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// A server on a port of its own.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) engine: Arc<Engine>,
    pub(crate) controls: Arc<Controls>,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start(kind: InputKind, max_queue_size: usize, config: HttpConfig) -> Self {
        let (recipe, controls) = fake("fake", kind);
        let (state, engine) = state_of(vec![recipe], max_queue_size, config).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, state, shutdown));
        Self {
            url: format!("http://{address}"),
            address,
            engine,
            controls,
            stop: Some(stop),
            task,
        }
    }
}

/// What has not happened after this time never will: only a hang takes as long, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a test waits for anything: a limit that is not to be what ends a wait.
pub(crate) const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        within(poll(holds))
            .await
            .unwrap_or_else(|_| panic!("{caller}: it has not happened within {PATIENCE:?}"));
    }
}

async fn poll(mut holds: impl AsyncFnMut() -> bool) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What comes of it, unless it hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> Result<T, Elapsed> {
    tokio::time::timeout(PATIENCE, future).await
}
