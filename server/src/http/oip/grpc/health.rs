//! `grpc.health.v1`: what `/readyz` says, for load balancers and probes that speak gRPC.

use futures::{StreamExt, stream, stream::BoxStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, SERVICE_NAME},
};

use super::NAME;
use crate::http::AppState;

/// Its calls, which need no key, as probes do not over HTTP.
const OPEN: [&str; 2] = ["Check", "Watch"];

/// Whether a path is one of its calls.
pub(super) fn is_here(path: &str) -> bool {
    let call = path
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(SERVICE_NAME))
        .and_then(|path| path.strip_prefix('/'));
    call.is_some_and(|call| OPEN.contains(&call))
}

/// The service on one server's state.
#[derive(Clone, Debug)]
pub(super) struct HealthService {
    state: AppState,
}

impl HealthService {
    pub(super) fn new(state: AppState) -> Self {
        Self { state }
    }
}

/// The whole server goes by no name; what serves requests, by its own.
fn check_name(request: &HealthCheckRequest) -> Result<(), Status> {
    match request.service.as_str() {
        "" | NAME | SERVICE_NAME => Ok(()),
        _ => Err(Status::not_found(format!(
            "no such service; there is {NAME}"
        ))),
    }
}

fn answer(is_ready: bool) -> HealthCheckResponse {
    let status = match is_ready {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        check_name(request.get_ref())?;
        Ok(Response::new(answer(self.state.is_ready())))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        check_name(request.get_ref())?;
        let state = self.state.clone();
        let begin = (state.watch_engine(), state.watch_leaving(), None);
        let answers = stream::unfold(begin, move |(mut engine, mut leaving, last)| {
            let state = state.clone();
            async move {
                loop {
                    // Before it is looked at, so that no change is missed.
                    engine.mark_unchanged();
                    leaving.mark_unchanged();
                    let is_ready = state.is_ready();
                    if last != Some(is_ready) {
                        return Some((Ok(answer(is_ready)), (engine, leaving, Some(is_ready))));
                    }
                    // Who still watches then has been told, and would keep the connection open.
                    if state.is_draining() {
                        return None;
                    }
                    tokio::select! {
                        changed = engine.changed() => changed.ok()?,
                        changed = leaving.changed() => changed.ok()?,
                    }
                }
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_calls_are_known() {
        assert!(is_here("/grpc.health.v1.Health/Check"));
        assert!(is_here("/grpc.health.v1.Health/Watch"));
        for path in [
            "/grpc.health.v1.Health",
            "/grpc.health.v1.Health/",
            "/grpc.health.v1.Health/List",
            "//grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Check/",
            "/inference.GRPCInferenceService/Check",
        ] {
            assert!(!is_here(path), "{path}");
        }
    }
}
