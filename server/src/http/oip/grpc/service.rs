//! The calls.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream, stream::BoxStream};
use opentelemetry::{Context, trace::FutureExt};
use prost::Message as _;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{convert, meter::Meter, status, timeout};
use crate::{
    engine::InferError,
    http::{
        AppState,
        error::ApiError,
        oip::{
            answer, describe, input,
            interface::Interface,
            model,
            proto::{
                ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
                ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
                ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse,
                RepositoryIndexRequest, RepositoryIndexResponse, ServerLiveRequest,
                ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
                ServerReadyRequest, ServerReadyResponse,
                grpc_inference_service_server::GrpcInferenceService,
            },
        },
        state::{Call, ServedRecipe},
        trace,
    },
    metrics::{Outcome, Protocol},
};

/// How many requests of a stream are answered at a time.
const STREAM_REQUESTS: usize = 64;

/// The service on one server's state.
#[derive(Clone, Debug)]
pub(super) struct Service {
    state: AppState,
}

impl Service {
    pub(super) fn new(state: AppState) -> Self {
        Self { state }
    }

    fn model(&self, name: &str, version: &str) -> Result<&Arc<ServedRecipe>, Status> {
        model(&self.state, name, Some(version)).map_err(|error| status::of(&error))
    }

    /// The longest that a call may take.
    fn timeout<T>(&self, request: &Request<T>) -> Result<Duration, Status> {
        let headers = request.metadata().as_ref();
        timeout::of(headers, self.state.config().timeout).map_err(Status::invalid_argument)
    }

    /// Answers a request that has arrived.
    async fn infer(
        &self,
        request: ModelInferRequest,
        meter: &Meter,
        start: Instant,
        max: Duration,
    ) -> Result<ModelInferResponse, ApiError> {
        let recipe = model(
            &self.state,
            &request.model_name,
            Some(&request.model_version),
        )?;
        let call = Call::begin(recipe, Protocol::Oip, start);
        let result = match meter.take(request.encoded_len()) {
            Ok(_share) => respond(recipe, request, start, max).await,
            Err(error) => Err(error),
        };
        call.end(
            result
                .as_ref()
                .map_or_else(ApiError::outcome, |_| Outcome::Ok),
        );
        result
    }

    /// Answers a request of a stream, which goes on whatever comes of it.
    async fn infer_in_stream(
        self,
        request: Result<ModelInferRequest, Status>,
        (meter, end): (Meter, Option<Instant>),
        traced: Option<trace::Call>,
    ) -> Result<ModelStreamInferResponse, Status> {
        let request = request?;
        let span = traced.map_or_else(Context::new, |call| call.begin());
        let start = Instant::now();
        let max = self.state.config().timeout;
        let max = end.map_or(max, |end| max.min(end.saturating_duration_since(start)));
        let failed = ModelInferResponse {
            id: request.id.clone(),
            model_name: request.model_name.clone(),
            model_version: request.model_version.clone(),
            ..ModelInferResponse::default()
        };
        let answer = self.infer(request, &meter, start, max);
        let answer = answer.with_context(span.clone()).await;
        trace::end_call(
            &span,
            answer.as_ref().map_or_else(status::code, |_| Code::Ok),
        );
        let (error_message, mut response) = match answer {
            Ok(response) => (String::new(), response),
            Err(error) => (error.to_string(), failed),
        };
        convert::mark_as_last(&mut response);
        Ok(ModelStreamInferResponse {
            error_message,
            infer_response: Some(response),
        })
    }
}

async fn respond(
    recipe: &ServedRecipe,
    mut request: ModelInferRequest,
    start: Instant,
    max: Duration,
) -> Result<ModelInferResponse, ApiError> {
    let parameters = convert::request_parameters(request.parameters);
    let deadline = parameters.deadline(start, max)?;
    recipe.served.has_room(deadline)?;
    let interface = Interface::of(&recipe.served);
    let places = interface.wanted(request.outputs.iter().map(|output| output.name.as_str()))?;
    for output in request.outputs {
        convert::check_tensor_parameters(output.parameters)?;
    }
    let given = convert::given(&mut request.inputs, request.raw_input_contents)?;
    let inputs = input::read(&interface, given, recipe.served.max_queue_size())?;
    let items = inputs.len();
    let columns = answer(recipe, &interface, inputs, deadline).await?;
    Ok(convert::response(
        (recipe.name(), request.id),
        (&interface, &places),
        (items, &columns),
    ))
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = self.state.is_ready();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        self.model(&name, &version)?;
        let ready = self.state.is_ready();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(describe::server()))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let recipe = self.model(&name, &version)?;
        Ok(Response::new(describe::model(&recipe.served)))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let start = Instant::now();
        let max = self.timeout(&request)?;
        let meter = meter_of(&request)?;
        let answer = self.infer(request.into_inner(), &meter, start, max).await;
        answer
            .map(Response::new)
            .map_err(|error| status::of(&error))
    }

    type ModelStreamInferStream = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        // Without the caller's word only each request has an end.
        let asked = request.metadata().contains_key(timeout::TIMEOUT);
        let end = asked
            .then(|| self.timeout(&request).map(|max| Instant::now() + max))
            .transpose()?;
        let meter = meter_of(&request)?;
        let traced = request.extensions().get::<trace::Call>().cloned();
        let (this, last) = (self.clone(), self.clone());
        let answers = request
            .into_inner()
            .take_until(self.state.clone().until_draining())
            .map(move |request| {
                let limits = (meter.clone(), end);
                this.clone()
                    .infer_in_stream(request, limits, traced.clone())
            })
            .buffered(STREAM_REQUESTS);
        // What was accepted has been answered; who wants more has to ask another server.
        let goodbye = stream::once(async move {
            let draining = last.state.engine_state().accepts().err();
            draining.map(|error: InferError| Err(status::of(&error.into())))
        })
        .filter_map(std::future::ready);
        Ok(Response::new(answers.chain(goodbye).boxed()))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let recipe = self.model(&name, &version)?;
        Ok(Response::new(ModelConfigResponse {
            config: Some(describe::config(&recipe.served)),
        }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let recipes = match name.as_str() {
            "" => self.state.recipes(),
            name => std::slice::from_ref(self.model(name, &version)?),
        };
        Ok(Response::new(ModelStatisticsResponse {
            model_stats: recipes
                .iter()
                .map(|recipe| describe::statistics(&recipe.served))
                .collect(),
        }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let only_ready = request.into_inner().ready;
        Ok(Response::new(RepositoryIndexResponse {
            models: describe::index(&self.state, only_ready),
        }))
    }
}

/// What counts a call's bytes.
fn meter_of<T>(request: &Request<T>) -> Result<Meter, Status> {
    let meter = request.extensions().get::<Meter>();
    meter
        .cloned()
        .ok_or_else(|| Status::internal("the call is not metered"))
}
