//! Services beside the protocol's own: health and reflection; and calls that are none.

use futures::StreamExt;
use galley::{access::Access, http::HttpConfig};
use galley_core::InputKind::{File, Json};
use prost::Message;
use prost_types::FileDescriptorProto;
use tonic::{Code, Request, Streaming, transport::Channel, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::{
    access::{KEY, keys},
    grpc::{
        Server, binary,
        client::{ModelInferRequest, ServerLiveRequest, ServerLiveResponse},
        tensor, texts,
    },
    support::{NEVER, within},
};

const OWN: &str = "inference.GRPCInferenceService";

async fn connect(server: &Server) -> Channel {
    let endpoint = Endpoint::try_from(format!("http://{}", server.address)).unwrap();
    endpoint.connect().await.unwrap()
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

async fn next(watched: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let answer = within(watched.next()).await.unwrap()?;
    Some(answer.unwrap().status())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_readiness() {
    let (server, _) = Server::json().await;
    let mut client = HealthClient::new(connect(&server).await);
    for service in ["", OWN] {
        let answer = client.check(of(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    for refused in [
        client.check(of("other")).await.map(|_| ()),
        client.watch(of("other")).await.map(|_| ()),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.message().contains(OWN), "{error}");
    }
    // As soon as the end is announced, though requests are still taken.
    server.state.leave();
    let answer = client.check(of("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_is_told_and_keeps_no_server_from_ending() {
    let config = HttpConfig {
        header_timeout: NEVER,
        ..HttpConfig::default()
    };
    let mut server = Server::start(Json, 64, config).await;
    let mut client = HealthClient::new(connect(&server).await);
    let mut watched = client.watch(of(OWN)).await.unwrap().into_inner();
    assert_eq!(next(&mut watched).await, Some(ServingStatus::Serving));
    server.state.leave();
    assert_eq!(next(&mut watched).await, Some(ServingStatus::NotServing));
    let mut late = client.watch(of("")).await.unwrap().into_inner();
    assert_eq!(next(&mut late).await, Some(ServingStatus::NotServing));
    // Neither they nor an open question about services hold up a drain.
    let mut reflection =
        v1::server_reflection_client::ServerReflectionClient::new(connect(&server).await);
    let open = futures::stream::pending();
    let mut answers = reflection
        .server_reflection_info(open)
        .await
        .unwrap()
        .into_inner();
    server.engine.drain();
    server.stop.take().unwrap().send(()).unwrap();
    assert_eq!(next(&mut watched).await, None);
    assert_eq!(next(&mut late).await, None);
    assert!(within(answers.next()).await.unwrap().is_none());
    within(server.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_need_no_key_and_reflection_does() {
    let config = HttpConfig {
        access: Access {
            keys: Some(keys()),
            tls: None,
        },
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 4, config).await;
    let channel = connect(&server).await;
    let mut client = HealthClient::new(channel.clone());
    let answer = client.check(of("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    assert!(client.watch(of("")).await.is_ok());
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let ask = || futures::stream::iter([list()]);
    let refused = client.server_reflection_info(ask()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut request = Request::new(ask());
    request
        .metadata_mut()
        .insert("x-api-key", KEY.parse().unwrap());
    assert!(client.server_reflection_info(request).await.is_ok());
}

fn list() -> v1::ServerReflectionRequest {
    v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_describe_themselves() {
    use v1::{
        server_reflection_request::MessageRequest::FileContainingSymbol,
        server_reflection_response::MessageResponse::{
            FileDescriptorResponse, ListServicesResponse,
        },
    };
    let (server, _) = Server::json().await;
    let channel = connect(&server).await;
    let symbol = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(FileContainingSymbol(format!("{OWN}.ModelInfer"))),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let questions = futures::stream::iter([list(), symbol]);
    let answers = client.server_reflection_info(questions).await.unwrap();
    let answers: Vec<_> = answers.into_inner().collect().await;
    let mut answers = answers
        .into_iter()
        .map(|answer| answer.unwrap().message_response.unwrap());
    let Some(ListServicesResponse(services)) = answers.next() else {
        panic!("expected a list of services");
    };
    let names: Vec<_> = services.service.iter().map(|s| s.name.as_str()).collect();
    for name in [OWN, "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let Some(FileDescriptorResponse(files)) = answers.next() else {
        panic!("expected a description of the service");
    };
    let file = FileDescriptorProto::decode(&*files.file_descriptor_proto[0]).unwrap();
    let calls = &file.service[0].method;
    assert!(calls.iter().any(|call| call.name() == "ModelStreamInfer"));

    let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let answers = older
        .server_reflection_info(futures::stream::iter([question]))
        .await;
    let answers: Vec<_> = answers.unwrap().into_inner().collect().await;
    assert_eq!(answers.len(), 1);
    assert!(answers[0].is_ok());
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
    for (path, words) in [
        (
            "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
            "shares no memory",
        ),
        (
            "/inference.GRPCInferenceService/CudaSharedMemoryRegister",
            "shares no memory",
        ),
        (
            "/inference.GRPCInferenceService/RepositoryModelLoad",
            "--recipes",
        ),
        ("/inference.GRPCInferenceService/Nonsense", "ModelInfer"),
        ("/other.Service/Call", "inference.GRPCInferenceService"),
    ] {
        raw.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<ServerLiveRequest, ServerLiveResponse>::default();
        let request = Request::new(ServerLiveRequest {});
        let error = raw
            .unary(request, path.parse().unwrap(), codec)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented, "{path}");
        assert!(error.message().contains(words), "{path}: {error}");
    }
}
