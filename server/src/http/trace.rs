//! A span for each request, over HTTP and in gRPC's calls and streams, under the caller's `traceparent`. Probes and the web
//! page's files have none. What a span says is of bounded length: a caller's own words only where they are known ones.

use std::borrow::Cow;

use axum::{
    extract::{MatchedPath, Request, State as Extract},
    http::{HeaderMap, Method},
    middleware::Next,
    response::Response,
};
use opentelemetry::{
    Context, KeyValue,
    propagation::Extractor,
    trace::{FutureExt, Status, TraceContextExt},
};

use tonic::Code;

use super::{guard, oip};
use crate::traces::{self, Traces};

const OK: Code = Code::Ok;

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
    let method = known_method(request.method());
    let mut attributes = vec![KeyValue::new(
        "http.request.method",
        method.unwrap_or(OTHER),
    )];
    let mut name = method.unwrap_or("HTTP").to_owned();
    if let Some(route) = request.extensions().get::<MatchedPath>() {
        attributes.push(KeyValue::new("http.route", route.as_str().to_owned()));
        name = format!("{name} {}", route.as_str());
    }
    let caller = traces::caller(&Headers(request.headers()));
    let context = traces.begin(name, &caller, attributes);
    let response = next.run(request).with_context(context.clone()).await;
    let status = response.status();
    let attribute = KeyValue::new("http.response.status_code", i64::from(status.as_u16()));
    context.span().set_attribute(attribute);
    if status.is_server_error() {
        fail(&context, status.as_str().to_owned());
    }
    response
}

/// What OpenTelemetry calls a method that is none of its own: a caller may send any word.
const OTHER: &str = "_OTHER";

fn known_method(method: &Method) -> Option<&'static str> {
    let known = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    known.into_iter().find(|known| method == known)
}

/// A call over gRPC: what the spans of its requests have in common.
#[derive(Clone, Debug)]
pub(super) struct Call {
    traces: Traces,
    caller: Context,
    method: Option<&'static str>,
}

impl Call {
    /// Begins a request's span; the request is to run within the context.
    pub(super) fn begin(&self) -> Context {
        let name = match self.method {
            Some(method) => format!("{}/{method}", oip::SERVICE).into(),
            None => Cow::Borrowed(OTHER),
        };
        let attributes = vec![
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", name.clone()),
        ];
        self.traces.begin(name, &self.caller, attributes)
    }
}

/// Over gRPC. A stream may never end, so that it has no span itself: each of its requests begins one by the [`Call`] that
/// the stream's own request brings. A stream that is refused has no requests, but a span that says so.
pub(super) async fn call(
    Extract(traces): Extract<Traces>,
    mut request: Request,
    next: Next,
) -> Response {
    if oip::is_probe(request.uri().path()) {
        return next.run(request).await;
    }
    let call = Call {
        traces,
        caller: traces::caller(&Headers(request.headers())),
        method: oip::known_call(request.uri().path()),
    };
    if call.method == Some(oip::STREAM) {
        request.extensions_mut().insert(call.clone());
        let response = next.run(request).await;
        let code = code_of(&response);
        if code != OK {
            end_call(&call.begin(), code);
        }
        return response;
    }
    let context = call.begin();
    let response = next.run(request).with_context(context.clone()).await;
    end_call(&context, code_of(&response));
    response
}

/// The code of an answer. Without a header it is one.
fn code_of(response: &Response) -> Code {
    let code = response.headers().get("grpc-status");
    code.map_or(OK, |code| Code::from_bytes(code.as_bytes()))
}

/// Says how a request over gRPC ended.
pub(super) fn end_call(context: &Context, code: Code) {
    let number = i32::from(code);
    let attribute = KeyValue::new("rpc.response.status_code", number.to_string());
    context.span().set_attribute(attribute);
    if code != OK {
        fail(context, number.to_string());
    }
}

fn fail(context: &Context, kind: String) {
    let span = context.span();
    span.set_attribute(KeyValue::new("error.type", kind));
    span.set_status(Status::error(""));
}
