//! What operators and their machines ask for: liveness, readiness, metrics; and in plain text, what there is.

use std::fmt::Write as _;

use axum::{
    Json,
    extract::State as Extract,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use galley_core::InputKind;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{AppState, openapi::at, state::ServedRecipe};
use crate::engine::State;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    let metrics_at = |path| at(path, routes!(metrics));
    OpenApiRouter::new()
        .routes(at("/livez", routes!(live)))
        .routes(at("/readyz", routes!(ready)))
        .routes(metrics_at("/metrics"))
        .routes(metrics_at("/prometheus_metrics"))
        .routes(metrics_at("/recipes/{name}/prometheus_metrics"))
}

/// Whether a path is asked by machines that look after the server. They are answered where nobody else is: when as many
/// connections are open as may be.
pub(super) fn is_probe(path: &str) -> bool {
    const PREFIXES: [&str; 2] = ["/v2/health/", "/grpc.health.v1.Health/"];
    const SUFFIXES: [&str; 3] = ["/livez", "/readyz", "/health"];
    PREFIXES.iter().any(|prefix| path.starts_with(prefix))
        || SUFFIXES.iter().any(|suffix| path.ends_with(suffix))
        || path.ends_with("metrics")
}

/// Whether the server runs
#[utoipa::path(get, path = "", tag = "operators", responses(
    (status = 200, description = "It does", body = String, content_type = "text/plain; charset=utf-8")
))]
async fn live() -> &'static str {
    "ok\n"
}

#[derive(Serialize, ToSchema)]
struct Readiness {
    status: &'static str,
}

/// Whether requests are taken: not while warming up, and not from the moment that the end is announced
#[utoipa::path(get, path = "", tag = "operators", responses(
    (status = 200, description = "They are", body = Readiness),
    (status = 503, description = "They are not", body = Readiness),
))]
async fn ready(Extract(state): Extract<AppState>) -> Response {
    let (status, text) = match state.engine_state() {
        State::Ready if state.is_leaving() => (StatusCode::SERVICE_UNAVAILABLE, "leaving"),
        State::Ready => (StatusCode::OK, "ready"),
        State::WarmingUp => (StatusCode::SERVICE_UNAVAILABLE, "warming up"),
        State::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        State::Failed(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the device is out of service",
        ),
    };
    (status, Json(Readiness { status: text })).into_response()
}

/// All metrics, as Prometheus reads them
#[utoipa::path(get, path = "", tag = "operators", responses(
    (status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain; version=0.0.4")
))]
async fn metrics(Extract(state): Extract<AppState>) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        state.registry().render(),
    )
        .into_response()
}

/// What is served and how to ask it, for a terminal; to a stranger only that there is something.
pub(super) fn index(state: &AppState, is_stranger: bool) -> Response {
    let mut text = format!("Galley {}\n", env!("CARGO_PKG_VERSION"));
    let shown = match is_stranger {
        false => state.recipes(),
        true => {
            text.push_str("\nwhat is served, callers with an API key see here\n");
            &[]
        }
    };
    for recipe in shown {
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
        galley_core::Input::File(_) | galley_core::Input::Pixels(_) => String::new(),
    }
}
