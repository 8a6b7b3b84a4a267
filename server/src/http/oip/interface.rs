//! Which tensors a recipe takes and gives.

use galley_core::{AnswerForm, InputKind};

use crate::{engine::Served, http::error::ApiError};

/// The datatypes that recipes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Datatype {
    Bytes,
    Fp32,
    Int64,
}

impl Datatype {
    /// As requests name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bytes => "BYTES",
            Self::Fp32 => "FP32",
            Self::Int64 => "INT64",
        }
    }
}

/// A tensor by name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) name: &'static str,
    pub(super) datatype: Datatype,
    /// The shape of one item; the batch's dimension comes before it. An input of one element an item has one dimension, as
    /// Triton's load generator can send no shape without.
    pub(super) dims: Vec<usize>,
    /// Whether another input may be sent in its place.
    pub(super) optional: bool,
}

/// The names of the inputs.
pub(super) const IMAGE: &str = "image";
pub(super) const PIXELS: &str = "pixels";
pub(super) const TEXT: &str = "text";

/// All tensors of a recipe. A request sends one of the inputs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Interface {
    pub(super) inputs: Vec<Tensor>,
    pub(super) outputs: Vec<Tensor>,
    /// What the outputs are made of.
    pub(super) form: AnswerForm,
}

impl Interface {
    pub(super) fn of(served: &Served) -> Self {
        let signature = served.signature();
        let tensor = |name, datatype, dims: &[usize]| Tensor {
            name,
            datatype,
            dims: dims.to_vec(),
            optional: false,
        };
        let mut inputs = vec![match served.info().input_kind {
            InputKind::File => tensor(IMAGE, Datatype::Bytes, &[1]),
            InputKind::Json => tensor(TEXT, Datatype::Bytes, &[1]),
        }];
        if let Some([height, width]) = signature.pixels {
            inputs.push(tensor(PIXELS, Datatype::Fp32, &[3, height, width]));
            inputs.iter_mut().for_each(|input| input.optional = true);
        }
        let labelled = |dims: &[usize]| {
            vec![
                tensor("label", Datatype::Bytes, dims),
                tensor("score", Datatype::Fp32, dims),
            ]
        };
        let outputs = match signature.answer {
            AnswerForm::Classes(count) => {
                let mut outputs = labelled(&[count]);
                outputs.push(tensor("class_id", Datatype::Int64, &[count]));
                outputs
            }
            AnswerForm::Label => labelled(&[]),
            AnswerForm::Embedding(width) => vec![tensor("embedding", Datatype::Fp32, &[width])],
            _ => vec![tensor("prediction", Datatype::Bytes, &[])],
        };
        Self {
            inputs,
            outputs,
            form: signature.answer,
        }
    }

    /// The input of this name.
    pub(super) fn input(&self, name: &str) -> Result<&Tensor, ApiError> {
        find(&self.inputs, name)
            .map(|place| &self.inputs[place])
            .ok_or_else(|| unknown("input", &self.inputs))
    }

    /// The outputs that a request names, as places in [`Interface::outputs`]; all of them if it names none.
    pub(super) fn wanted<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<usize>, ApiError> {
        let mut places = Vec::new();
        for name in names {
            let place =
                find(&self.outputs, name).ok_or_else(|| unknown("output", &self.outputs))?;
            if places.contains(&place) {
                return Err(ApiError::malformed(format!(
                    "output {}: named twice",
                    self.outputs[place].name
                )));
            }
            places.push(place);
        }
        Ok(if places.is_empty() {
            (0..self.outputs.len()).collect()
        } else {
            places
        })
    }
}

/// The names of tensors, for a message.
pub(super) fn names(tensors: &[Tensor]) -> String {
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name).collect();
    names.join(", ")
}

fn find(tensors: &[Tensor], name: &str) -> Option<usize> {
    tensors.iter().position(|tensor| tensor.name == name)
}

fn unknown(what: &str, tensors: &[Tensor]) -> ApiError {
    ApiError::malformed(format!("no such {what}; there is {}", names(tensors)))
}
