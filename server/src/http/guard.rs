//! API keys: everything needs one but what is listed as open here.
//!
//! The list is of exact paths, compared with the path as it came. So another spelling of an open path (a slash more, an
//! escape) needs a key, and another spelling of a closed one cannot get past; a route that is added is closed until it
//! is listed.

use std::sync::Arc;

use axum::{
    extract::{Request, State as Extract},
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};

use opentelemetry::KeyValue;

use super::{AppState, error::ApiError, fastdeploy, limits::give_up, oip};
use crate::{access::Keyring, traces};

/// Open to everyone who can connect: probes, which say nothing about what is served, and the web page, whose files do
/// not either. (`/` shows a caller without a key no recipes: [`Stranger`].)
const OPEN: [&str; 3] = ["/", "/livez", "/readyz"];
/// Where the web page's files lie.
const OPEN_FOLDER: &str = "/page/";
/// Open too with `--open-metrics`.
const METRICS: [&str; 2] = ["/metrics", "/prometheus_metrics"];

/// The header for a key where `Authorization` is taken.
const API_KEY: &str = "x-api-key";

const INVALID: &str = "the API key is not valid here";

/// A mark on requests to open paths by callers without a key, for handlers that tell others more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stranger;

/// The name of the key that the headers (or a gRPC call's metadata) bring, if it is one of these: as
/// `Authorization: Bearer KEY` or `X-API-Key: KEY`.
pub(super) fn admits(keys: &Keyring, headers: &HeaderMap) -> Option<Arc<str>> {
    let own = headers.get(API_KEY).map(HeaderValue::as_bytes);
    let bearer = headers.get(header::AUTHORIZATION).and_then(bearer);
    // A proxy may use one of them for itself, so that either will do.
    [bearer, own]
        .into_iter()
        .flatten()
        .find_map(|key| keys.admits(key))
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, key) = value.as_bytes().split_at_checked("bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| key.trim_ascii())
}

/// Lets through what is open or brings a key, and answers 401 to the rest.
pub(super) async fn guard(
    Extract(state): Extract<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(keys) = &state.config().access.keys else {
        return next.run(request).await;
    };
    if let Some(name) = admits(keys, request.headers()) {
        tracing::trace!(key = &*name, "admitted");
        traces::note(|| KeyValue::new("galley.api_key", name.to_string()));
        return next.run(request).await;
    }
    if is_open(&request, state.config().open_metrics) {
        request.extensions_mut().insert(Stranger);
        return next.run(request).await;
    }
    state.registry().unauthorized().increment(1);
    refuse(request).await
}

fn is_open(request: &Request, open_metrics: bool) -> bool {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return false;
    }
    is_open_path(request.uri().path(), open_metrics)
}

/// Whether a path, or the template of one, needs no key.
pub(super) fn is_open_path(path: &str, open_metrics: bool) -> bool {
    let file = path.strip_prefix(OPEN_FOLDER);
    OPEN.contains(&path)
        || file.is_some_and(|name| !name.contains('/'))
        || (open_metrics && METRICS.contains(&path))
}

/// Why a request without a valid key is refused.
pub(super) fn refusal(headers: &HeaderMap) -> ApiError {
    let tried = headers.contains_key(header::AUTHORIZATION) || headers.contains_key(API_KEY);
    ApiError::Unauthorized(match tried {
        true => INVALID,
        false => "an API key is needed, as Authorization: Bearer KEY or X-API-Key: KEY",
    })
}

/// 401 in the shape of the protocol that the path belongs to.
async fn refuse(request: Request) -> Response {
    let error = refusal(request.headers());
    let challenge = match error {
        ApiError::Unauthorized(INVALID) => "Bearer realm=\"galley\", error=\"invalid_token\"",
        _ => "Bearer realm=\"galley\"",
    };
    let (parts, body) = request.into_parts();
    let mut response = match oip::is_here(parts.uri.path()) {
        true => oip::refused(error),
        false => fastdeploy::refused(&parts.uri, &error),
    };
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static(challenge),
    );
    give_up(&parts, body).await;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_is_a_scheme_in_any_case() {
        for (value, key) in [
            ("Bearer abc", Some("abc")),
            ("bearer   abc ", Some("abc")),
            ("BEARER abc", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("Bearerabc", None),
            ("abc", None),
        ] {
            let value = HeaderValue::from_static(value);
            assert_eq!(bearer(&value), key.map(str::as_bytes), "{value:?}");
        }
    }
}
