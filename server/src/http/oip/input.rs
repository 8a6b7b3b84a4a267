//! Tensors as they came -> the inputs of a recipe, with every number of a client's checked before it is used.

use bytes::Bytes;
use galley_core::{Input, Pixels};
use serde_json::value::RawValue;

use super::{
    binary,
    elements::{self, Text},
    interface::{Datatype, IMAGE, Interface, Tensor, names},
    proto::InferTensorContents,
};
use crate::{engine::InferError, http::error::ApiError};

/// A tensor as a client declares it.
pub(super) struct Given<'a> {
    pub(super) name: &'a str,
    pub(super) datatype: &'a str,
    pub(super) shape: &'a [i64],
    pub(super) source: Source<'a>,
}

/// Where its elements are.
pub(super) enum Source<'a> {
    /// In JSON.
    Json(&'a RawValue),
    /// In bytes, see [`binary`].
    Raw(Bytes),
    /// In a gRPC message.
    Typed(InferTensorContents),
    /// These bytes are the one element.
    Whole(Bytes),
}

/// The elements of an input.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Elements {
    Bytes(Vec<Bytes>),
    Fp32(Vec<f32>),
}

impl Elements {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bytes(elements) => elements.len(),
            Self::Fp32(elements) => elements.len(),
        }
    }
}

/// The inputs that a request's tensors hold, at most `max_items`.
pub(super) fn read(
    interface: &Interface,
    given: Vec<Given<'_>>,
    max_items: usize,
) -> Result<Vec<Input>, ApiError> {
    // An unknown name is the likelier reason for a wrong number.
    for tensor in &given {
        interface.input(tensor.name)?;
    }
    let count = given.len();
    let mut given = given.into_iter();
    let (Some(only), None) = (given.next(), given.next()) else {
        return Err(ApiError::malformed(format!(
            "expected one input of {}, got {count}",
            names(&interface.inputs)
        )));
    };
    let tensor = interface.input(only.name)?;
    let refuse = |reason: String| ApiError::malformed(format!("input {}: {reason}", tensor.name));
    let datatype = tensor.datatype.name();
    if only.datatype != datatype {
        // What came is a client's string of any length.
        return Err(refuse(format!("expected datatype {datatype}")));
    }
    let shape = shape(tensor, only.shape).map_err(refuse)?;
    let items = shape[0];
    if items > max_items {
        let limit = max_items;
        return Err(InferError::TooManyItems { items, limit }.into());
    }
    let count = shape
        .iter()
        .try_fold(1, |product: usize, &size| product.checked_mul(size))
        .ok_or_else(|| refuse("the shape has more elements than can be counted".into()))?;
    let elements = read_elements(tensor, only.source, (&shape, count)).map_err(refuse)?;
    as_inputs(tensor, elements).map_err(refuse)
}

/// The sizes of a shape that fits the tensor; the first is the number of items. One element an item is told as `[n, 1]`, and may
/// be sent as `[n]`.
fn shape(tensor: &Tensor, shape: &[i64]) -> Result<Vec<usize>, String> {
    let sizes: Option<Vec<usize>> = shape.iter().map(|&size| size.try_into().ok()).collect();
    let fits = |sizes: &Vec<usize>| match sizes.split_first() {
        Some((_, [])) => tensor.dims == [1],
        Some((_, item)) => item == tensor.dims,
        None => false,
    };
    sizes.filter(fits).ok_or_else(|| {
        let sizes: Vec<String> = tensor.dims.iter().map(usize::to_string).collect();
        let one = match tensor.dims.as_slice() {
            [1] => "[n] or ",
            _ => "",
        };
        format!(
            "expected shape {one}[n, {}], n being the number of items",
            sizes.join(", ")
        )
    })
}

fn read_elements(
    tensor: &Tensor,
    source: Source<'_>,
    (shape, count): (&[usize], usize),
) -> Result<Elements, String> {
    match source {
        Source::Json(data) => {
            let text = if tensor.name == IMAGE {
                Text::Base64
            } else {
                Text::Plain
            };
            elements::read(data, tensor.datatype, text, (shape, count))
        }
        Source::Raw(bytes) => binary::decode(tensor.datatype, bytes, count),
        Source::Whole(bytes) => Ok(Elements::Bytes(vec![bytes])),
        Source::Typed(contents) => {
            let (elements, field) = match tensor.datatype {
                Datatype::Fp32 => (Elements::Fp32(contents.fp32_contents), "fp32_contents"),
                _ => (Elements::Bytes(contents.bytes_contents), "bytes_contents"),
            };
            match elements.len() {
                got if got == count => Ok(elements),
                got => Err(format!(
                    "expected {count} elements in {field} by the shape, got {got}"
                )),
            }
        }
    }
}

fn as_inputs(tensor: &Tensor, elements: Elements) -> Result<Vec<Input>, String> {
    match elements {
        Elements::Bytes(files) if tensor.name == IMAGE => {
            Ok(files.into_iter().map(Input::File).collect())
        }
        Elements::Bytes(texts) => {
            let text = |(place, bytes): (usize, Bytes)| match String::from_utf8(bytes.into()) {
                Ok(text) => Ok(Input::text(text)),
                Err(_) => Err(format!("element {place}: expected a text in UTF-8")),
            };
            texts.into_iter().enumerate().map(text).collect()
        }
        Elements::Fp32(values) => {
            let &[3, height, width] = tensor.dims.as_slice() else {
                return Err("expected three planes".into());
            };
            let images = values.chunks_exact((3 * height * width).max(1));
            Ok(images
                .map(|image| {
                    Input::Pixels(Pixels {
                        size: [height, width],
                        values: image.to_vec(),
                    })
                })
                .collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use galley_core::AnswerForm;

    use super::*;
    use crate::http::oip::interface::{PIXELS, TEXT};

    fn interface() -> Interface {
        let tensor = |name, datatype, dims: &[usize]| Tensor {
            name,
            datatype,
            dims: dims.to_vec(),
            optional: true,
        };
        Interface {
            inputs: vec![
                tensor(TEXT, Datatype::Bytes, &[1]),
                tensor(PIXELS, Datatype::Fp32, &[3, 1, 2]),
            ],
            outputs: Vec::new(),
            form: AnswerForm::Json,
        }
    }

    fn raw<'a>(name: &'a str, datatype: &'a str, shape: &'a [i64], bytes: &[u8]) -> Given<'a> {
        Given {
            name,
            datatype,
            shape,
            source: Source::Raw(Bytes::copy_from_slice(bytes)),
        }
    }

    #[test]
    fn items_come_out_in_their_order() {
        let shapes: [&[i64]; 2] = [&[2], &[2, 1]];
        for shape in shapes {
            let given = raw(TEXT, "BYTES", shape, b"\x01\0\0\0a\x02\0\0\0bc");
            assert_eq!(
                read(&interface(), vec![given], 2).unwrap(),
                [Input::text("a"), Input::text("bc")]
            );
        }
        let values: Vec<u8> = (0..12u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
        let inputs = read(
            &interface(),
            vec![raw(PIXELS, "FP32", &[2, 3, 1, 2], &values)],
            2,
        );
        let Input::Pixels(second) = &inputs.unwrap()[1] else {
            panic!("expected pixels");
        };
        assert_eq!(second.size, [1, 2]);
        assert_eq!(second.values, [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let none = read(&interface(), vec![raw(TEXT, "BYTES", &[0], b"")], 2);
        assert_eq!(none.unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let huge: &[i64] = &[i64::MAX, 3, 1, 2];
        for (given, reason) in [
            (vec![], "expected one input of text, pixels, got 0"),
            (
                vec![
                    raw(TEXT, "BYTES", &[0], b""),
                    raw(PIXELS, "FP32", &[0, 3, 1, 2], b""),
                ],
                "got 2",
            ),
            (
                vec![raw("other", "BYTES", &[0], b"")],
                "no such input; there is text, pixels",
            ),
            (
                vec![raw(TEXT, "FP32", &[1], b"")],
                "input text: expected datatype BYTES",
            ),
            (vec![raw(TEXT, "BYTES", &[], b"")], "expected shape [n]"),
            (vec![raw(TEXT, "BYTES", &[-1], b"")], "expected shape [n]"),
            (
                vec![raw(TEXT, "BYTES", &[1, 2], b"")],
                "expected shape [n] or [n, 1]",
            ),
            (
                vec![raw(TEXT, "BYTES", &[1, 1, 1], b"")],
                "expected shape [n]",
            ),
            (
                vec![raw(PIXELS, "FP32", &[1], b"")],
                "expected shape [n, 3, 1, 2]",
            ),
            (
                vec![raw(PIXELS, "FP32", &[1, 3, 2, 1], b"")],
                "expected shape [n, 3, 1, 2]",
            ),
            (
                vec![raw(PIXELS, "FP32", huge, b"")],
                "exceeds the limit of 2 items",
            ),
            (
                vec![raw(TEXT, "BYTES", &[3], b"")],
                "request of 3 items exceeds",
            ),
            (
                vec![raw(TEXT, "BYTES", &[1], b"\x01\0\0\0\xff")],
                "element 0: expected a text in UTF-8",
            ),
        ] {
            let error = read(&interface(), given, 2).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let overflow = read(
            &interface(),
            vec![raw(PIXELS, "FP32", huge, b"")],
            usize::MAX,
        );
        assert!(
            overflow
                .unwrap_err()
                .to_string()
                .contains("more elements than can be counted")
        );
    }
}
