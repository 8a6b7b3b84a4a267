//! What clients are told of the server and its models: metadata, configuration, statistics, index.

use std::time::{Duration, SystemTime};

use super::{
    VERSION,
    interface::{Datatype, Interface, Tensor},
    proto::{
        DataType, InferBatchStatistics, InferStatistics, ModelConfig, ModelDynamicBatching,
        ModelInput, ModelMetadataResponse, ModelOutput, ModelStatistics, ModelTransactionPolicy,
        ServerMetadataResponse, StatisticDuration, model_metadata_response::TensorMetadata,
        repository_index_response::ModelIndex,
    },
};
use crate::{
    engine::{Served, Total},
    http::{AppState, state::ServedRecipe},
};

/// What runs models, as clients ask for it.
const PLATFORM: &str = "galley";
const BACKEND: &str = "candle";
const EXTENSIONS: [&str; 3] = ["binary_tensor_data", "statistics", "model_configuration"];

pub(super) fn server() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: PLATFORM.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: EXTENSIONS.map(Into::into).into(),
    }
}

pub(super) fn model(served: &Served) -> ModelMetadataResponse {
    let interface = Interface::of(served);
    let describe = |tensor: &Tensor| TensorMetadata {
        name: tensor.name.into(),
        datatype: tensor.datatype.name().into(),
        shape: shape(tensor),
    };
    ModelMetadataResponse {
        name: served.info().name.into(),
        versions: vec![VERSION.into()],
        platform: PLATFORM.into(),
        inputs: interface.inputs.iter().map(describe).collect(),
        outputs: interface.outputs.iter().map(describe).collect(),
    }
}

/// As Triton has it: shapes are of one item, and the largest batch is what a request may hold. What the device takes at once is
/// the preferred one.
pub(super) fn config(served: &Served) -> ModelConfig {
    let interface = Interface::of(served);
    let size = |size: usize| i32::try_from(size).unwrap_or(i32::MAX);
    let input = |tensor: &Tensor| ModelInput {
        name: tensor.name.into(),
        data_type: data_type(tensor.datatype).into(),
        dims: item_shape(tensor),
        optional: tensor.optional,
    };
    let output = |tensor: &Tensor| ModelOutput {
        name: tensor.name.into(),
        data_type: data_type(tensor.datatype).into(),
        dims: item_shape(tensor),
    };
    ModelConfig {
        name: served.info().name.into(),
        platform: PLATFORM.into(),
        backend: BACKEND.into(),
        max_batch_size: size(served.max_queue_size()),
        input: interface.inputs.iter().map(input).collect(),
        output: interface.outputs.iter().map(output).collect(),
        dynamic_batching: Some(ModelDynamicBatching {
            preferred_batch_size: vec![size(served.max_batch_size())],
            max_queue_delay_microseconds: u64::try_from(served.max_queue_delay().as_micros())
                .unwrap_or(u64::MAX),
        }),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
    }
}

pub(super) fn statistics(served: &Served) -> ModelStatistics {
    let statistics = served.statistics();
    // There is no cache.
    let never = Some(StatisticDuration::default());
    let batch = |(size, times): (&usize, &crate::engine::BatchTimes)| InferBatchStatistics {
        batch_size: *size as u64,
        compute_input: duration(times.prepare),
        compute_infer: duration(times.forward),
        compute_output: duration(times.finish),
    };
    ModelStatistics {
        name: served.info().name.into(),
        version: VERSION.into(),
        last_inference: statistics.last_inference.map_or(0, unix_millis),
        inference_count: statistics.items,
        execution_count: statistics.batches,
        inference_stats: Some(InferStatistics {
            success: duration(statistics.success),
            fail: duration(statistics.fail),
            queue: duration(statistics.queue),
            compute_input: duration(statistics.prepare),
            compute_infer: duration(statistics.forward),
            compute_output: duration(statistics.finish),
            cache_hit: never,
            cache_miss: never,
        }),
        batch_stats: statistics.by_batch_size.iter().map(batch).collect(),
    }
}

/// Every model, or only those that are ready.
pub(super) fn index(state: &AppState, only_ready: bool) -> Vec<ModelIndex> {
    let reason = state.engine_state().accepts().err();
    if only_ready && reason.is_some() {
        return Vec::new();
    }
    let entry = |recipe: &std::sync::Arc<ServedRecipe>| ModelIndex {
        name: recipe.name().into(),
        version: VERSION.into(),
        state: match reason {
            None => "READY",
            Some(_) => "UNAVAILABLE",
        }
        .into(),
        reason: reason.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    state.recipes().iter().map(entry).collect()
}

/// The shape of any number of items.
fn shape(tensor: &Tensor) -> Vec<i64> {
    let sizes = tensor.dims.iter().map(|&size| size as i64);
    std::iter::once(-1).chain(sizes).collect()
}

/// The shape of one item. That of a single element is not empty, which Triton forbids.
fn item_shape(tensor: &Tensor) -> Vec<i64> {
    match tensor.dims.as_slice() {
        [] => vec![1],
        sizes => sizes.iter().map(|&size| size as i64).collect(),
    }
}

fn data_type(datatype: Datatype) -> DataType {
    match datatype {
        Datatype::Bytes => DataType::TypeString,
        Datatype::Fp32 => DataType::TypeFp32,
        Datatype::Int64 => DataType::TypeInt64,
    }
}

fn duration(total: Total) -> Option<StatisticDuration> {
    Some(StatisticDuration {
        count: total.count,
        ns: u64::try_from(total.time.as_nanos()).unwrap_or(u64::MAX),
    })
}

fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_millis() as u64
}
