//! The HTTP side: routes, wire types, which error has which status. Nothing else in the server knows HTTP.
//!
//! Each family of clients has a module of its own (`fastdeploy`, `oip`) on the same engine; what they share is here:
//! the state, `limits` on what may be read, `error` with the statuses, and `server`, the loop that accepts
//! connections.

mod activity;
mod budget;
mod cors;
mod encoding;
mod error;
mod fastdeploy;
mod guard;
mod json;
mod limits;
mod oip;
mod openapi;
mod outgoing;
mod page;
mod pool;
mod probes;
mod recipes;
mod server;
mod signature;
mod state;
mod trace;
mod zstd;

use std::time::Duration;

use axum::{
    Router,
    extract::{Request, State as Extract},
    http::HeaderValue,
    middleware::from_fn_with_state,
    response::Response,
};

pub use server::{serve, serve_grpc, serve_probes};
pub use state::AppState;

use crate::{access::Access, jobs::JobTable, traces::Traces};

/// The settings of the HTTP side.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// The most bytes of a body (`--max-body`).
    pub max_body: u64,
    /// The most bytes that a compressed body may decompress to (`--max-decompressed`).
    pub max_decompressed: u64,
    /// The most bytes of bodies and of answers that are not sent yet (`--max-buffered`); past it, requests are answered 429.
    pub max_buffered: u64,
    /// How long a body may make no progress (`--body-timeout`).
    pub body_timeout: Duration,
    /// How long an answer may take: the default of the client's own `timeout`, and its maximum.
    pub timeout: Duration,
    /// How long a client may take to send a request's header (`--header-timeout`).
    pub header_timeout: Duration,
    /// How long a connection may stay idle between two requests (`--keep-alive-timeout`).
    pub keep_alive_timeout: Duration,
    /// How long a client may take nothing of its answer (`--write-timeout`).
    pub write_timeout: Duration,
    /// How long after its last byte the end of a client's stream belongs to a request, which then is answered; later it
    /// means that the client has gone.
    pub half_close: Duration,
    /// How long idle connections stay open in a drain: who sends a request by then reads that the server is going away,
    /// where a connection closed at once would look like a failure.
    pub drain_linger: Duration,
    /// The most connections at a time (`--max-connections`).
    pub max_connections: usize,
    /// How long results of requests with a `unique_id` of the client's are kept.
    pub result_ttl: Duration,
    /// The most such requests that are running or remembered; the oldest results go first.
    pub max_results: usize,
    /// The most bytes of memory that their results may take.
    pub max_result_bytes: usize,
    /// Where asynchronous requests are kept (`--jobs`); without it in memory.
    pub jobs: Option<JobTable>,
    /// `/health` believes an answer of the engine for this long before it runs a probe.
    pub health_window: Duration,
    /// Keys that requests need, and the certificate that connections are encrypted with.
    pub access: Access,
    /// Whether metrics need no key (`--open-metrics`).
    pub open_metrics: bool,
    /// Where spans of requests are sent (`--otlp-endpoint`).
    pub traces: Option<Traces>,
    /// The origins of other web pages that may ask this server (`--cors-origin`).
    pub cors_origins: Vec<HeaderValue>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        let max_body = 32 << 20;
        Self {
            max_body,
            max_decompressed: 4 * max_body,
            max_buffered: 1 << 30,
            body_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            half_close: Duration::from_millis(100),
            drain_linger: Duration::from_millis(500),
            max_connections: 4096,
            result_ttl: Duration::from_secs(600),
            max_results: 10_000,
            max_result_bytes: 256 << 20,
            jobs: None,
            health_window: Duration::from_secs(10),
            access: Access::default(),
            open_metrics: false,
            traces: None,
            cors_origins: Vec::new(),
        }
    }
}

/// Every call over gRPC, as [`serve_grpc`] answers them.
pub fn grpc_router(state: AppState) -> Router {
    oip::grpc::router(state)
}

/// What operators and their machines ask for, alone.
fn probes_router(state: AppState) -> Router {
    let (router, _) = probes::routes().split_for_parts();
    router.with_state(state)
}

/// Every route, behind what guards them.
pub fn router(state: AppState) -> Router {
    let document = openapi::Document::default();
    let (router, description) = document
        .router()
        .merge(fastdeploy::routes())
        .merge(oip::routes())
        .merge(page::routes())
        .merge(probes::routes())
        .merge(recipes::routes())
        .split_for_parts();
    document.complete(&state, description);
    let mut router = router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method);
    // Around the fallbacks too, so that paths that do not exist cannot be told from those that do.
    if state.config().access.keys.is_some() {
        router = router.layer(from_fn_with_state(state.clone(), guard::guard));
    }
    // Outermost: a browser asks without a key whether it may ask, and reads refusals only where it may.
    let origins = &state.config().cors_origins;
    if !origins.is_empty() {
        router = router.layer(cors::layer(origins));
    }
    if let Some(traces) = &state.config().traces {
        router = router.layer(from_fn_with_state(traces.clone(), trace::request));
    }
    router.with_state(state)
}

/// The answer where there is nothing, in the shape of the protocol whose path it is.
async fn unknown_path(state: Extract<AppState>, request: Request) -> Response {
    match oip::is_here(request.uri().path()) {
        true => oip::unknown_path(request).await,
        false => fastdeploy::unknown_path(state, request).await,
    }
}

/// The answer where there is something, but not for this method.
async fn wrong_method(request: Request) -> Response {
    match oip::is_here(request.uri().path()) {
        true => oip::wrong_method(request).await,
        false => fastdeploy::wrong_method(request).await,
    }
}
