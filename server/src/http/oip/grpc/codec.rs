//! Protobuf with a bound on what a message becomes in memory.
//!
//! An empty tensor takes two bytes on the wire and some two hundred in memory, a varint one byte and eight: a message
//! within the limit could take a hundred times that. So what would grow is counted on the wire before it is built.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::http::oip::proto::{
    ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest,
    ModelStatisticsRequest, RepositoryIndexRequest, ServerLiveRequest, ServerMetadataRequest,
    ServerReadyRequest,
};

/// Most values of a message, elements that are not in raw bytes among them. They take 8 or 32 bytes each.
const MAX_VALUES: usize = 1 << 17;
/// Most messages within a message, tensors and parameters, of some 200 bytes: a request has one input and few outputs.
const MAX_MESSAGES: usize = 1 << 10;

/// What a message may become in memory; by default no more than it takes on the wire, as for one of plain strings.
pub(in crate::http) trait Bounded {
    /// Refuses a message that would grow too large.
    ///
    /// # Errors
    /// It would, or is not valid; the message says which.
    fn check(_message: Bytes) -> Result<(), String> {
        Ok(())
    }
}

impl Bounded for ServerLiveRequest {}
impl Bounded for ServerReadyRequest {}
impl Bounded for ServerMetadataRequest {}
impl Bounded for ModelReadyRequest {}
impl Bounded for ModelMetadataRequest {}
impl Bounded for ModelConfigRequest {}
impl Bounded for ModelStatisticsRequest {}
impl Bounded for RepositoryIndexRequest {}

impl Bounded for ModelInferRequest {
    fn check(message: Bytes) -> Result<(), String> {
        let mut tally = Tally::default();
        tally.request(message)
    }
}

/// What has been counted of a message.
#[derive(Default)]
struct Tally {
    values: usize,
    messages: usize,
}

impl Tally {
    fn request(&mut self, message: Bytes) -> Result<(), String> {
        self.fields(message, |tally, field, content| match field {
            PARAMETERS => tally.message(),
            INPUTS => {
                tally.message()?;
                tally.input(content)
            }
            OUTPUTS => {
                tally.message()?;
                tally.fields(content, |tally, field, _| match field {
                    OUTPUT_PARAMETERS => tally.message(),
                    _ => Ok(()),
                })
            }
            RAW_INPUT_CONTENTS => tally.values(1),
            _ => Ok(()),
        })
    }

    fn input(&mut self, input: Bytes) -> Result<(), String> {
        self.fields(input, |tally, field, content| match field {
            SHAPE => tally.values(content.len()),
            PARAMETERS => tally.message(),
            CONTENTS => tally.fields(content, |tally, field, elements| match field {
                // As large in memory as here.
                FP32_CONTENTS | FP64_CONTENTS => Ok(()),
                BYTES_CONTENTS => tally.values(1),
                // Varints, of a byte at least.
                _ => tally.values(elements.len()),
            }),
            _ => Ok(()),
        })
    }

    /// Visits the fields that have a length; of the others each is a value.
    fn fields(
        &mut self,
        mut message: Bytes,
        mut visit: impl FnMut(&mut Self, u32, Bytes) -> Result<(), String>,
    ) -> Result<(), String> {
        let invalid = |error: prost::DecodeError| error.to_string();
        while message.has_remaining() {
            let (field, wire_type) = decode_key(&mut message).map_err(invalid)?;
            if wire_type == WireType::LengthDelimited {
                let length = decode_varint(&mut message).map_err(invalid)?;
                match usize::try_from(length) {
                    Ok(length) if length <= message.len() => {
                        visit(self, field, message.split_to(length))?;
                    }
                    _ => return Err("a field reaches beyond its message".into()),
                }
            } else {
                self.values(1)?;
                let context = DecodeContext::default();
                skip_field(wire_type, field, &mut message, context).map_err(invalid)?;
            }
        }
        Ok(())
    }

    fn values(&mut self, count: usize) -> Result<(), String> {
        self.values = self.values.saturating_add(count);
        match self.values <= MAX_VALUES {
            true => Ok(()),
            false => Err(format!(
                "expected at most {MAX_VALUES} values outside of raw_input_contents and floats"
            )),
        }
    }

    fn message(&mut self) -> Result<(), String> {
        self.messages += 1;
        match self.messages <= MAX_MESSAGES {
            true => Ok(()),
            false => Err(format!(
                "expected at most {MAX_MESSAGES} tensors and parameters"
            )),
        }
    }
}

// The numbers of fields, as `proto/grpc_service.proto` has them.
const PARAMETERS: u32 = 4;
const INPUTS: u32 = 5;
const OUTPUTS: u32 = 6;
const RAW_INPUT_CONTENTS: u32 = 7;
const OUTPUT_PARAMETERS: u32 = 2;
const SHAPE: u32 = 3;
const CONTENTS: u32 = 5;
const FP32_CONTENTS: u32 = 6;
const FP64_CONTENTS: u32 = 7;
const BYTES_CONTENTS: u32 = 8;

/// The codec of a call.
#[derive(Debug)]
pub(in crate::http::oip) struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Bounded + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = BoundedEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> BoundedEncoder<T> {
        BoundedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> BoundedDecoder<U> {
        BoundedDecoder(PhantomData)
    }
}

#[derive(Debug)]
pub(in crate::http::oip) struct BoundedEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for BoundedEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(target)
            .map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

#[derive(Debug)]
pub(in crate::http::oip) struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Default + Bounded> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = source.copy_to_bytes(source.remaining());
        U::check(message.clone()).map_err(Status::invalid_argument)?;
        U::decode(message)
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::oip::proto::{InferTensorContents, model_infer_request::InferInputTensor};

    fn input(contents: InferTensorContents) -> InferInputTensor {
        InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: vec![1],
            contents: Some(contents),
            ..InferInputTensor::default()
        }
    }

    fn check(inputs: Vec<InferInputTensor>) -> Result<(), String> {
        let request = ModelInferRequest {
            model_name: "echo".into(),
            inputs,
            ..ModelInferRequest::default()
        };
        ModelInferRequest::check(request.encode_to_vec().into())
    }

    #[test]
    fn what_grows_little_passes() {
        let floats = InferTensorContents {
            fp32_contents: vec![1.0; 1_000_000],
            ..InferTensorContents::default()
        };
        assert_eq!(check(vec![input(floats)]), Ok(()));
        let texts = InferTensorContents {
            bytes_contents: vec![Bytes::from_static(b"text"); 4096],
            ..InferTensorContents::default()
        };
        assert_eq!(check(vec![input(texts)]), Ok(()));
    }

    #[test]
    fn what_would_grow_much_does_not() {
        let many = vec![InferInputTensor::default(); MAX_MESSAGES + 1];
        assert!(check(many).unwrap_err().contains("tensors"));
        let varints = InferTensorContents {
            bool_contents: vec![true; MAX_VALUES],
            ..InferTensorContents::default()
        };
        assert!(check(vec![input(varints)]).unwrap_err().contains("values"));
        let empty = InferTensorContents {
            bytes_contents: vec![Bytes::new(); MAX_VALUES + 1],
            ..InferTensorContents::default()
        };
        assert!(check(vec![input(empty)]).unwrap_err().contains("values"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&b"\x2a\xff"[..], b"\x2a\x05\x00", b"\x0f", b"\x00\x01"] {
            let bytes = Bytes::from_static(bytes);
            assert!(
                ModelInferRequest::check(bytes.clone()).is_err(),
                "{bytes:?}"
            );
        }
    }
}
