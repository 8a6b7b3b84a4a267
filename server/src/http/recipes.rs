//! `GET /recipes`: every served recipe, with what a stranger may try on it. The web page begins here.

use axum::{
    Json,
    extract::State as Extract,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AppState,
    fastdeploy::{Meta, describe},
    openapi::at,
    state::ServedRecipe,
};

#[derive(Serialize, ToSchema)]
struct Listing<'a> {
    recipes: Vec<Listed<'a>>,
}

#[derive(Serialize, ToSchema)]
struct Listed<'a> {
    #[serde(flatten)]
    meta: Meta<'a>,
    /// What goes in and what comes out; null where the catalog does not know the recipe
    #[schema(required)]
    summary: Option<&'static str>,
    /// Texts to try beside the example
    samples: &'static [&'static str],
}

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(at("/recipes", routes!(list)))
}

/// Every served recipe, with what to try on it
#[utoipa::path(get, path = "", tag = "page", responses(
    (status = 200, description = "The recipes", body = Listing<'static>)
))]
async fn list(Extract(state): Extract<AppState>) -> Response {
    let recipes = state.recipes().iter();
    Json(Listing {
        recipes: recipes.map(|recipe| listed(&state, recipe)).collect(),
    })
    .into_response()
}

fn listed<'a>(state: &AppState, recipe: &'a ServedRecipe) -> Listed<'a> {
    let entry = galley_catalog::find(recipe.name()).ok();
    Listed {
        meta: describe(state, recipe),
        summary: entry.map(|entry| entry.summary),
        samples: entry.map_or(&[], |entry| entry.samples),
    }
}
