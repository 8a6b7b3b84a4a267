//! `POST /infer`.

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Request, State as Extract},
    http::request::Parts,
    response::Response,
};
use serde::Serialize;
use tokio::time::timeout_at;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    answer::{Accepted, Answer, ENCODED},
    body::{Arrived, Read},
    items::{Items, merge},
    query::Query,
    recipe_in,
    store::Key,
    stored::Stored,
};
use crate::{
    engine::{Answers, InferError},
    http::{
        AppState,
        error::ApiError,
        limits::{give_up, read_body},
        openapi::{Described, Refusals},
        state::{Call, ServedRecipe},
    },
    metrics::{Outcome, Protocol},
};

/// Parts of a form, whatever their names
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "it describes what is read without it, part by part"
)]
struct Files {
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
}

/// What a request is answered with in JSON
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it describes what is written as one or the other")]
enum Replied {
    Answer(Answer<'static>),
    Accepted(Accepted<'static>),
}

/// What a request is answered with.
enum Reply {
    Answers(Answers),
    /// Those of a job, which others may get too.
    Shared(Arc<Stored>),
    /// A job has begun; its result will be asked for.
    Accepted,
}

/// What it may be refused with.
pub(super) struct InferRefusals;

impl Refusals for InferRefusals {
    type Body = Answer<'static>;
    const STATUSES: &'static [u16] = &[400, 404, 408, 409, 413, 415, 429, 500, 503, 504];
    const ENCODED: &'static [&'static str] = ENCODED;
}

/// The inputs of a request in JSON
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(
    dead_code,
    reason = "it describes what is read without it, value by value"
)]
enum Inputs {
    /// One after the other; files in base64
    #[schema(title = "List")]
    List(Vec<serde_json::Value>),
    #[schema(title = "Data")]
    Data { data: Vec<serde_json::Value> },
}

/// Answers inputs, in their order
///
/// Inputs come as a list in JSON or msgpack, as the parts of a form, or as one file. An input that cannot be read has its
/// error in its place, and the others are answered.
#[utoipa::path(
    post,
    path = "",
    tag = "infer",
    params(Query),
    request_body(content(
        (Inputs = "application/json"),
        (Files = "multipart/form-data"),
        ("application/msgpack"),
        ("application/octet-stream"),
        ("image/*"),
    )),
    responses(
        (status = 200, description = "Answered; an asynchronous request: accepted", content(
            (Replied = "application/json"),
            ("application/msgpack"),
            ("application/octet-stream"),
        )),
        Described<InferRefusals>,
    )
)]
pub(super) async fn infer(Extract(state): Extract<AppState>, request: Request) -> Response {
    let start = Instant::now();
    let (parts, mut body) = request.into_parts();
    let (query, valid) = Query::parse(parts.uri.query());
    let encoding = query.encoding();
    let unique_id = query.unique_id.as_deref().map_or_else(new_id, Arc::from);
    let named = recipe_in(parts.uri.path());
    let recipe = match state.recipe(named.as_deref().or(query.recipe.as_deref())) {
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
        Ok(Reply::Shared(stored)) => encoding.stored(&unique_id, &stored),
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
            self.recipe.served.has_room(self.deadline)?;
        }
        let read = async {
            let mut share = self.state.budget().share();
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
            let left = self.deadline.saturating_duration_since(Instant::now());
            self.state.jobs().accept(key, work, left, call).await?;
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

fn new_id() -> Arc<str> {
    let mut buffer = Uuid::encode_buffer();
    Arc::from(&*Uuid::new_v4().hyphenated().encode_lower(&mut buffer))
}
