//! What a call over gRPC may take: of memory and of time.

use axum::body::Body;
use galley::http::{HttpConfig, grpc_router};
use galley_core::InputKind::Json;
use prost::Message;
use tonic::{Code, Request, codec::CompressionEncoding};
use tower::ServiceExt;

use crate::{
    grpc::{Server, client::infer_parameter::ParameterChoice, parameters, texts},
    support::{fake, state_of},
};

#[tokio::test(flavor = "multi_thread")]
async fn messages_over_the_limit_are_refused_compressed_ones_too() {
    let config = HttpConfig {
        max_body: 10_000,
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 4, config).await;
    let long = "a".repeat(11_000);
    let mut client = server.client().await;
    let error = client
        .model_infer(texts(&[long.as_str()]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    let mut client = server
        .client()
        .await
        .send_compressed(CompressionEncoding::Gzip);
    let error = client
        .model_infer(texts(&[long.as_str()]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    let short = "a".repeat(9_000);
    client.model_infer(texts(&[short.as_str()])).await.unwrap();
    let mut client = server
        .client()
        .await
        .send_compressed(CompressionEncoding::Deflate);
    client.model_infer(texts(&[short.as_str()])).await.unwrap();
    let error = client.model_infer(texts(&[long.as_str()])).await;
    assert_eq!(error.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_messages_together_have_a_limit() {
    let config = HttpConfig {
        max_buffered: 1000,
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 4, config).await;
    let mut client = server.client().await;
    let long = "a".repeat(2000);
    let error = client
        .model_infer(texts(&[long.as_str()]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(error.message().contains("--max-buffered"), "{error}");
    for _ in 0..20 {
        // What ended has given its room back.
        client
            .model_infer(texts(&["a".repeat(500).as_str()]))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_of_either_kind_end_a_request() {
    let (server, mut client) = Server::json().await;
    server.controls.close();
    let mut by_parameter = texts(&["a"]);
    by_parameter.parameters = parameters("timeout", ParameterChoice::Int64Param(50_000));
    let error = client.model_infer(by_parameter).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::DeadlineExceeded, "timeout")
    );
    let mut nonsense = Request::new(texts(&["c"]));
    nonsense
        .metadata_mut()
        .insert("grpc-timeout", "soon".parse().unwrap());
    let error = client.model_infer(nonsense).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    server.controls.open();
}

/// Without a client, which would keep the time too and might be first.
#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_call_ends_it() {
    let (recipe, controls) = fake("fake", Json);
    let (state, _engine) = state_of(vec![recipe], 64, HttpConfig::default()).await;
    controls.close();
    let message = texts(&["a"]).encode_to_vec();
    let length = (message.len() as u32).to_be_bytes();
    let frame = [&[0][..], &length, &message].concat();
    let request = axum::http::Request::post("/inference.GRPCInferenceService/ModelInfer")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "50m")
        .body(Body::from(frame));
    let answer = grpc_router(state).oneshot(request.unwrap()).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4", "{answer:?}");
    controls.open();
}
