//! A span for each request and each gRPC call, under the caller's `traceparent`. Probes and the web page's files have none.

use std::borrow::Cow;

use axum::{
    extract::{MatchedPath, Request, State as Extract},
    http::HeaderMap,
    middleware::Next,
    response::Response,
};
use opentelemetry::{
    Context, KeyValue,
    propagation::Extractor,
    trace::{FutureExt, Status, TraceContextExt},
};

use super::guard;
use crate::traces::Traces;

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// Over HTTP. A span says a request's route and not its path or query, which are the caller's own words.
pub(super) async fn request(
    Extract(traces): Extract<Traces>,
    request: Request,
    next: Next,
) -> Response {
    if guard::is_open_path(request.uri().path(), true) {
        return next.run(request).await;
    }
    let method = request.method().to_string();
    let mut attributes = vec![KeyValue::new("http.request.method", method.clone())];
    let mut name = method;
    if let Some(route) = request.extensions().get::<MatchedPath>() {
        attributes.push(KeyValue::new("http.route", route.as_str().to_owned()));
        name = format!("{name} {}", route.as_str());
    }
    let context = traces.begin(name, &Headers(request.headers()), attributes);
    let response = next.run(request).with_context(context.clone()).await;
    let status = response.status();
    let attribute = KeyValue::new("http.response.status_code", i64::from(status.as_u16()));
    context.span().set_attribute(attribute);
    if status.is_server_error() {
        fail(&context, status.as_str().to_owned());
    }
    response
}

/// Over gRPC. A stream's span ends when its first message may be read.
pub(super) async fn call(
    Extract(traces): Extract<Traces>,
    request: Request,
    next: Next,
) -> Response {
    let name = match request.extensions().get::<MatchedPath>() {
        Some(_) => request.uri().path().trim_start_matches('/').to_owned(),
        None => "unknown call".into(),
    };
    let attributes = vec![
        KeyValue::new("rpc.system.name", "grpc"),
        KeyValue::new("rpc.method", name.clone()),
    ];
    let context = traces.begin(name, &Headers(request.headers()), attributes);
    let response = next.run(request).with_context(context.clone()).await;
    // Without a header the call has an answer.
    let code = response.headers().get("grpc-status");
    let code = code.map_or(Cow::Borrowed("0"), |code| {
        String::from_utf8_lossy(code.as_bytes())
    });
    let attribute = KeyValue::new("rpc.response.status_code", code.to_string());
    context.span().set_attribute(attribute);
    if code != "0" {
        fail(&context, code.into_owned());
    }
    response
}

fn fail(context: &Context, kind: String) {
    let span = context.span();
    span.set_attribute(KeyValue::new("error.type", kind));
    span.set_status(Status::error(""));
}
