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
use bytes::Bytes;
use futures::{StreamExt, stream::unfold};
use tonic::Status;

use super::{STREAM, known_call, refuse, status, timeout, unknown_call};
use crate::{
    engine::InferError,
    http::{AppState, budget::Share, error::ApiError},
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

    /// Counts what has come of the body, if that was not its end.
    fn count(&self, data: Option<Result<Bytes, axum::Error>>) -> Result<Option<Bytes>, Status> {
        let data = data.transpose();
        let data = data.map_err(|error| Status::unknown(error.to_string()))?;
        let counted = match &data {
            Some(data) => self.lock().grow(data.len()),
            None => self.lock().arrived(),
        };
        counted.map_err(|error| status::of(&error))?;
        Ok(data)
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
    let mut share = state.budget().share();
    share.arrives();
    let gives_way = Box::pin(share.gives_way());
    let meter = Meter(Arc::new(Mutex::new(share)));
    request.extensions_mut().insert(meter.clone());
    let request = request.map(|body| {
        let arriving = (body.into_data_stream(), gives_way, meter);
        Body::from_stream(unfold(
            arriving,
            async |(mut data, mut gives_way, meter)| {
                let metered = tokio::select! {
                    data = data.next() => meter.count(data).transpose()?,
                    slow = &mut gives_way => Err(status::of(&slow)),
                };
                Some((metered, (data, gives_way, meter)))
            },
        ))
    });
    let answer = next.run(request);
    if is_stream {
        return answer.await;
    }
    let late = |_| refuse(status::of(&InferError::Deadline.into()));
    let answered = tokio::time::timeout(max + GRACE, answer).await;
    answered.unwrap_or_else(late)
}
