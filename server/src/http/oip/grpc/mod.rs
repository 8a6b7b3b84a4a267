//! The protocol over gRPC (`--grpc-port`): the same recipes, limits and metrics as over REST.
//!
//! [`meter`] bounds what all messages together may hold and how long a call may take to arrive, [`codec`] what a message
//! may become in memory, [`convert`] reads requests and writes answers, [`status`] says which error has which code. Beside the
//! protocol's own service there are [`health`] and reflection, as tools for gRPC expect them of any server.

pub(super) mod codec;
mod convert;
mod health;
mod meter;
mod service;
mod status;
mod timeout;

use axum::{
    Router,
    body::Body,
    extract::{Request, State as Extract},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use tonic::{Status, codec::CompressionEncoding};
use tonic_health::pb::health_server::HealthServer;

use self::{health::HealthService, service::Service};
use super::{
    extensions,
    proto::grpc_inference_service_server::{GrpcInferenceServiceServer, SERVICE_NAME as NAME},
};
use crate::{
    engine::InferError,
    http::{
        AppState,
        guard::{admits, refusal},
        trace,
    },
};

/// The calls of the service, as they are named in its paths.
const CALLS: [&str; 10] = [
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    STREAM,
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
];
/// The one that has no end of its own.
pub(in crate::http) const STREAM: &str = "ModelStreamInfer";

/// The call that a path names, if it is one of the service.
pub(in crate::http) fn known_call(path: &str) -> Option<&'static str> {
    let name = path.strip_prefix('/')?.strip_prefix(NAME)?;
    let name = name.strip_prefix('/')?;
    CALLS.into_iter().find(|known| *known == name)
}

/// Whether a path is that of a probe, which needs no key and leaves no trace.
pub(in crate::http) fn is_probe(path: &str) -> bool {
    health::is_here(path)
}

/// Messages of the services beside the protocol's own hold a name or two.
const MAX_ASIDE: usize = 4 << 10;
/// What the services are, as clients that ask for it get it.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Every call. Larger messages than a body may be are refused before they are read.
pub(in crate::http) fn router(state: AppState) -> Router {
    let limit = usize::try_from(state.config().max_body).unwrap_or(usize::MAX);
    // Answers go back plain: they are small, and nearly every client says that it takes gzip.
    let service = GrpcInferenceServiceServer::new(Service::new(state.clone()))
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(limit);
    let router = Router::new()
        .route_service(&format!("/{NAME}/{{method}}"), service)
        .layer(from_fn_with_state(state.clone(), meter::meter))
        .merge(asides(&state))
        .fallback(unknown_service);
    let router = match state.config().access.keys {
        Some(_) => router.layer(from_fn_with_state(state.clone(), guard)),
        None => router,
    };
    match &state.config().traces {
        Some(traces) => router.layer(from_fn_with_state(traces.clone(), trace::call)),
        None => router,
    }
}

/// Health and reflection.
fn asides(state: &AppState) -> Router {
    const VALID: &str = "descriptors that were compiled are valid";
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let health = HealthServer::new(HealthService::new(state.clone()));
    let (v1, v1alpha) = (reflection().build_v1(), reflection().build_v1alpha());
    Router::new()
        .route_service(
            "/grpc.health.v1.Health/{method}",
            health.max_decoding_message_size(MAX_ASIDE),
        )
        .route_service(
            "/grpc.reflection.v1.ServerReflection/{method}",
            v1.expect(VALID).max_decoding_message_size(MAX_ASIDE),
        )
        .route_service(
            "/grpc.reflection.v1alpha.ServerReflection/{method}",
            v1alpha.expect(VALID).max_decoding_message_size(MAX_ASIDE),
        )
        .layer(from_fn_with_state(state.clone(), aside))
}

/// Bounds the time of a call that no meter is needed for. One that asks on and on is asked no more when the server is to end.
async fn aside(Extract(state): Extract<AppState>, request: Request, next: Next) -> Response {
    let limit = state.config().timeout;
    let request = match is_probe(request.uri().path()) {
        true => request,
        false => request.map(|body| {
            let data = body.into_data_stream();
            Body::from_stream(data.take_until(state.until_draining()))
        }),
    };
    let answer = tokio::time::timeout(limit, next.run(request)).await;
    answer.unwrap_or_else(|_| refuse(status::of(&InferError::Deadline.into())))
}

/// Lets through probes, and calls that bring an API key in their metadata.
async fn guard(Extract(state): Extract<AppState>, request: Request, next: Next) -> Response {
    let keys = state.config().access.keys.as_ref();
    let is_open = is_probe(request.uri().path());
    if is_open || keys.is_none_or(|keys| admits(keys, request.headers()).is_some()) {
        return next.run(request).await;
    }
    state.registry().unauthorized().increment(1);
    refuse(status::of(&refusal(request.headers())))
}

/// A call of the protocol's service that is none.
fn unknown_call(path: &str) -> Status {
    let name = path.rsplit('/').next().unwrap_or_default();
    match extensions::absent_call(name) {
        Some(words) => Status::unimplemented(words),
        None => Status::unimplemented(format!("no such call; there is {}", CALLS.join(", "))),
    }
}

/// The answer to a call that goes no further.
pub(in crate::http) fn refused(error: &crate::http::error::ApiError) -> Response {
    status::of(error).into_http::<Body>().into_response()
}

async fn unknown_service() -> Response {
    refuse(Status::unimplemented(format!(
        "no such service; there is {NAME}, and health and reflection"
    )))
}

fn refuse(status: Status) -> Response {
    status.into_http::<Body>().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_those_of_the_service() {
        let service = include_str!("../../../../proto/grpc_service.proto");
        let calls: Vec<_> = service
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next())
            .collect();
        assert_eq!(calls, CALLS);
        for call in CALLS {
            assert_eq!(known_call(&format!("/{NAME}/{call}")), Some(call));
        }
        for path in ["", "/", "/inference.Other/ModelInfer", "/x/ModelInfer"] {
            assert_eq!(known_call(path), None, "{path}");
        }
        assert_eq!(known_call(&format!("/{NAME}/ModelInfer/")), None);
    }
}
