//! The protocol of fastDeploy's clients: `/infer`, `/result`, `/meta`, `/health`.
//!
//! A request's way: [`query`] and content type say how to read the body, [`body`] makes it into inputs, the engine
//! answers them, [`answer`] writes the answers in the request's own encoding. Requests that bring a `unique_id` go
//! through [`jobs`], which remembers them, asynchronous ones through [`durable`] if there is a table for them.

mod answer;
mod body;
mod durable;
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
mod stored;
mod value;

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{Request, State as Extract},
    http::Uri,
    response::Response,
};
use percent_encoding::percent_decode_str;
use url::form_urlencoded;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::answer::Encoding;
pub(super) use self::{
    answer::{Answer, ENCODED},
    jobs::Jobs,
    meta::{Meta, describe},
};
use super::{
    AppState,
    error::ApiError,
    limits::discard,
    openapi::{Refusals, at},
    state::ServedRecipe,
};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    let of = |base: &str| {
        OpenApiRouter::new()
            .routes(at(&format!("{base}/infer"), routes!(infer::infer)))
            .routes(at(&format!("{base}/sync"), routes!(infer::infer)))
            .routes(at(
                &format!("{base}/result"),
                routes!(result::result, result::result_by_query),
            ))
            .routes(at(&format!("{base}/meta"), routes!(meta::meta)))
            .routes(at(&format!("{base}/health"), routes!(health::health)))
    };
    of("").merge(of("/recipes/{name}"))
}

/// Refusals of requests that read no body.
pub(super) struct NotFound;

impl Refusals for NotFound {
    type Body = Answer<'static>;
    const STATUSES: &'static [u16] = &[400, 404];
}

/// The answer where there is nothing.
pub(super) async fn unknown_path(Extract(state): Extract<AppState>, request: Request) -> Response {
    let named = recipe_in(request.uri().path());
    let unknown_recipe = named.and_then(|name| state.recipe(Some(&name)).err());
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

/// The answer to a request that goes no further, in the encoding that it asks for.
pub(super) fn refused(uri: &Uri, error: &ApiError) -> Response {
    let (query, _) = query::Query::parse(uri.query());
    query.encoding().error(None, error)
}

/// The recipe that a request is for.
fn recipe_of<'a>(state: &'a AppState, uri: &Uri) -> Result<&'a Arc<ServedRecipe>, ApiError> {
    state.recipe(named_recipe(uri).as_deref())
}

/// The recipe that a request names: in its path, or as `?recipe=NAME`.
fn named_recipe(uri: &Uri) -> Option<Cow<'_, str>> {
    if let Some(name) = recipe_in(uri.path()) {
        return Some(name);
    }
    let mut query = form_urlencoded::parse(uri.query()?.as_bytes());
    query.find_map(|(key, value)| (key == "recipe").then_some(value))
}

/// The recipe that a path names: `/recipes/NAME/...`. The name needs no escapes, but some clients escape more than they must.
fn recipe_in(path: &str) -> Option<Cow<'_, str>> {
    let (name, _) = path.strip_prefix("/recipes/")?.split_once('/')?;
    // What is no UTF-8 is no recipe's name either.
    Some(percent_decode_str(name).decode_utf8_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_recipe_with_or_without_escapes() {
        for (path, expected) in [
            ("/recipes/echo/infer", Some("echo")),
            ("/recipes/deepsegment%5Fen/infer", Some("deepsegment_en")),
            ("/recipes/%65%63%68%6f/meta", Some("echo")),
            ("/recipes/a%2Fb/meta", Some("a/b")),
            ("/recipes/%zz/meta", Some("%zz")),
            ("/recipes/%ff/meta", Some("\u{fffd}")),
            ("/recipes/echo", None),
            ("/infer", None),
        ] {
            assert_eq!(recipe_in(path).as_deref(), expected, "{path}");
        }
    }
}
