//! `GET /meta`: what is served, and how to talk to it.

use axum::{
    Json,
    extract::{Request, State as Extract},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use galley_core::{Input, InputKind};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{NotFound, answer::Encoding, recipe_of};
use crate::http::{AppState, openapi::Described, state::ServedRecipe};

/// What a client needs to know of a recipe
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Meta<'a> {
    name: &'a str,
    /// A list that can be posted to `/infer` as it is
    #[schema(value_type = Vec<Value>)]
    example: [Value; 1],
    /// The official client asks this, and then speaks msgpack and zstd
    is_pickle_allowed: bool,
    /// The longest and the default timeout, in seconds
    timeout: f64,
    #[schema(value_type = Kind, inline)]
    input_type: InputKind,
    weights: &'a str,
    dtype: &'a str,
    device: &'a str,
    max_batch_size: usize,
    /// The most items of a request
    max_items: usize,
    /// How long a result can be read, in seconds
    result_ttl: f64,
    version: &'static str,
}

/// What a recipe takes, as `/meta` says it
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "it describes InputKind, which knows no protocol")]
enum Kind {
    File,
    Json,
}

/// What is served, and how to talk to it
#[utoipa::path(
    get,
    path = "",
    tag = "infer",
    params(
        ("recipe" = Option<String>, Query, description = "The recipe, where the path names none and there are several"),
        ("is_pickle_allowed" = Option<String>, Query, description = "The official client asks this; it changes nothing"),
    ),
    responses((status = 200, description = "The recipe", body = Meta<'static>), Described<NotFound>)
)]
pub(super) async fn meta(Extract(state): Extract<AppState>, request: Request) -> Response {
    match recipe_of(&state, request.uri()) {
        Ok(recipe) => Json(describe(&state, recipe)).into_response(),
        Err(error) => Encoding::default().error(None, &error),
    }
}

/// A recipe as `/meta` gives it.
pub(in crate::http) fn describe<'a>(state: &AppState, recipe: &'a ServedRecipe) -> Meta<'a> {
    let info = recipe.served.info();
    Meta {
        name: info.name,
        example: [match recipe.served.example() {
            Input::Json(value) => value,
            Input::File(bytes) => Value::String(STANDARD.encode(bytes)),
            // No recipe's example is one, as they are for another protocol.
            Input::Pixels(_) => Value::Null,
        }],
        is_pickle_allowed: false,
        timeout: state.config().timeout.as_secs_f64(),
        input_type: info.input_kind,
        weights: &info.weights,
        dtype: info.dtype,
        device: &info.device,
        max_batch_size: recipe.served.max_batch_size(),
        max_items: recipe.served.max_queue_size(),
        result_ttl: state.config().result_ttl.as_secs_f64(),
        version: env!("CARGO_PKG_VERSION"),
    }
}
