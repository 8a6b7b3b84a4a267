//! gRPC's messages -> what REST's handler works on too, and back.

use std::collections::HashMap;

use bytes::Bytes;

use crate::http::{
    error::ApiError,
    oip::{
        VERSION, binary,
        input::{Given, Source},
        interface::Interface,
        output::Column,
        parameters::{RequestParameters, Scalar, TensorParameters},
        proto::{
            InferParameter, ModelInferResponse, infer_parameter::ParameterChoice,
            model_infer_request::InferInputTensor, model_infer_response::InferOutputTensor,
        },
    },
};

type Parameters = HashMap<String, InferParameter>;

/// The parameters of a request that mean something.
pub(super) fn request_parameters(mut parameters: Parameters) -> RequestParameters {
    RequestParameters {
        timeout: take(&mut parameters, "timeout"),
        priority: take(&mut parameters, "priority"),
        sequence_id: take(&mut parameters, "sequence_id"),
        // Here every output is binary.
        binary_data_output: None,
    }
}

/// Refuses a tensor's parameters that cannot be honoured.
pub(super) fn check_tensor_parameters(mut parameters: Parameters) -> Result<(), ApiError> {
    let parameters = TensorParameters {
        classification: take(&mut parameters, "classification"),
        shared_memory_region: take(&mut parameters, "shared_memory_region"),
        ..TensorParameters::default()
    };
    parameters.check()
}

fn take(parameters: &mut Parameters, name: &str) -> Option<Scalar> {
    Some(match parameters.remove(name)?.parameter_choice? {
        ParameterChoice::BoolParam(value) => Scalar::Bool(value),
        ParameterChoice::Int64Param(value) => Scalar::Signed(value),
        ParameterChoice::StringParam(value) => Scalar::Text(value),
        ParameterChoice::DoubleParam(value) => Scalar::Float(value),
        ParameterChoice::Uint64Param(value) => Scalar::Unsigned(value),
    })
}

/// The tensors of a request, whose raw contents are theirs in their order if there are any.
pub(super) fn given(
    inputs: &mut [InferInputTensor],
    raw: Vec<Bytes>,
) -> Result<Vec<Given<'_>>, ApiError> {
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(ApiError::malformed(format!(
            "raw_input_contents: expected one for each of the {} inputs, got {}",
            inputs.len(),
            raw.len()
        )));
    }
    let mut raw = raw.into_iter();
    let mut given = Vec::with_capacity(inputs.len());
    for input in inputs {
        check_tensor_parameters(std::mem::take(&mut input.parameters))?;
        let source = match (raw.next(), input.contents.take()) {
            (Some(bytes), None) => Source::Raw(bytes),
            (None, Some(contents)) => Source::Typed(contents),
            // No message at all stands for one without elements.
            (None, None) => Source::Typed(Default::default()),
            (Some(_), Some(_)) => {
                return Err(ApiError::malformed(
                    "expected either contents or raw_input_contents, got both",
                ));
            }
        };
        given.push(Given {
            name: &input.name,
            datatype: &input.datatype,
            shape: &input.shape,
            source,
        });
    }
    Ok(given)
}

/// An answer with the outputs at these places of the interface.
pub(super) fn response(
    (model, id): (&str, String),
    (interface, places): (&Interface, &[usize]),
    (items, columns): (usize, &[Column]),
) -> ModelInferResponse {
    let mut response = ModelInferResponse {
        model_name: model.into(),
        model_version: VERSION.into(),
        id,
        ..ModelInferResponse::default()
    };
    for &place in places {
        let tensor = &interface.outputs[place];
        let sizes = std::iter::once(&items).chain(&tensor.dims);
        response.outputs.push(InferOutputTensor {
            name: tensor.name.into(),
            datatype: tensor.datatype.name().into(),
            shape: sizes.map(|&size| size as i64).collect(),
            ..InferOutputTensor::default()
        });
        let mut bytes = Vec::new();
        binary::encode(&columns[place], &mut bytes);
        response.raw_output_contents.push(bytes.into());
    }
    response
}

/// Says that no other answer to its request follows, as Triton does in streams: clients of models that answer several times wait
/// for it.
pub(super) fn mark_as_last(response: &mut ModelInferResponse) {
    let yes = InferParameter {
        parameter_choice: Some(ParameterChoice::BoolParam(true)),
    };
    response
        .parameters
        .insert("triton_final_response".into(), yes);
}
