//! `POST /infer`.

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Request, State as Extract},
    http::{header, request::Parts},
    response::Response,
};
use tokio::time::timeout_at;
use uuid::Uuid;

use super::{
    body::{Arrived, Read},
    items::{Items, merge},
    query::Query,
    recipe_in,
    store::Key,
};
use crate::{
    engine::{Answers, InferError},
    http::{
        AppState,
        error::ApiError,
        limits::{discard, read_body},
        state::{Call, ServedRecipe},
    },
    metrics::{Outcome, Protocol},
};

/// What a request is answered with.
enum Reply {
    Answers(Answers),
    /// Those of a job, which others may get too.
    Shared(Arc<Answers>),
    /// A job has begun; its result will be asked for.
    Accepted,
}

pub(super) async fn infer(Extract(state): Extract<AppState>, request: Request) -> Response {
    let start = Instant::now();
    let (parts, mut body) = request.into_parts();
    let (query, valid) = Query::parse(parts.uri.query());
    let encoding = query.encoding();
    let unique_id = query.unique_id.as_deref().map_or_else(new_id, Arc::from);
    let recipe = match state.recipe(recipe_in(parts.uri.path()).or(query.recipe.as_deref())) {
        Ok(recipe) => recipe,
        Err(error) => {
            give_up(&parts, body).await;
            return encoding.error(Some(&unique_id), &error);
        }
    };
    let mut call = Some(Call::begin(recipe, Protocol::FastDeploy, start));
    let request = Pending {
        state: &state,
        recipe,
        query: &query,
        unique_id: &unique_id,
        deadline: start + query.timeout(state.config().timeout),
    };
    let read = match valid {
        Ok(()) => request.read(&parts, &mut body).await,
        Err(error) => Err(error),
    };
    let reply = match read {
        Ok(read) => request.reply(read, &mut call).await,
        Err(error) => {
            give_up(&parts, body).await;
            Err(error)
        }
    };
    let (response, outcome) = match reply {
        Ok(Reply::Answers(answers)) => encoding.answers(&unique_id, &answers),
        Ok(Reply::Shared(answers)) => encoding.answers(&unique_id, &answers),
        Ok(Reply::Accepted) => (encoding.accepted(&unique_id), Outcome::Ok),
        Err(error) => (encoding.error(Some(&unique_id), &error), error.outcome()),
    };
    // Without a call its job counts itself when it ends.
    if let Some(call) = call {
        call.end(outcome);
    }
    response
}

/// A request whose query has been read.
struct Pending<'a> {
    state: &'a AppState,
    recipe: &'a Arc<ServedRecipe>,
    query: &'a Query,
    unique_id: &'a Arc<str>,
    deadline: Instant,
}

impl Pending<'_> {
    async fn read(&self, parts: &Parts, body: &mut Body) -> Result<Read, ApiError> {
        if !self.is_job() {
            // Under overload most requests end here, before anything is spent on their bodies. A job may be known already.
            self.recipe.served.has_room()?;
        }
        let read = async {
            let mut share = self.state.bodies().share();
            let config = self.state.config();
            let bytes = read_body(body, config.max_body, &mut share).await?;
            let takes = (
                self.recipe.served.info().input_kind,
                self.recipe.served.max_queue_size(),
            );
            Arrived::new((bytes, share), self.query, &parts.headers, takes, config)?
                .read()
                .await
        };
        timeout_at(self.deadline.into(), read)
            .await
            .unwrap_or_else(|_| Err(InferError::Deadline.into()))
    }

    /// Whether others may ask for the result, by an id of the client's.
    fn is_job(&self) -> bool {
        self.query.is_async || self.query.unique_id.is_some()
    }

    async fn reply(&self, read: Read, call: &mut Option<Call>) -> Result<Reply, ApiError> {
        if !self.is_job() {
            let _share = read.share;
            return answer_items(Arc::clone(self.recipe), read.items, self.deadline)
                .await
                .map(Reply::Answers);
        }
        let key = Key {
            recipe: self.recipe.name(),
            id: Arc::clone(self.unique_id),
        };
        let work = (Arc::clone(self.recipe), read);
        if self.query.is_async {
            self.state.jobs().submit(key, work, self.deadline, call)?;
            return Ok(Reply::Accepted);
        }
        let job = self
            .state
            .jobs()
            .submit(key, work, self.deadline, &mut None)?;
        job.wait(self.deadline).await.map(Reply::Shared)
    }
}

/// Answers items, in their order.
pub(super) async fn answer_items(
    recipe: Arc<ServedRecipe>,
    items: Items,
    deadline: Instant,
) -> Result<Answers, ApiError> {
    let answers = recipe.served.infer(items.inputs, deadline).await?;
    Ok(merge(answers, items.refused))
}

/// Reads on what nobody wants. A client that asks before it sends has not sent, and need not.
async fn give_up(parts: &Parts, body: Body) {
    if !parts.headers.contains_key(header::EXPECT) {
        discard(body).await;
    }
}

fn new_id() -> Arc<str> {
    let mut buffer = Uuid::encode_buffer();
    Arc::from(&*Uuid::new_v4().hyphenated().encode_lower(&mut buffer))
}
