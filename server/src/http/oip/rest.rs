//! The routes under `/v2`, their errors, and all of them but inference.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Path, Request, State as Extract},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    describe, extensions, infer,
    json::unless_null,
    model,
    proto::{
        ModelConfig, ModelMetadataResponse, ModelStatisticsResponse, ServerMetadataResponse,
        repository_index_response::ModelIndex,
    },
};
use crate::http::{
    AppState,
    encoding::Encoding,
    error::ApiError,
    json,
    limits::{discard, read_body},
    openapi::{Described, Refusals, at},
    state::ServedRecipe,
};

/// The longest body of a request for the index.
const MAX_INDEX_BODY: u64 = 1 << 10;

pub(in crate::http) fn routes() -> OpenApiRouter<AppState> {
    let of_model = |base: &str| {
        OpenApiRouter::new()
            .routes(at(base, routes!(metadata)))
            .routes(at(&format!("{base}/ready"), routes!(model_ready)))
            .routes(at(&format!("{base}/config"), routes!(config)))
            .routes(at(&format!("{base}/stats"), routes!(statistics)))
            .routes(at(&format!("{base}/infer"), routes!(infer::infer)))
    };
    OpenApiRouter::new()
        .routes(at("/v2", routes!(server)))
        .routes(at("/v2/health/live", routes!(live)))
        .routes(at("/v2/health/ready", routes!(ready)))
        .routes(at("/v2/repository/index", routes!(index)))
        .routes(at("/v2/models", routes!(models)))
        .routes(at("/v2/models/stats", routes!(all_statistics)))
        .merge(of_model("/v2/models/{model}"))
        .merge(of_model("/v2/models/{model}/versions/{version}"))
}

/// Whether a path is this protocol's.
pub(in crate::http) fn is_here(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// The answer where there is nothing.
pub(in crate::http) async fn unknown_path(request: Request) -> Response {
    let error = match extensions::absent(request.uri().path()) {
        Some(words) => ApiError::NotSupported(words),
        None => ApiError::NotFound("no such path of the Open Inference Protocol v2 here".into()),
    };
    discard(request.into_body()).await;
    Refusal(error).into_response()
}

/// The answer where there is something, but not for this method.
pub(in crate::http) async fn wrong_method(request: Request) -> Response {
    let reason = format!("{} is not allowed here", request.method());
    discard(request.into_body()).await;
    Refusal(ApiError::MethodNotAllowed(reason)).into_response()
}

/// The answer to a request that goes no further.
pub(in crate::http) fn refused(error: ApiError) -> Response {
    Refusal(error).into_response()
}

/// An error in this protocol's shape.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) ApiError);

/// Every error's shape
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct ErrorBody {
    error: String,
}

/// What a request that names a model may be refused with.
pub(super) struct NoModel;

impl Refusals for NoModel {
    type Body = ErrorBody;
    const STATUSES: &'static [u16] = &[400, 404];
}

struct IndexRefusals;

impl Refusals for IndexRefusals {
    type Body = ErrorBody;
    const STATUSES: &'static [u16] = &[400, 408, 413, 415, 429];
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let (status, reason) = (error.status(), error.to_string());
        tracing::debug!(status = status.as_u16(), cause = error.cause(), "refused");
        let mut response = (status, Json(ErrorBody { error: reason })).into_response();
        if let Some(seconds) = error.retry_after() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The recipe that a path names.
pub(super) struct Model(pub(super) Arc<ServedRecipe>);

impl FromRequestParts<AppState> for Model {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Names {
            model: String,
            version: Option<String>,
        }
        let Path(names) = Path::<Names>::from_request_parts(parts, state)
            .await
            .map_err(|_| Refusal(ApiError::malformed("the path is not valid UTF-8")))?;
        model(state, &names.model, names.version.as_deref())
            .map(|recipe| Self(Arc::clone(recipe)))
            .map_err(Refusal)
    }
}

/// The server: name, version, extensions
#[utoipa::path(get, path = "", tag = "v2", responses(
    (status = 200, description = "The server", body = ServerMetadataResponse)
))]
async fn server() -> Json<ServerMetadataResponse> {
    Json(describe::server())
}

#[derive(Serialize, ToSchema)]
struct Live {
    live: bool,
}

#[derive(Serialize, ToSchema)]
struct Ready {
    ready: bool,
}

#[derive(Serialize, ToSchema)]
struct ModelReady {
    name: &'static str,
    ready: bool,
}

/// Whether the server runs
#[utoipa::path(get, path = "", tag = "v2", responses((status = 200, description = "It does", body = Live)))]
async fn live() -> Json<Live> {
    Json(Live { live: true })
}

/// Whether requests are taken
#[utoipa::path(get, path = "", tag = "v2", responses(
    (status = 200, description = "They are", body = Ready),
    (status = 503, description = "They are not", body = Ready),
))]
async fn ready(Extract(state): Extract<AppState>) -> Response {
    let ready = state.is_ready();
    (status_of(ready), Json(Ready { ready })).into_response()
}

/// Whether a model's requests are taken
#[utoipa::path(get, path = "", tag = "v2", responses(
    (status = 200, description = "They are", body = ModelReady),
    (status = 503, description = "They are not", body = ModelReady),
    Described<NoModel>,
))]
async fn model_ready(Extract(state): Extract<AppState>, Model(recipe): Model) -> Response {
    let ready = state.is_ready();
    let name = recipe.name();
    (status_of(ready), Json(ModelReady { name, ready })).into_response()
}

fn status_of(ready: bool) -> StatusCode {
    match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// A model: its inputs and outputs
#[utoipa::path(get, path = "", tag = "v2", responses(
    (status = 200, description = "The model", body = ModelMetadataResponse), Described<NoModel>,
))]
async fn metadata(Model(recipe): Model) -> Json<ModelMetadataResponse> {
    Json(describe::model(&recipe.served))
}

/// A model's configuration, as Triton has it
#[utoipa::path(get, path = "", tag = "v2", responses(
    (status = 200, description = "The configuration", body = ModelConfig), Described<NoModel>,
))]
async fn config(Model(recipe): Model) -> Json<ModelConfig> {
    Json(describe::config(&recipe.served))
}

/// What a model's requests have come to
#[utoipa::path(get, path = "", tag = "v2", responses(
    (status = 200, description = "The statistics", body = ModelStatisticsResponse), Described<NoModel>,
))]
async fn statistics(Model(recipe): Model) -> Json<ModelStatisticsResponse> {
    Json(ModelStatisticsResponse {
        model_stats: vec![describe::statistics(&recipe.served)],
    })
}

/// What all models' requests have come to
#[utoipa::path(get, path = "", tag = "v2", responses(
    (status = 200, description = "The statistics", body = ModelStatisticsResponse)
))]
async fn all_statistics(Extract(state): Extract<AppState>) -> Json<ModelStatisticsResponse> {
    let recipes = state.recipes().iter();
    Json(ModelStatisticsResponse {
        model_stats: recipes
            .map(|recipe| describe::statistics(&recipe.served))
            .collect(),
    })
}

/// The names of all models, as KServe has them
#[derive(Serialize, ToSchema)]
#[schema(as = Models)]
struct Names {
    models: Vec<&'static str>,
}

/// The names of all models
#[utoipa::path(get, path = "", tag = "v2", responses(
    (status = 200, description = "The names", body = Names)
))]
async fn models(Extract(state): Extract<AppState>) -> Json<Names> {
    let recipes = state.recipes().iter();
    Json(Names {
        models: recipes.map(|recipe| recipe.name()).collect(),
    })
}

#[derive(Default, Deserialize, ToSchema)]
#[schema(as = WantedModels)]
struct Wanted {
    /// Only models that are ready
    #[schema(value_type = Option<bool>)]
    #[serde(default, deserialize_with = "unless_null")]
    ready: bool,
}

/// All models
///
/// The body may be empty, or `{"ready": true}` for those that are ready.
#[utoipa::path(post, path = "", tag = "v2",
    request_body(content = Option<Wanted>),
    responses((status = 200, description = "The models", body = Vec<ModelIndex>), Described<IndexRefusals>)
)]
async fn index(
    Extract(state): Extract<AppState>,
    request: Request,
) -> Result<Json<Vec<ModelIndex>>, Refusal> {
    let encoding = Encoding::of_body(request.headers());
    let mut body = request.into_body();
    let mut share = state.budget().share();
    let bytes = match read_body(&mut body, MAX_INDEX_BODY, &mut share).await {
        Ok(bytes) => bytes,
        Err(error) => {
            discard(body).await;
            return Err(Refusal(error));
        }
    };
    let bytes = match encoding.map_err(Refusal)? {
        Some(encoding) => encoding
            .decompress(&bytes, MAX_INDEX_BODY)
            .map_err(Refusal)?,
        None => bytes,
    };
    let wanted: Option<Wanted> = match bytes.is_empty() {
        true => None,
        false => json::read(&bytes).map_err(Refusal)?,
    };
    let only_ready = wanted.unwrap_or_default().ready;
    Ok(Json(describe::index(&state, only_ready)))
}
