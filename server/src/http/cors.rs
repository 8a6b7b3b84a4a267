//! Which web pages of other origins a browser lets ask this server: none, unless they are named (`--cors-origin`).

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember what it was told.
const MAX_AGE: Duration = Duration::from_secs(600);

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Of the Open Inference Protocol's binary tensors.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

pub(super) fn layer(origins: &[HeaderValue]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            API_KEY,
            TRACEPARENT,
            JSON_LENGTH,
        ])
        .expose_headers([header::RETRY_AFTER, header::WWW_AUTHENTICATE, JSON_LENGTH])
        .max_age(MAX_AGE)
}
