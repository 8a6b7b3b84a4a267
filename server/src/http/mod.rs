//! The HTTP side: routes, wire types, which error has which status. Nothing else in the server knows HTTP.
//!
//! Each family of clients has a module of its own (`fastdeploy`) on the same engine; what they share is here: the
//! state, `limits` on what may be read, `error` with the statuses, and `server`, the loop that accepts
//! connections.

mod activity;
mod error;
mod fastdeploy;
mod limits;
mod probes;
mod server;
mod state;

use std::time::Duration;

use axum::Router;

pub use server::serve;
pub use state::AppState;

/// The settings of the HTTP side.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// The most bytes of a body (`--max-body`).
    pub max_body: u64,
    /// The most bytes that a compressed body may decompress to (`--max-decompressed`).
    pub max_decompressed: u64,
    /// The most bytes of bodies that all requests together may hold (`--max-buffered`); past it, they are answered 429.
    pub max_buffered: u64,
    /// How long an answer may take: the default of the client's own `timeout`, and its maximum.
    pub timeout: Duration,
    /// How long a client may take to send a request's header, and a connection may stay idle.
    pub header_timeout: Duration,
    /// The most connections at a time; others wait to be accepted.
    pub max_connections: usize,
    /// How long results of requests with a `unique_id` of the client's are kept.
    pub result_ttl: Duration,
    /// The most such requests that are running or remembered; the oldest results go first.
    pub max_results: usize,
    /// The most bytes, as JSON, that their results may take.
    pub max_result_bytes: usize,
    /// `/health` believes an answer of the engine for this long before it runs a probe.
    pub health_window: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        let max_body = 32 << 20;
        Self {
            max_body,
            max_decompressed: 4 * max_body,
            max_buffered: 1 << 30,
            timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(30),
            max_connections: 4096,
            result_ttl: Duration::from_secs(600),
            max_results: 10_000,
            max_result_bytes: 256 << 20,
            health_window: Duration::from_secs(10),
        }
    }
}

/// Every route.
pub fn router(state: AppState) -> Router {
    Router::new()
        .merge(fastdeploy::routes())
        .merge(probes::routes())
        .fallback(fastdeploy::unknown_path)
        .method_not_allowed_fallback(fastdeploy::wrong_method)
        .with_state(state)
}
