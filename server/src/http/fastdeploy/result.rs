//! `/result`: what became of a request with a `unique_id`.

use axum::{
    extract::{Request, State as Extract},
    http::{Method, Uri},
    response::Response,
};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::{
    answer::{Answer, ENCODED, Format},
    query::{self, Query},
    recipe_in,
    store::Key,
};
use crate::{
    engine::InferError,
    http::{
        AppState,
        encoding::Encoding,
        error::ApiError,
        json,
        limits::read_body,
        openapi::{Described, Refusals},
        zstd,
    },
};

/// Nobody's ids are longer, by far.
const MAX_BODY: u64 = 64 << 10;

#[derive(Deserialize, ToSchema)]
#[schema(as = WantedResult)]
struct Wanted {
    #[schema(max_length = 128)]
    unique_id: String,
}

/// What it may be refused with: as the request itself, if that is how it ended.
pub(super) struct ResultRefusals;

impl Refusals for ResultRefusals {
    type Body = Answer<'static>;
    const STATUSES: &'static [u16] = &[400, 404, 408, 413, 415, 429, 500, 503, 504];
    const ENCODED: &'static [&'static str] = ENCODED;
}

/// What became of a request with a unique_id, by its query
#[utoipa::path(
    get,
    path = "",
    tag = "infer",
    params(Query),
    responses(
        (status = 200, description = "Its answer, or success null while it runs", content(
            (Answer = "application/json"),
            ("application/msgpack"),
            ("application/octet-stream"),
        )),
        Described<ResultRefusals>,
    )
)]
pub(super) async fn result_by_query(state: Extract<AppState>, request: Request) -> Response {
    result(state, request).await
}

/// What became of a request with a unique_id
#[utoipa::path(
    post,
    path = "",
    tag = "infer",
    params(Query),
    request_body(content((Wanted = "application/json"), ("application/msgpack"))),
    responses(
        (status = 200, description = "Its answer, or success null while it runs", content(
            (Answer = "application/json"),
            ("application/msgpack"),
            ("application/octet-stream"),
        )),
        Described<ResultRefusals>,
    )
)]
pub(super) async fn result(Extract(state): Extract<AppState>, request: Request) -> Response {
    let (query, valid) = Query::parse(request.uri().query());
    let encoding = query.encoding();
    let uri = request.uri().clone();
    let id = match valid {
        Ok(()) => wanted(&state, &query, request).await,
        Err(error) => Err(error),
    };
    let id = match id {
        Ok(id) => id,
        Err(error) => return encoding.error(None, &error),
    };
    match look_up(&state, &query, &uri, &id).await {
        Ok(Some(Ok(stored))) => encoding.stored(&id, &stored).0,
        Ok(None) => encoding.processing(&id),
        Ok(Some(Err(error))) | Err(error) => encoding.error(Some(&id), &error),
    }
}

/// How the request ended, if it has.
async fn look_up(
    state: &AppState,
    query: &Query,
    uri: &Uri,
    id: &str,
) -> Result<Option<super::store::Finished>, ApiError> {
    let named = recipe_in(uri.path());
    let recipe = state.recipe(named.as_deref().or(query.recipe.as_deref()))?;
    let key = Key {
        recipe: recipe.name(),
        id: id.into(),
    };
    let unknown = || ApiError::NotFound("unknown unique_id, or its result has expired".into());
    state.jobs().find(&key).await?.ok_or_else(unknown)
}

/// The id asked for: in the query or, by POST, in the body.
async fn wanted(state: &AppState, query: &Query, request: Request) -> Result<String, ApiError> {
    if let Some(id) = &query.unique_id {
        return Ok(id.clone());
    }
    let expected =
        || ApiError::malformed("expected {\"unique_id\": \"...\"} as the body, or ?unique_id=");
    if request.method() != Method::POST {
        return Err(expected());
    }
    let encoding = Encoding::of_body(request.headers())?;
    let mut share = state.budget().share();
    let limit = state.config().max_body.min(MAX_BODY);
    let mut body = request.into_body();
    let bytes = timeout(
        state.config().timeout,
        read_body(&mut body, limit, &mut share),
    );
    let mut bytes = bytes
        .await
        .unwrap_or_else(|_| Err(InferError::Deadline.into()))?;
    if let Some(encoding) = encoding {
        bytes = encoding.decompress(&bytes, limit)?;
    }
    if query.compressed {
        bytes = zstd::decompress(&bytes, limit)?;
    }
    let wanted: Option<Wanted> = match query.input_type.unwrap_or_default() {
        Format::Json => json::read(&bytes).ok(),
        Format::Msgpack => {
            let mut rest = &bytes[..];
            let wanted = rmp_serde::from_read(&mut rest).ok();
            wanted.filter(|_| rest.is_empty())
        }
    };
    query::id(wanted.ok_or_else(expected)?.unique_id.into())?.ok_or_else(expected)
}
