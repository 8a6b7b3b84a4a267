//! `GET /openapi.json`: a description of every route, made from the handlers and their types.
//!
//! A route is described where it is registered ([`routes::at`]), so that none can be added without. What is said of all
//! of them at once (keys, names of recipes) is added at the end, for the server as it runs: a description with keys is
//! one of a server that wants them. Paths begin where the description lies, or where a proxy says that it puts them.

mod refusals;
mod routes;

use std::sync::{Arc, OnceLock};

use axum::{
    Extension,
    http::{HeaderMap, HeaderName, HeaderValue, header},
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
        server::Server,
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

/// Where a proxy that takes a path's beginning away had found it.
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// The longest that is believed.
const MAX_PREFIX: usize = 256;

/// The description, once every route is known.
#[derive(Clone, Default)]
pub(super) struct Document(Arc<OnceLock<Written>>);

/// The description, and how it is written for most.
struct Written {
    description: Description,
    json: Bytes,
}

impl Document {
    /// A router for routes with their descriptions, with that of the document itself.
    pub(super) fn router(&self) -> OpenApiRouter<AppState> {
        let own = routes!(document).layer(Extension(self.clone()));
        OpenApiRouter::with_openapi(Api::openapi()).routes(at("/openapi.json", own))
    }

    /// Makes the document of what the router has gathered.
    pub(super) fn complete(&self, state: &AppState, mut description: Description) {
        complete(state, &mut description);
        // Relative to the description itself, so that it holds behind a proxy that says nothing.
        let json = write(&mut description, "./");
        // The first is as good as any other.
        let _ = self.0.set(Written { description, json });
    }

    fn json(&self, prefix: Option<&str>) -> Bytes {
        match (self.0.get(), prefix) {
            (Some(written), None) => written.json.clone(),
            (Some(written), Some(prefix)) => write(&mut written.description.clone(), prefix),
            (None, _) => Bytes::new(),
        }
    }
}

fn write(description: &mut Description, server: &str) -> Bytes {
    description.servers = Some(vec![Server::new(server)]);
    let json = description.to_json();
    json.expect("a description has nothing in it that JSON cannot say")
        .into()
}

/// The path that a proxy puts before all others: no other server's, and nothing that is no path.
fn forwarded_prefix(headers: &HeaderMap) -> Option<&str> {
    let prefix = headers.get(PREFIX)?.to_str().ok()?;
    let prefix = prefix.trim_end_matches('/');
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || "/-._~%".contains(c);
    let valid = prefix.starts_with('/')
        && !prefix.contains("//")
        && prefix.len() <= MAX_PREFIX
        && prefix.chars().all(is_of_path);
    valid.then_some(prefix)
}

/// This description
#[utoipa::path(get, path = "", tag = "operators", responses(
    (status = 200, description = "An OpenAPI document", body = serde_json::Value)
))]
async fn document(Extension(document): Extension<Document>, headers: HeaderMap) -> Response {
    let json = document.json(forwarded_prefix(&headers));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::VARY, HeaderValue::from_name(PREFIX)),
    ];
    (headers, json).into_response()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_path_and_nothing_else() {
        for (sent, expected) in [
            ("/galley", Some("/galley")),
            ("/a/b-c/", Some("/a/b-c")),
            ("/", None),
            ("", None),
            ("galley", None),
            ("//evil.example", None),
            ("/a//b", None),
            ("/a, /b", None),
            ("https://evil.example", None),
            ("/\"", None),
        ] {
            let headers = HeaderMap::from_iter([(PREFIX, sent.parse().unwrap())]);
            assert_eq!(forwarded_prefix(&headers), expected, "{sent}");
        }
        let long = format!("/{}", "a".repeat(MAX_PREFIX));
        let headers = HeaderMap::from_iter([(PREFIX, long.parse().unwrap())]);
        assert_eq!(forwarded_prefix(&headers), None);
    }
}
