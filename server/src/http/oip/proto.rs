//! The protocol's messages and its service, compiled from `proto/grpc_service.proto`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::enum_variant_names,
    reason = "generated; what a message means is said in the .proto"
)]

use serde::Serializer;

tonic::include_proto!("inference");

/// As REST writes a datatype of a configuration: `TYPE_STRING`.
fn data_type<S: Serializer>(number: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    let datatype = DataType::try_from(*number).unwrap_or(DataType::TypeInvalid);
    serializer.serialize_str(datatype.as_str_name())
}
