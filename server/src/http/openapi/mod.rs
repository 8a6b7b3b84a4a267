//! `GET /openapi.json`: a description of every route, made from the handlers and their types.
//!
//! A route is described where it is registered ([`routes::at`]), so that none can be added without. What is said of all
//! of them at once (keys, names of recipes) is added at the end, for the server as it runs: a description with keys is
//! one of a server that wants them.

mod refusals;
mod routes;

use std::sync::{Arc, OnceLock};

use axum::{
    Extension,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use utoipa::{
    OpenApi,
    openapi::{
        Components, OpenApi as Description, PathItem, RefOr, SecurityRequirement,
        path::{Operation, Parameter},
        schema::Schema,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, router::UtoipaMethodRouterExt as _, routes};

use self::refusals::unauthorized;
pub(super) use self::{
    refusals::{Described, Refusals},
    routes::at,
};
use super::{AppState, fastdeploy, guard, oip};

const BEARER: &str = "bearer";
const API_KEY: &str = "api_key";

/// Parameters that name a recipe.
const NAMES: [&str; 3] = ["name", "model", "recipe"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Galley",
        description = "Models over HTTP, with the requests of many callers batched dynamically.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    // Those that only refusals have, which do not bring their own.
    components(schemas(fastdeploy::Answer, oip::ErrorBody)),
    tags(
        (name = "infer", description = "fastDeploy's protocol"),
        (name = "v2", description = "The Open Inference Protocol v2"),
        (name = "operators", description = "Probes and metrics"),
        (name = "page", description = "The web page and what it asks")
    )
)]
struct Api;

/// The description, once every route is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Document(Arc<OnceLock<Bytes>>);

impl Document {
    /// A router for routes with their descriptions, with that of the document itself.
    pub(super) fn router(&self) -> OpenApiRouter<AppState> {
        let own = routes!(document).layer(Extension(self.clone()));
        OpenApiRouter::with_openapi(Api::openapi()).routes(at("/openapi.json", own))
    }

    /// Makes the document of what the router has gathered.
    pub(super) fn complete(&self, state: &AppState, mut description: Description) {
        complete(state, &mut description);
        let json = description
            .to_json()
            .expect("a description has nothing in it that JSON cannot say");
        // The first is as good as any other.
        let _ = self.0.set(json.into());
    }
}

/// This description
#[utoipa::path(get, path = "", tag = "operators", responses(
    (status = 200, description = "An OpenAPI document", body = serde_json::Value)
))]
async fn document(Extension(document): Extension<Document>) -> Response {
    let json = document.0.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

fn complete(state: &AppState, description: &mut Description) {
    let config = state.config();
    let names: Vec<String> = state.recipes().iter().map(|r| r.name().into()).collect();
    let needs_key = |path: &str| {
        config.access.keys.is_some() && !guard::is_open_path(path, config.open_metrics)
    };
    if config.access.keys.is_some() {
        let components = description.components.get_or_insert_with(Components::new);
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
        let header = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
        components.add_security_scheme(API_KEY, SecurityScheme::ApiKey(header));
    }
    for (path, item) in &mut description.paths.paths {
        for operation in operations(item) {
            for parameter in operation.parameters.iter_mut().flatten() {
                name_recipes(parameter, &names);
            }
            if needs_key(path) {
                let either = [BEARER, API_KEY];
                let either = either.map(|scheme| SecurityRequirement::new(scheme, [""; 0]));
                operation.security = Some(either.into());
                let responses = &mut operation.responses.responses;
                responses.insert("401".into(), unauthorized(path));
            }
        }
    }
}

/// Those of the methods that there are here.
fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post].into_iter().flatten()
}

fn name_recipes(parameter: &mut RefOr<Parameter>, names: &[String]) {
    let RefOr::T(parameter) = parameter else {
        return;
    };
    if NAMES.contains(&parameter.name.as_str())
        && let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
    {
        let names = names.iter().map(|name| name.as_str().into());
        schema.enum_values = Some(names.collect());
    }
}
