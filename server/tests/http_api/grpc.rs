//! The Open Inference Protocol over gRPC, on real sockets.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use axum::{body::Body, response::Response};
use futures::StreamExt;
use galley::{
    engine::Engine,
    http::{AppState, HttpConfig, grpc_router, router, serve_grpc},
};
use galley_core::InputKind::{File, Json};
use prost::Message;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Code, Request, codec::CompressionEncoding, transport::Endpoint};
use tower::ServiceExt;

use self::client::{
    grpc_inference_service_client::GrpcInferenceServiceClient, infer_parameter::ParameterChoice,
    model_infer_request::InferInputTensor, model_infer_request::InferRequestedOutputTensor, *,
};
use crate::support::{Controls, NEVER, PATIENCE, Reply, fake, state_of, until, within};

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::enum_variant_names,
    reason = "generated"
)]
pub(crate) mod client {
    include!(concat!(env!("OUT_DIR"), "/client/inference.rs"));
}

pub(crate) type Client = GrpcInferenceServiceClient<tonic::transport::Channel>;

/// A server that speaks gRPC on a port of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: AppState,
    engine: Arc<Engine>,
    pub(crate) controls: Arc<Controls>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start(
        kind: galley_core::InputKind,
        max_queue_size: usize,
        config: HttpConfig,
    ) -> Self {
        let (recipe, controls) = fake("fake", kind);
        let (state, engine) = state_of(vec![recipe], max_queue_size, config).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve_grpc(listener, state.clone(), async {
            let _ = stopped.await;
        }));
        Self {
            address,
            state,
            engine,
            controls,
            stop: Some(stop),
            task,
        }
    }

    async fn json() -> (Self, Client) {
        let server = Self::start(Json, 64, HttpConfig::default()).await;
        let client = server.client().await;
        (server, client)
    }

    /// Its metrics, as they are served over HTTP.
    pub(crate) async fn metrics(&self) -> String {
        let request = axum::http::Request::get("/metrics").body(Body::empty());
        let answer = router(self.state.clone()).oneshot(request.unwrap()).await;
        Reply::read(answer.unwrap()).await.text()
    }

    /// Answers a call without a socket.
    pub(crate) async fn ask(&self, call: axum::http::Request<Body>) -> Response {
        grpc_router(self.state.clone()).oneshot(call).await.unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        let endpoint = Endpoint::try_from(format!("http://{}", self.address)).unwrap();
        Client::new(endpoint.connect().await.unwrap())
    }
}

fn binary(elements: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for element in elements {
        bytes.extend((element.len() as u32).to_le_bytes());
        bytes.extend(element.as_bytes());
    }
    bytes
}

fn tensor(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

/// Texts as raw contents.
pub(crate) fn texts(texts: &[&str]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "fake".into(),
        id: "7".into(),
        inputs: vec![tensor("text", "BYTES", &[texts.len() as i64])],
        raw_input_contents: vec![binary(texts)],
        ..ModelInferRequest::default()
    }
}

fn parameters(name: &str, choice: ParameterChoice) -> HashMap<String, InferParameter> {
    let parameter = InferParameter {
        parameter_choice: Some(choice),
    };
    HashMap::from([(name.to_owned(), parameter)])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_and_its_models_are_described() {
    let (_server, mut client) = Server::json().await;
    assert!(
        client
            .server_live(ServerLiveRequest {})
            .await
            .unwrap()
            .into_inner()
            .live
    );
    assert!(
        client
            .server_ready(ServerReadyRequest {})
            .await
            .unwrap()
            .into_inner()
            .ready
    );
    let named = |name: &str, version: &str| ModelReadyRequest {
        name: name.into(),
        version: version.into(),
    };
    assert!(
        client
            .model_ready(named("fake", "1"))
            .await
            .unwrap()
            .into_inner()
            .ready
    );
    for (name, version) in [("other", ""), ("fake", "2")] {
        let error = client.model_ready(named(name, version)).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }
    let server = client
        .server_metadata(ServerMetadataRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (server.name.as_str(), server.extensions.len()),
        ("galley", 3)
    );
    let request = ModelMetadataRequest {
        name: "fake".into(),
        version: String::new(),
    };
    let model = client.model_metadata(request).await.unwrap().into_inner();
    assert_eq!(
        (model.inputs[0].name.as_str(), &model.inputs[0].shape),
        ("text", &vec![-1])
    );
    assert_eq!(model.outputs[0].name, "prediction");
    let request = ModelConfigRequest {
        name: "fake".into(),
        version: String::new(),
    };
    let config = client
        .model_config(request)
        .await
        .unwrap()
        .into_inner()
        .config
        .unwrap();
    assert_eq!(config.max_batch_size, 0);
    assert_eq!(config.input[0].data_type(), DataType::TypeString);
    assert!(config.dynamic_batching.is_some());
    let index = client
        .repository_index(RepositoryIndexRequest::default())
        .await
        .unwrap();
    assert_eq!(index.into_inner().models[0].state, "READY");
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_answered_raw_whether_they_came_raw_or_not() {
    let (_server, mut client) = Server::json().await;
    let typed = ModelInferRequest {
        inputs: vec![InferInputTensor {
            contents: Some(InferTensorContents {
                bytes_contents: vec![b"a".to_vec(), "ü".into()],
                ..InferTensorContents::default()
            }),
            ..tensor("text", "BYTES", &[2])
        }],
        raw_input_contents: Vec::new(),
        ..texts(&[])
    };
    for request in [texts(&["a", "ü"]), typed] {
        let answer = client.model_infer(request).await.unwrap().into_inner();
        assert_eq!(
            (answer.id.as_str(), answer.model_version.as_str()),
            ("7", "1")
        );
        let output = &answer.outputs[0];
        assert_eq!(
            (output.name.as_str(), &output.shape),
            ("prediction", &vec![2])
        );
        assert_eq!(answer.raw_output_contents, [binary(&["\"a\"", "\"ü\""])]);
    }
    let empty = client.model_infer(texts(&[])).await.unwrap().into_inner();
    assert_eq!(
        (&empty.outputs[0].shape, empty.raw_output_contents[0].len()),
        (&vec![0], 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_have_their_code_and_reason() {
    let server = Server::start(Json, 4, HttpConfig::default()).await;
    let mut client = server.client().await;
    let with = |change: &dyn Fn(&mut ModelInferRequest)| {
        let mut request = texts(&["a"]);
        change(&mut request);
        request
    };
    use Code::{InvalidArgument, NotFound, OutOfRange};
    for (request, code, reason) in [
        (with(&|r| r.model_name = "other".into()), NotFound, "fake"),
        (with(&|r| r.model_version = "2".into()), NotFound, "version"),
        (
            with(&|r| r.inputs.clear()),
            InvalidArgument,
            "one for each of the 0 inputs, got 1",
        ),
        (
            with(&|r| r.inputs[0].name = "x".into()),
            InvalidArgument,
            "there is text",
        ),
        (
            with(&|r| r.inputs[0].datatype = "INT32".into()),
            InvalidArgument,
            "datatype BYTES",
        ),
        (
            with(&|r| r.inputs[0].shape = vec![-1]),
            InvalidArgument,
            "expected shape [n]",
        ),
        (
            with(&|r| r.inputs[0].shape = vec![1, 1]),
            InvalidArgument,
            "expected shape [n]",
        ),
        (
            with(&|r| r.inputs[0].shape = vec![2]),
            InvalidArgument,
            "got the bytes of 1",
        ),
        (
            with(&|r| r.inputs[0].shape = vec![i64::MAX]),
            OutOfRange,
            "--max-queue-size",
        ),
        (
            with(&|r| r.raw_input_contents[0][0] = 255),
            InvalidArgument,
            "255 bytes by its length",
        ),
        (
            with(&|r| r.raw_input_contents.clear()),
            InvalidArgument,
            "in bytes_contents by the shape, got 0",
        ),
        (
            with(&|r| r.inputs[0].contents = Some(InferTensorContents::default())),
            InvalidArgument,
            "got both",
        ),
        (
            with(&|r| {
                r.outputs.push(InferRequestedOutputTensor {
                    name: "label".into(),
                    ..Default::default()
                })
            }),
            InvalidArgument,
            "there is prediction",
        ),
        (
            with(&|r| r.parameters = parameters("priority", ParameterChoice::Uint64Param(1))),
            InvalidArgument,
            "priority",
        ),
        (
            with(&|r| r.parameters = parameters("timeout", ParameterChoice::Int64Param(-1))),
            InvalidArgument,
            "timeout",
        ),
        (
            with(&|r| {
                r.inputs[0].parameters = parameters(
                    "shared_memory_region",
                    ParameterChoice::StringParam("r".into()),
                )
            }),
            InvalidArgument,
            "shared_memory_region",
        ),
        (
            with(&|r| r.inputs = vec![tensor("text", "BYTES", &[1]); 2000]),
            InvalidArgument,
            "tensors",
        ),
        (
            texts(&["good", "bad"]),
            InvalidArgument,
            "item 1 of 2: not an image",
        ),
        (texts(&["huge"]), OutOfRange, "--max-pixels"),
    ] {
        let error = client.model_infer(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(reason), "{error}");
    }
    client.model_infer(texts(&["a"])).await.unwrap();
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_in_order_and_survives_a_bad_request() {
    let (_server, mut client) = Server::json().await;
    let requests = (0..200).map(|number| {
        let text = match number {
            7 => "bad".to_owned(),
            _ => number.to_string(),
        };
        ModelInferRequest {
            id: number.to_string(),
            ..texts(&[&text])
        }
    });
    let requests: Vec<_> = requests.collect();
    let answers = client
        .model_stream_infer(futures::stream::iter(requests))
        .await
        .unwrap();
    let answers: Vec<_> = answers.into_inner().collect().await;
    assert_eq!(answers.len(), 200);
    for (number, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        let response = answer.infer_response.unwrap();
        assert_eq!(response.id, number.to_string());
        if number == 7 {
            assert_eq!(answer.error_message, "not an image");
        } else {
            assert_eq!(answer.error_message, "");
            assert_eq!(
                response.raw_output_contents,
                [binary(&[&format!("\"{number}\"")])]
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_are_those_of_the_model() {
    let (_server, mut client) = Server::json().await;
    client.model_infer(texts(&["a", "b"])).await.unwrap();
    for name in ["", "fake"] {
        let request = ModelStatisticsRequest {
            name: name.into(),
            version: String::new(),
        };
        let statistics = client.model_statistics(request).await.unwrap().into_inner();
        let model = &statistics.model_stats[0];
        assert_eq!((model.inference_count, model.execution_count), (2, 2));
        let success = model.inference_stats.as_ref().unwrap().success.unwrap();
        assert_eq!(success.count, 1);
        assert!(success.ns > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_was_accepted_and_ends_streams() {
    // A connection that never began is not what ends it.
    let config = HttpConfig {
        header_timeout: NEVER,
        ..HttpConfig::default()
    };
    let mut server = Server::start(Json, 64, config).await;
    let mut client = server.client().await;
    server.controls.close();
    let accepted = tokio::spawn({
        let mut client = server.client().await;
        async move { client.model_infer(texts(&["a"])).await }
    });
    let (sender, requests) = tokio::sync::mpsc::unbounded_channel();
    sender.send(texts(&["b"])).unwrap();
    let requests = futures::stream::unfold(requests, |mut requests| async move {
        Some((requests.recv().await?, requests))
    });
    let mut stream = client
        .model_stream_infer(requests)
        .await
        .unwrap()
        .into_inner();
    let request = || ModelStatisticsRequest {
        name: "fake".into(),
        version: String::new(),
    };
    // One of the two runs, the other waits; neither has ended.
    let both = "galley_in_flight{recipe=\"fake\"} 2";
    until(async || server.metrics().await.contains(both)).await;
    let _silent = TcpStream::connect(server.address).unwrap();
    server.engine.drain();
    server.stop.take().unwrap().send(()).unwrap();
    server.controls.open();
    assert_eq!(accepted.await.unwrap().unwrap().into_inner().id, "7");
    assert_eq!(stream.next().await.unwrap().unwrap().error_message, "");
    let end = stream.next().await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    // The caller never closed its side, and another connection never began; the server ends all the same.
    within(server.task).await.unwrap().unwrap().unwrap();
    assert!(client.model_statistics(request()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_unknown_calls() {
    let server = Server::start(File, 4, HttpConfig::default()).await;
    let mut client = server.client().await;
    let request = ModelInferRequest {
        inputs: vec![tensor("image", "BYTES", &[1])],
        ..texts(&["cat"])
    };
    let answer = client.model_infer(request).await.unwrap().into_inner();
    assert_eq!(answer.raw_output_contents, [binary(&["\"cat\""])]);
    let endpoint = Endpoint::try_from(format!("http://{}", server.address)).unwrap();
    let mut raw = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    for path in [
        "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
        "/other.Service/Call",
    ] {
        raw.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<ServerLiveRequest, ServerLiveResponse>::default();
        let request = Request::new(ServerLiveRequest {});
        let error = raw
            .unary(request, path.parse().unwrap(), codec)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_begin_as_http2_is_closed() {
    let config = HttpConfig {
        header_timeout: Duration::from_millis(100),
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 4, config).await;
    let address = server.address;
    for first in ["", "PRI * HT", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let closed = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(first.as_bytes()).unwrap();
            // The end, or a reset where something was left unread.
            match stream.read(&mut [0; 100]) {
                Ok(length) => length == 0,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        });
        assert!(closed.await.unwrap(), "{first:?}");
    }
    // Others are served. On a busy machine a client of ours may be as slow as those, so it may try again.
    until(async || {
        let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
        let Ok(channel) = endpoint.connect().await else {
            return false;
        };
        let answer = Client::new(channel).model_infer(texts(&["a"])).await;
        answer.is_ok()
    })
    .await;
}
