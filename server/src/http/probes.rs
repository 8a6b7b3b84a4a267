//! What operators and their machines ask for: liveness, readiness, metrics; and for humans, what there is.

use std::fmt::Write as _;

use axum::{
    Json, Router,
    extract::State as Extract,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use galley_core::InputKind;
use serde_json::json;

use super::{AppState, state::ServedRecipe};
use crate::engine::State;

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/", get(index))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/prometheus_metrics", get(metrics))
        .route("/recipes/{name}/prometheus_metrics", get(metrics))
}

async fn ready(Extract(state): Extract<AppState>) -> Response {
    let (status, text) = match state.engine_state() {
        State::Ready => (StatusCode::OK, "ready"),
        State::WarmingUp => (StatusCode::SERVICE_UNAVAILABLE, "warming up"),
        State::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        State::Failed(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the device is out of service",
        ),
    };
    (status, Json(json!({ "status": text }))).into_response()
}

async fn metrics(Extract(state): Extract<AppState>) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        state.registry().render(),
    )
        .into_response()
}

async fn index(Extract(state): Extract<AppState>) -> Response {
    let mut text = format!("Galley {}\n", env!("CARGO_PKG_VERSION"));
    for recipe in state.recipes() {
        // Writing to a string cannot fail.
        let _ = describe(&mut text, recipe, state.recipes().len() == 1);
    }
    text.push_str("\nfor operators: /livez /readyz /health /metrics\n");
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

fn describe(text: &mut String, recipe: &ServedRecipe, is_only: bool) -> std::fmt::Result {
    let info = recipe.served.info();
    let base = if is_only {
        String::new()
    } else {
        format!("/recipes/{}", info.name)
    };
    writeln!(
        text,
        "\n{} ({}, {} on {})",
        info.name, info.weights, info.dtype, info.device
    )?;
    match info.input_kind {
        InputKind::File => writeln!(text, "  curl -F file=@FILE 'http://HOST:PORT{base}/infer'")?,
        InputKind::Json => writeln!(
            text,
            "  curl -d '[{}]' 'http://HOST:PORT{base}/infer'",
            example(recipe)
        )?,
    }
    writeln!(
        text,
        "  POST {base}/infer[?async=true]  POST {base}/result  GET {base}/meta  GET {base}/health"
    )
}

fn example(recipe: &ServedRecipe) -> String {
    match recipe.served.example() {
        // Quoted for a shell, where a single quote would end the argument.
        galley_core::Input::Json(value) => value.to_string().replace('\'', "'\\''"),
        galley_core::Input::File(_) => String::new(),
    }
}
