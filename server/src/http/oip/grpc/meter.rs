//! What a call may hold of the memory for bodies, and how long it may take to arrive.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State as Extract},
    middleware::Next,
    response::Response,
};
use futures::StreamExt;
use tonic::Status;

use super::{STREAM, known_call, refuse, status, timeout, unknown_call};
use crate::{
    engine::InferError,
    http::{AppState, error::ApiError, limits::Share},
};

/// What a call with one request is given beyond its time: the engine knows best how a request that it has ends.
const GRACE: Duration = Duration::from_millis(250);
/// Bytes before each message.
const HEADER: usize = 5;

/// What a call has received and not yet handed to a request.
#[derive(Clone, Debug)]
pub(super) struct Meter(Arc<Mutex<Share>>);

impl Meter {
    /// The share of a message of that size, which has arrived. A compressed one has become larger.
    pub(super) fn take(&self, message: usize) -> Result<Share, ApiError> {
        self.lock().split(message + HEADER)
    }

    fn grow(&self, bytes: usize) -> Result<(), ApiError> {
        self.lock().grow(bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Share> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a call's bytes as they arrive, and ends one that does not.
pub(super) async fn meter(
    Extract(state): Extract<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let max = match timeout::of(request.headers(), state.config().timeout) {
        Ok(max) => max,
        Err(reason) => return refuse(Status::invalid_argument(reason)),
    };
    let is_stream = match known_call(request.uri().path()) {
        Some(call) => call == STREAM,
        None => return refuse(unknown_call(request.uri().path())),
    };
    let meter = Meter(Arc::new(Mutex::new(state.bodies().share())));
    request.extensions_mut().insert(meter.clone());
    let request = request.map(|body| {
        let data = body.into_data_stream();
        Body::from_stream(data.map(move |data| {
            let data = data.map_err(|error| Status::unknown(error.to_string()))?;
            meter.grow(data.len()).map_err(|error| status::of(&error))?;
            Ok::<_, Status>(data)
        }))
    });
    let answer = next.run(request);
    if is_stream {
        return answer.await;
    }
    let late = |_| refuse(status::of(&InferError::Deadline.into()));
    let answered = tokio::time::timeout(max + GRACE, answer).await;
    answered.unwrap_or_else(late)
}
