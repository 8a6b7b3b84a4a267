//! The protocol over gRPC (`--grpc-port`): the same recipes, limits and metrics as over REST.
//!
//! [`meter`] bounds what all messages together may hold and how long a call may take to arrive, [`codec`] what a message
//! may become in memory, [`convert`] reads requests and writes answers, [`status`] says which error has which code.

pub(super) mod codec;
mod convert;
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
use tonic::{Status, codec::CompressionEncoding};

use self::service::Service;
use super::proto::grpc_inference_service_server::{
    GrpcInferenceServiceServer, SERVICE_NAME as NAME,
};
use crate::http::{
    AppState,
    guard::{admits, refusal},
    trace,
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

/// Every call. Larger messages than a body may be are refused before they are read.
pub(in crate::http) fn router(state: AppState) -> Router {
    let limit = usize::try_from(state.config().max_body).unwrap_or(usize::MAX);
    // Answers go back plain: they are small, and nearly every client says that it takes gzip.
    let service = GrpcInferenceServiceServer::new(Service::new(state.clone()))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(limit);
    let router = Router::new()
        .route_service(&format!("/{NAME}/{{method}}"), service)
        .layer(from_fn_with_state(state.clone(), meter::meter))
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

/// Lets through calls that bring an API key in their metadata. None is open: probes have their paths over HTTP.
async fn guard(Extract(state): Extract<AppState>, request: Request, next: Next) -> Response {
    let keys = state.config().access.keys.as_ref();
    if keys.is_none_or(|keys| admits(keys, request.headers()).is_some()) {
        return next.run(request).await;
    }
    state.registry().unauthorized().increment(1);
    status::of(&refusal(request.headers()))
        .into_http::<Body>()
        .into_response()
}

async fn unknown_service() -> Response {
    Status::unimplemented(format!("no such service; there is {NAME}"))
        .into_http::<Body>()
        .into_response()
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
