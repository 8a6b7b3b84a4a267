//! Compiles the gRPC protocol. `protox` does it in Rust, so that a machine needs no `protoc`; and the `.proto`, which
//! clients can use too, stays the only source.

use protox::prost::Message as _;

/// Messages that REST writes as JSON too, with what is declared within them.
const JSON: [&str; 13] = [
    "ServerMetadataResponse",
    "ModelMetadataResponse",
    "ModelConfig",
    "ModelInput",
    "ModelOutput",
    "ModelDynamicBatching",
    "ModelTransactionPolicy",
    "ModelStatisticsResponse",
    "ModelStatistics",
    "InferStatistics",
    "InferBatchStatistics",
    "StatisticDuration",
    "RepositoryIndexResponse.ModelIndex",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "proto/grpc_service.proto";
    println!("cargo::rerun-if-changed={PROTO}");
    let files = protox::compile([PROTO], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    // Reflection gives them to clients that ask.
    std::fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    // Tests speak to the server as any client does.
    let client = out.join("client");
    std::fs::create_dir_all(&client)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .build_server(false)
        .emit_rerun_if_changed(false)
        .out_dir(client)
        .compile_fds(files.clone())?;
    let mut builder = tonic_prost_build::configure()
        // Tensors are slices of the message that they came in.
        .bytes(".")
        .codec_path("crate::http::oip::grpc::codec::BoundedCodec")
        .build_transport(false)
        .build_client(false)
        .emit_rerun_if_changed(false);
    for message in JSON {
        builder = builder.type_attribute(
            format!(".inference.{message}"),
            "#[derive(serde::Serialize, utoipa::ToSchema)] #[serde(rename_all = \"snake_case\")]",
        );
    }
    builder
        .field_attribute(
            "data_type",
            "#[serde(serialize_with = \"data_type\")] #[schema(value_type = String)]",
        )
        .compile_fds(files)?;
    Ok(())
}
