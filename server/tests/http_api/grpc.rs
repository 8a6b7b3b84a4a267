//! The Open Inference Protocol over gRPC, on real sockets.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use axum::{body::Body, response::Response};
use galley::{
    engine::Engine,
    http::{AppState, HttpConfig, grpc_router, router, serve_grpc},
};
use galley_core::InputKind::Json;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Code, transport::Endpoint};
use tower::ServiceExt;

use self::client::{
    grpc_inference_service_client::GrpcInferenceServiceClient, infer_parameter::ParameterChoice,
    model_infer_request::InferInputTensor, model_infer_request::InferRequestedOutputTensor, *,
};
use crate::support::{Controls, Reply, fake, state_of};

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
    pub(crate) state: AppState,
    pub(crate) engine: Arc<Engine>,
    pub(crate) controls: Arc<Controls>,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<std::io::Result<()>>,
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

    pub(crate) async fn json() -> (Self, Client) {
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

pub(crate) fn binary(elements: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for element in elements {
        bytes.extend((element.len() as u32).to_le_bytes());
        bytes.extend(element.as_bytes());
    }
    bytes
}

pub(crate) fn tensor(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
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

pub(crate) fn parameters(name: &str, choice: ParameterChoice) -> HashMap<String, InferParameter> {
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
        ("text", &vec![-1, 1])
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
    assert_eq!(
        (config.max_batch_size, &config.input[0].dims),
        (64, &vec![1])
    );
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
            with(&|r| r.inputs[0].shape = vec![1, 2]),
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
