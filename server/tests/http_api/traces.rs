//! Spans as a collector gets them: their names, their stages, whose children they are, and what they do not say.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Request},
    routing::post,
};
use bytes::Bytes;
use futures::StreamExt;
use galley::{access::Access, http::HttpConfig, traces::Traces};
use galley_core::InputKind::Json;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::any_value::Value,
    trace::v1::{Span, status::StatusCode},
};
use prost::Message;
use tokio::{net::TcpListener, sync::Mutex};

use crate::{
    access::{KEY, keys},
    grpc::{Server, client::ModelInferRequest, texts},
    support::{App, PATIENCE, until, within},
};

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Collector {
    async fn start() -> (Self, String) {
        async fn keep(State(kept): State<Collector>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            let export = ExportTraceServiceRequest::decode(body).unwrap();
            kept.0.lock().await.push(export);
            ExportTraceServiceResponse::default().encode_to_vec()
        }
        let kept = Self::default();
        let app = Router::new().route("/base/v1/traces", post(keep));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base/", listener.local_addr().unwrap());
        let serve = axum::serve(listener, app.with_state(kept.clone()));
        tokio::spawn(serve.into_future());
        (kept, url)
    }

    /// All spans, once the server has sent what it had.
    async fn spans(&self, traces: &Traces) -> Vec<Span> {
        let traces = traces.clone();
        let sent = tokio::task::spawn_blocking(move || traces.shut_down_within(PATIENCE));
        sent.await.unwrap();
        let mut spans = Vec::new();
        for export in self.0.lock().await.drain(..) {
            for resource in export.resource_spans {
                let about = resource.resource.unwrap().attributes;
                let name = about
                    .iter()
                    .find(|attribute| attribute.key == "service.name");
                let name = name.unwrap().value.clone().unwrap().value.unwrap();
                assert_eq!(name, Value::StringValue("galley".into()));
                spans.extend(
                    resource
                        .scope_spans
                        .into_iter()
                        .flat_map(|scope| scope.spans),
                );
            }
        }
        spans
    }
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let attribute = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)?;
    Some(match attribute.value.clone()?.value? {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{key}: {other:?}"),
    })
}

fn children<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    let mut children: Vec<_> = spans
        .iter()
        .filter(|span| span.parent_span_id == parent.span_id && span.trace_id == parent.trace_id)
        .collect();
    children.sort_by_key(|span| span.start_time_unix_nano);
    children
}

/// The stages of an answered request: all four, one after the other, within it.
fn assert_stages(spans: &[Span], request: &Span) {
    let stages = children(spans, request);
    let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["prepare", "queue", "forward", "finish"]);
    for pair in stages.windows(2) {
        assert_eq!(pair[0].end_time_unix_nano, pair[1].start_time_unix_nano);
    }
    assert!(stages[0].start_time_unix_nano >= request.start_time_unix_nano);
    assert!(stages[3].end_time_unix_nano <= request.end_time_unix_nano);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_under_its_callers_with_its_stages() {
    const SECRET: &str = "s3cret-of-a-caller";
    let (collector, url) = Collector::start().await;
    let traces = Traces::to(&url).unwrap();
    let config = HttpConfig {
        access: Access {
            keys: Some(keys()),
            tls: None,
        },
        traces: Some(traces.clone()),
        ..HttpConfig::default()
    };
    let app = App::with(Json, 64, config).await;
    let ask = async |path: &str, traceparent: &str, key: &str, body: String| {
        let request = Request::post(path)
            .header("traceparent", traceparent)
            .header("x-api-key", key);
        app.send(request.body(Body::from(body)).unwrap())
            .await
            .status()
    };
    let sampled = format!("00-{TRACE}-{CALLER}-01");
    let body = format!("[\"{SECRET}\"]");
    let path = "/recipes/fake/infer?unique_id=s3cret-of-a-caller";
    assert_eq!(ask(path, &sampled, KEY, body.clone()).await, 200);
    // The caller's own decision against sampling is respected.
    let unsampled = format!("00-{TRACE}-{CALLER}-00");
    assert_eq!(ask("/infer", &unsampled, KEY, body.clone()).await, 200);
    // What is no trace context begins a trace of its own.
    assert_eq!(ask("/infer", "nonsense", KEY, body.clone()).await, 200);
    assert_eq!(
        ask("/infer", "", "wrong-key-s3cret-of-a-caller", body).await,
        401
    );
    app.controls
        .fails
        .store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(ask("/sync", "", KEY, "[1]".into()).await, 500);
    let get = |path: &str| app.send(Request::get(path).body(Body::empty()).unwrap());
    get("/livez").await;
    get("/s3cret-of-a-caller").await;

    let spans = collector.spans(&traces).await;
    let named = |name: &str| {
        spans
            .iter()
            .filter(|span| span.name == name)
            .collect::<Vec<_>>()
    };
    let request = named("POST /recipes/{name}/infer");
    let [request] = request[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(hex(&request.trace_id), TRACE);
    assert_eq!(hex(&request.parent_span_id), CALLER);
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/recipes/{name}/infer"),
        ("http.response.status_code", "200"),
        ("galley.api_key", "line 1"),
        ("galley.batch_size", "1"),
    ] {
        assert_eq!(attribute(request, key).as_deref(), Some(value), "{key}");
    }
    assert_stages(&spans, request);

    let [own, refused] = named("POST /infer")[..] else {
        panic!("{spans:#?}");
    };
    assert!(own.parent_span_id.is_empty());
    assert_stages(&spans, own);
    assert_eq!(
        attribute(refused, "http.response.status_code").unwrap(),
        "401"
    );
    assert_eq!(children(&spans, refused).len(), 0);
    let [failed] = named("POST /sync")[..] else {
        panic!("{spans:#?}");
    };
    let status = failed.status.clone().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert_eq!(attribute(failed, "error.type").unwrap(), "500");
    assert_eq!(named("GET").len(), 1, "a path that is none has no route");
    assert_eq!(spans.len(), 5 + 2 * 4, "{spans:#?}");
    let all = format!("{spans:?}");
    for secret in [SECRET, KEY] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_part_of_the_trace_that_began_it() {
    let (collector, url) = Collector::start().await;
    let traces = Traces::to(&url).unwrap();
    let config = HttpConfig {
        traces: Some(traces.clone()),
        ..HttpConfig::default()
    };
    let app = App::with(Json, 64, config).await;
    app.controls.close();
    let reply = app.post("/infer?async=true&unique_id=a", "", "[1]").await;
    assert_eq!(reply.status, 200);
    app.controls.open();
    until(async || app.get("/result?unique_id=a").await.json()["success"] == true).await;
    let spans = collector.spans(&traces).await;
    let request = spans
        .iter()
        .find(|span| span.name == "POST /infer")
        .unwrap();
    assert_eq!(children(&spans, request).len(), 4, "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_a_span_too() {
    let (collector, url) = Collector::start().await;
    let traces = Traces::to(&url).unwrap();
    let config = HttpConfig {
        traces: Some(traces.clone()),
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 64, config).await;
    let mut client = server.client().await;
    let mut request = tonic::Request::new(texts(&["a"]));
    let caller = format!("00-{TRACE}-{CALLER}-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", caller);
    client.model_infer(request).await.unwrap();
    client.model_infer(texts(&["bad"])).await.unwrap_err();

    let spans = collector.spans(&traces).await;
    let calls: Vec<&Span> = spans
        .iter()
        .filter(|span| span.name == "inference.GRPCInferenceService/ModelInfer")
        .collect();
    let [answered, refused] = calls[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(hex(&answered.trace_id), TRACE);
    assert_stages(&spans, answered);
    assert_eq!(
        attribute(answered, "rpc.response.status_code").unwrap(),
        "0"
    );
    assert_eq!(attribute(refused, "rpc.response.status_code").unwrap(), "3");
}

/// A stream may never end, so that its requests are what spans are of.
#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_stream_is_a_span() {
    let (collector, url) = Collector::start().await;
    let traces = Traces::to(&url).unwrap();
    let config = HttpConfig {
        traces: Some(traces.clone()),
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 64, config).await;
    let mut client = server.client().await;
    let refused = {
        let mut request = tonic::Request::new(futures::stream::empty());
        let timeout = "soon".parse().unwrap();
        request.metadata_mut().insert("grpc-timeout", timeout);
        client.model_stream_infer(request).await
    };
    assert_eq!(refused.unwrap_err().code(), tonic::Code::InvalidArgument);

    let (sender, requests) = tokio::sync::mpsc::unbounded_channel();
    let requests = futures::stream::unfold(requests, |mut requests| async move {
        Some((requests.recv().await?, requests))
    });
    let mut request = tonic::Request::new(requests);
    let caller = format!("00-{TRACE}-{CALLER}-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", caller);
    let answers = client.model_stream_infer(request).await.unwrap();
    let mut answers = answers.into_inner();
    for text in ["a", "bad", "b"] {
        sender.send(texts(&[text])).unwrap();
        let answer = answers.next().await.unwrap().unwrap();
        assert_eq!(answer.error_message.is_empty(), text != "bad");
    }
    // The stream goes on, and what it has had is there all the same.
    let mut spans = collector.spans(&traces).await;
    spans.sort_by_key(|span| span.start_time_unix_nano);
    let named = spans
        .iter()
        .filter(|span| span.name == "inference.GRPCInferenceService/ModelStreamInfer");
    let codes: Vec<_> = named
        .clone()
        .map(|span| attribute(span, "rpc.response.status_code").unwrap())
        .collect();
    assert_eq!(codes, ["3", "0", "3", "0"], "{spans:#?}");
    for (request, code) in named.zip(codes).skip(1) {
        assert_eq!(hex(&request.trace_id), TRACE);
        assert_eq!(hex(&request.parent_span_id), CALLER);
        match code.as_str() {
            "0" => assert_stages(&spans, request),
            _ => assert!(children(&spans, request).is_empty()),
        }
    }
    assert_eq!(spans.len(), 4 + 2 * 4, "{spans:#?}");
    drop(sender);
}

/// Whatever a caller sends, in words and in items, its spans stay as many and as small.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_cannot_make_spans_larger() {
    let (collector, url) = Collector::start().await;
    let traces = Traces::to(&url).unwrap();
    let config = HttpConfig {
        traces: Some(traces.clone()),
        ..HttpConfig::default()
    };
    let long = "x".repeat(10_000);
    let server = Server::start(Json, 64, config.clone()).await;
    let app = App::with(Json, 64, config).await;
    let items = vec!["item"; 60];
    let many = serde_json::json!(items).to_string();
    let state = vec![format!("k={}", "v".repeat(200)); 32].join(",");
    for (method, path, body) in [
        ("POST", "/infer".to_owned(), "[1]"),
        (
            "POST",
            format!("/infer?unique_id={}&x={long}", &long[..128]),
            many.as_str(),
        ),
        ("POST", format!("/recipes/{long}/infer"), "[1]"),
        ("GET", format!("/{long}"), ""),
        (&long[..1000], "/infer".into(), ""),
    ] {
        let request = Request::builder().method(method).uri(path);
        let request = request
            .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
            .header("tracestate", &state);
        app.ask(request.body(Body::from(body.to_owned())).unwrap())
            .await;
    }
    let call = ModelInferRequest {
        model_name: long.clone(),
        id: long.clone(),
        ..texts(&items)
    };
    let mut client = server.client().await;
    client.model_infer(call.clone()).await.unwrap_err();
    let one = futures::stream::iter([call]);
    let answers = client.model_stream_infer(one).await.unwrap();
    assert_eq!(answers.into_inner().count().await, 1);
    let service = "/inference.GRPCInferenceService";
    for path in [format!("{service}/{}", &long[..4000]), "/a/b".into()] {
        let request = Request::post(path).header("content-type", "application/grpc");
        let answer = server.ask(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.headers()["grpc-status"], "12");
    }

    let spans = collector.spans(&traces).await;
    assert_eq!(spans.len(), 5 + 2 * 4 + 2 + 2, "{spans:#?}");
    for span in &spans {
        assert!(span.encoded_len() < 500, "{span:#?}");
    }
}

/// A collector that is not there costs the requests nothing, and the end no more than a few seconds.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_requests_are_answered_all_the_same() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let traces = Traces::to(&url).unwrap();
    let config = HttpConfig {
        traces: Some(traces.clone()),
        ..HttpConfig::default()
    };
    let app = App::with(Json, 64, config).await;
    for _ in 0..10 {
        assert_eq!(app.post("/infer", "", "[1]").await.status, 200);
    }
    let ending = tokio::task::spawn_blocking(move || traces.shut_down());
    within(ending).await.expect("it ends").unwrap();
}
