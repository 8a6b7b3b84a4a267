//! The JSON of an inference request and its answer.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    interface::Tensor,
    output::Column,
    parameters::{RequestParameters, TensorParameters},
};

/// A request, or the JSON part of one. Elements stay as they are until shape and datatype have been checked. Where a member
/// may be absent it may be null too: many libraries write so what is not set.
#[derive(Deserialize, ToSchema)]
#[schema(as = InferRequest)]
pub(super) struct Request<'a> {
    #[serde(default)]
    pub(super) id: Option<String>,
    #[schema(value_type = Option<RequestParameters>)]
    #[serde(default, deserialize_with = "unless_null")]
    pub(super) parameters: RequestParameters,
    #[serde(borrow)]
    pub(super) inputs: Vec<RequestInput<'a>>,
    #[schema(value_type = Option<Vec<RequestOutput<'a>>>)]
    #[serde(default, borrow, deserialize_with = "unless_null")]
    pub(super) outputs: Vec<RequestOutput<'a>>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = InferInput)]
pub(super) struct RequestInput<'a> {
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub(super) name: Cow<'a, str>,
    pub(super) shape: Vec<i64>,
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub(super) datatype: Cow<'a, str>,
    #[schema(value_type = Option<TensorParameters>)]
    #[serde(default, deserialize_with = "unless_null")]
    pub(super) parameters: TensorParameters,
    /// Absent where the elements are in the binary part
    #[schema(value_type = Option<Vec<serde_json::Value>>)]
    #[serde(default, borrow)]
    pub(super) data: Option<&'a RawValue>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = RequestedOutput)]
pub(super) struct RequestOutput<'a> {
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub(super) name: Cow<'a, str>,
    #[schema(value_type = Option<TensorParameters>)]
    #[serde(default, deserialize_with = "unless_null")]
    pub(super) parameters: TensorParameters,
}

/// An answer, or the JSON part of one.
#[derive(Serialize, ToSchema)]
#[schema(as = InferResponse)]
pub(super) struct Answer<'a> {
    pub(super) model_name: &'a str,
    pub(super) model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a str>,
    pub(super) outputs: Vec<AnswerOutput<'a>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = InferOutput)]
pub(super) struct AnswerOutput<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: Vec<usize>,
    #[serde(flatten)]
    elements: Elements<'a>,
}

/// Where an output's elements are.
#[derive(Serialize, ToSchema)]
#[schema(as = Elements)]
#[serde(rename_all = "snake_case")]
pub(super) enum Elements<'a> {
    /// Here.
    #[schema(value_type = Vec<serde_json::Value>)]
    #[serde(serialize_with = "column")]
    Data(&'a Column),
    /// In the binary part.
    Parameters { binary_data_size: usize },
}

impl<'a> AnswerOutput<'a> {
    pub(super) fn new(tensor: &'a Tensor, items: usize, elements: Elements<'a>) -> Self {
        Self {
            name: tensor.name,
            datatype: tensor.datatype.name(),
            shape: std::iter::once(items)
                .chain(tensor.dims.iter().copied())
                .collect(),
            elements,
        }
    }
}

/// A member for which null is what its absence is.
pub(super) fn unless_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn column<S: Serializer>(column: &&Column, serializer: S) -> Result<S::Ok, S::Error> {
    match column {
        Column::Text(texts) => texts.serialize(serializer),
        Column::Fp32(values) => values.serialize(serializer),
        Column::Int64(values) => values.serialize(serializer),
    }
}
