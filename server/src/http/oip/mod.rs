//! The Open Inference Protocol v2, as KServe's and Triton's clients speak it: REST under `/v2`, and [`grpc`].
//!
//! A recipe is a model with one version. A request's way: [`json`] (or gRPC's own messages) gives the tensors that were
//! sent, [`input`] makes them into inputs, the engine answers those, [`output`] makes columns of the answers, which go
//! back as JSON or as [`binary`] tensors. [`interface`] says which tensors a recipe has; [`describe`] tells clients.
//!
//! Descriptions are built once, as gRPC's messages ([`proto`]); REST writes the same as JSON, field for field.

mod binary;
mod describe;
mod elements;
mod extensions;
pub(super) mod grpc;
mod infer;
mod input;
mod interface;
mod json;
mod output;
mod parameters;
pub(super) mod proto;
mod rest;

use std::{sync::Arc, time::Instant};

use galley_core::Input;

use self::{interface::Interface, output::Column};
use super::{AppState, error::ApiError, state::ServedRecipe};

pub(super) use self::grpc::{STREAM, is_probe, known_call};
pub(super) use self::proto::grpc_inference_service_server::SERVICE_NAME as SERVICE;
pub(super) use self::rest::{ErrorBody, is_here, refused, routes, unknown_path, wrong_method};

/// The one version that every model has.
const VERSION: &str = "1";

/// The recipe that a client names as a model.
fn model<'a>(
    state: &'a AppState,
    name: &str,
    version: Option<&str>,
) -> Result<&'a Arc<ServedRecipe>, ApiError> {
    let recipe = state.recipe(Some(name))?;
    match version {
        None | Some("" | VERSION) => Ok(recipe),
        Some(_) => Err(ApiError::NotFound(format!(
            "no such version of {}; its only version is {VERSION}",
            recipe.name()
        ))),
    }
}

/// Answers inputs as columns, one for each output of the interface.
async fn answer(
    recipe: &ServedRecipe,
    interface: &Interface,
    inputs: Vec<Input>,
    deadline: Instant,
) -> Result<Vec<Column>, ApiError> {
    let answers = recipe.served.infer(inputs, deadline).await?;
    output::columns(interface, answers)
}
