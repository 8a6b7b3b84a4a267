//! `POST /v2/models/MODEL/infer`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Request, State as Extract},
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use galley_core::Input;
use tokio::time::timeout_at;

use super::{
    VERSION, answer, binary,
    input::{self, Given, Source},
    interface::Interface,
    json::{self, AnswerOutput, Elements},
    output::Column,
    rest::{ErrorBody, Model, Refusal},
};
use crate::{
    engine::InferError,
    http::{
        AppState,
        budget::Share,
        encoding::Encoding,
        error::ApiError,
        json::read as read_json,
        limits::{give_up, read_body},
        openapi::{Described, Refusals},
        pool, signature,
        state::{Call, ServedRecipe},
    },
    metrics::{Outcome, Protocol},
};

/// How many bytes of a body, from its start, are JSON; the rest is binary tensors.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// Bodies up to this size are read where they arrive, which takes less time than handing them to another thread.
const INLINE: usize = 64 << 10;

/// What it may be refused with.
pub(super) struct InferRefusals;

impl Refusals for InferRefusals {
    type Body = ErrorBody;
    const STATUSES: &'static [u16] = &[400, 404, 408, 413, 415, 429, 500, 503, 504];
}

/// Answers a batch of inputs as tensors
///
/// Binary tensors follow the JSON in their order; Inference-Header-Content-Length then says where it ends. 0 says that there is
/// no JSON: the body is one element of the first input, a file or a text, and the outputs are binary.
#[utoipa::path(
    post,
    path = "",
    tag = "v2",
    params(("Inference-Header-Content-Length" = Option<u64>, Header, description = "How many bytes of the body are JSON")),
    request_body(content((json::Request<'static> = "application/json"), ("application/octet-stream"))),
    responses(
        (status = 200, description = "Answered",
            content((json::Answer<'static> = "application/json"), ("application/octet-stream")),
            headers(("Inference-Header-Content-Length" = u64, description = "With binary tensors: how many bytes are JSON")),
        ),
        Described<InferRefusals>,
    )
)]
pub(super) async fn infer(
    Extract(state): Extract<AppState>,
    model: Result<Model, Refusal>,
    request: Request,
) -> Response {
    let start = Instant::now();
    let (parts, mut body) = request.into_parts();
    let recipe = match model {
        Ok(Model(recipe)) => recipe,
        Err(refusal) => {
            give_up(&parts, body).await;
            return refusal.into_response();
        }
    };
    let call = Call::begin(&recipe, Protocol::Oip, start);
    match respond(&state, &recipe, (&parts, &mut body), start).await {
        Ok(response) => {
            call.end(Outcome::Ok);
            response
        }
        Err(error) => {
            give_up(&parts, body).await;
            call.end(error.outcome());
            Refusal(error).into_response()
        }
    }
}

async fn respond(
    state: &AppState,
    recipe: &Arc<ServedRecipe>,
    (parts, body): (&Parts, &mut Body),
    start: Instant,
) -> Result<Response, ApiError> {
    // Under overload most requests end here, before anything is spent on their bodies.
    let config = state.config();
    recipe.served.has_room(start + config.timeout)?;
    let interface = Arc::new(Interface::of(&recipe.served));
    let mut share = state.budget().share();
    let latest = start + config.timeout;
    let read = async {
        let bytes = read_body(body, config.max_body, &mut share).await?;
        let arrived = Arrived {
            encoding: Encoding::of_body(&parts.headers)?,
            json_length: json_length(&parts.headers)?,
            max_decompressed: config.max_decompressed,
            interface: Arc::clone(&interface),
            max_items: recipe.served.max_queue_size(),
            latest: (start, config.timeout),
            bytes,
            share,
        };
        arrived.read().await
    };
    let asked = timeout_at(latest.into(), read)
        .await
        .unwrap_or_else(|_| Err(InferError::Deadline.into()))?;
    let items = asked.inputs.len();
    let columns = answer(recipe, &interface, asked.inputs, asked.deadline).await?;
    let (json, binary) = write(recipe.name(), &interface, &asked.wanted, (items, &columns))?;
    drop(asked.share);
    let encoding = Encoding::of_answer(&parts.headers, json.len() + binary.len());
    Ok(response(json, binary, encoding))
}

/// A body that has arrived, and what is needed to read it.
struct Arrived {
    bytes: Bytes,
    share: Share,
    encoding: Option<Encoding>,
    json_length: Option<usize>,
    max_decompressed: u64,
    interface: Arc<Interface>,
    max_items: usize,
    /// When the request came, and how long it may take at the most.
    latest: (Instant, Duration),
}

/// What a request asks for.
struct Asked {
    inputs: Vec<Input>,
    deadline: Instant,
    wanted: Wanted,
    /// Room that the inputs take.
    share: Share,
}

/// How the answer is to look.
struct Wanted {
    id: Option<String>,
    /// Places of outputs in the interface, and whether each is to be binary.
    outputs: Vec<(usize, bool)>,
}

impl Arrived {
    /// Reads the inputs; large bodies on the CPU pool, so that other requests need not wait.
    async fn read(self) -> Result<Asked, ApiError> {
        if self.bytes.len() > INLINE || self.encoding.is_some() {
            pool::run(move || self.read_here()).await
        } else {
            self.read_here()
        }
    }

    fn read_here(mut self) -> Result<Asked, ApiError> {
        if let Some(encoding) = self.encoding {
            self.bytes = encoding.decompress(&self.bytes, self.max_decompressed)?;
            self.share.grow(self.bytes.len())?;
        }
        if self.json_length == Some(0) {
            return self.read_raw();
        }
        let length = self.json_length.unwrap_or(self.bytes.len());
        if length > self.bytes.len() {
            return Err(ApiError::malformed(format!(
                "Inference-Header-Content-Length: expected at most the {} bytes of the body, got {length}",
                self.bytes.len()
            )));
        }
        let mut binary = self.bytes.split_off(length);
        let request: json::Request<'_> =
            read_json(&self.bytes).map_err(|error| match signature::image(&self.bytes) {
                Some(image) => ApiError::malformed(format!(
                    "expected JSON, got an image ({image}); with Inference-Header-Content-Length: 0 it is an input"
                )),
                None => error,
            })?;
        let (start, max) = self.latest;
        let deadline = request.parameters.deadline(start, max)?;
        let mut given = Vec::with_capacity(request.inputs.len());
        for tensor in &request.inputs {
            tensor.parameters.check()?;
            given.push(Given {
                name: &tensor.name,
                datatype: &tensor.datatype,
                shape: &tensor.shape,
                source: source(tensor, &mut binary)?,
            });
        }
        if !binary.is_empty() {
            return Err(ApiError::malformed(format!(
                "{} bytes are left after all inputs' binary_data_size",
                binary.len()
            )));
        }
        let names = request.outputs.iter().map(|output| &*output.name);
        let places = self.interface.wanted(names)?;
        for output in &request.outputs {
            output.parameters.check()?;
        }
        let default = request.parameters.binary_data_output.unwrap_or(false);
        let own = |place: usize| {
            let output = request.outputs.get(place);
            output.and_then(|output| output.parameters.binary_data)
        };
        let outputs = places.into_iter().enumerate();
        let outputs = outputs.map(|(place, output)| (output, own(place).unwrap_or(default)));
        Ok(Asked {
            inputs: input::read(&self.interface, given, self.max_items)?,
            deadline,
            wanted: Wanted {
                outputs: outputs.collect(),
                id: request.id,
            },
            share: self.share,
        })
    }

    /// A raw binary request, as Triton has it.
    fn read_raw(self) -> Result<Asked, ApiError> {
        let (start, max) = self.latest;
        let given = Given {
            name: self.interface.inputs[0].name,
            datatype: self.interface.inputs[0].datatype.name(),
            shape: &[1],
            source: Source::Whole(self.bytes),
        };
        let outputs = 0..self.interface.outputs.len();
        Ok(Asked {
            inputs: input::read(&self.interface, vec![given], self.max_items)?,
            deadline: start + max,
            wanted: Wanted {
                outputs: outputs.map(|output| (output, true)).collect(),
                id: None,
            },
            share: self.share,
        })
    }
}

/// Where an input's elements are; those that are binary are taken from the front of `binary`.
fn source<'a>(tensor: &json::RequestInput<'a>, binary: &mut Bytes) -> Result<Source<'a>, ApiError> {
    let name = &tensor.name;
    match (tensor.data, tensor.parameters.binary_data_size) {
        (Some(data), None) => Ok(Source::Json(data)),
        (None, Some(size)) => match usize::try_from(size) {
            Ok(size) if size <= binary.len() => Ok(Source::Raw(binary.split_to(size))),
            _ => Err(ApiError::malformed(format!(
                "input {name}: its binary_data_size is {size}, but {} bytes are left after the JSON",
                binary.len()
            ))),
        },
        _ => Err(ApiError::malformed(format!(
            "input {name}: expected either data or the parameter binary_data_size"
        ))),
    }
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(JSON_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| {
        ApiError::malformed("Inference-Header-Content-Length: expected a number of bytes")
    })
}

/// The answer's JSON and what follows it.
fn write(
    model: &str,
    interface: &Interface,
    wanted: &Wanted,
    (items, columns): (usize, &[Column]),
) -> Result<(Vec<u8>, Vec<u8>), ApiError> {
    let mut binary = Vec::new();
    let mut outputs = Vec::with_capacity(wanted.outputs.len());
    for &(place, is_binary) in &wanted.outputs {
        let column = &columns[place];
        let elements = if is_binary {
            let before = binary.len();
            binary::encode(column, &mut binary);
            Elements::Parameters {
                binary_data_size: binary.len() - before,
            }
        } else {
            Elements::Data(column)
        };
        let tensor = &interface.outputs[place];
        outputs.push(AnswerOutput::new(tensor, items, elements));
    }
    let answer = json::Answer {
        model_name: model,
        model_version: VERSION,
        id: wanted.id.as_deref(),
        outputs,
    };
    let json = serde_json::to_vec(&answer).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written");
        InferError::Failed("the answer cannot be written".into())
    })?;
    Ok((json, binary))
}

fn response(mut body: Vec<u8>, binary: Vec<u8>, encoding: Option<Encoding>) -> Response {
    let json_length = body.len();
    let content_type = if binary.is_empty() {
        "application/json"
    } else {
        body.extend_from_slice(&binary);
        "application/octet-stream"
    };
    let packed = encoding.and_then(|encoding| Some((encoding, encoding.compress(&body).ok()?)));
    let (encoding, body) = match packed {
        Some((encoding, packed)) => (Some(encoding), packed),
        None => (None, body),
    };
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if !binary.is_empty() {
        headers.insert(JSON_LENGTH, json_length.into());
    }
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, encoding.header());
    }
    response
}
