//! The protocol of fastDeploy's clients: `/infer`, `/result`, `/meta`, `/health`.
//!
//! A request's way: [`query`] and content type say how to read the body, [`body`] makes it into inputs, the engine
//! answers them, [`answer`] writes the answers in the request's own encoding. Requests that bring a `unique_id` go
//! through [`jobs`], which remembers them.

mod answer;
mod body;
mod health;
mod infer;
mod items;
mod jobs;
mod meta;
mod query;
mod reader;
mod result;
mod sink;
mod store;
mod value;
mod zstd;

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    extract::{Request, State as Extract},
    http::Uri,
    response::Response,
    routing::{get, post},
};
use url::form_urlencoded;

use self::answer::Encoding;
pub(super) use self::jobs::Jobs;
use super::{AppState, error::ApiError, limits::discard, state::ServedRecipe};

pub(super) fn routes() -> Router<AppState> {
    let infer = || post(infer::infer);
    let result = || get(result::result).post(result::result);
    let at = |base: &str| {
        Router::new()
            .route(&format!("{base}/infer"), infer())
            .route(&format!("{base}/sync"), infer())
            .route(&format!("{base}/result"), result())
            .route(&format!("{base}/meta"), get(meta::meta))
            .route(&format!("{base}/health"), get(health::health))
    };
    at("").merge(at("/recipes/{name}"))
}

/// The answer where there is nothing.
pub(super) async fn unknown_path(Extract(state): Extract<AppState>, request: Request) -> Response {
    let named = recipe_in(request.uri().path());
    let unknown_recipe = named.and_then(|name| state.recipe(Some(name)).err());
    let error = unknown_recipe
        .unwrap_or_else(|| ApiError::NotFound("no such path; GET / lists them".into()));
    discard(request.into_body()).await;
    Encoding::default().error(None, &error)
}

/// The answer where there is something, but not for this method.
pub(super) async fn wrong_method(request: Request) -> Response {
    let reason = format!(
        "{} is not allowed here; GET / lists what is",
        request.method()
    );
    discard(request.into_body()).await;
    Encoding::default().error(None, &ApiError::MethodNotAllowed(reason))
}

/// The recipe that a request is for.
fn recipe_of<'a>(state: &'a AppState, uri: &Uri) -> Result<&'a Arc<ServedRecipe>, ApiError> {
    state.recipe(named_recipe(uri).as_deref())
}

/// The recipe that a request names: in its path, or as `?recipe=NAME`.
fn named_recipe(uri: &Uri) -> Option<Cow<'_, str>> {
    if let Some(name) = recipe_in(uri.path()) {
        return Some(name.into());
    }
    let mut query = form_urlencoded::parse(uri.query()?.as_bytes());
    query.find_map(|(key, value)| (key == "recipe").then_some(value))
}

/// The recipe that a path names: `/recipes/NAME/...`. (Recipes' names need no escapes.)
fn recipe_in(path: &str) -> Option<&str> {
    path.strip_prefix("/recipes/")?
        .split_once('/')
        .map(|(name, _)| name)
}
