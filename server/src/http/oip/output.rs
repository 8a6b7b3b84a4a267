//! Answers -> columns, one for each output of the recipe, an entry (or a row of them) an item.

use galley_core::{AnswerForm, InputError, Output};

use super::interface::Interface;
use crate::{
    engine::{Answers, InferError},
    http::error::ApiError,
};

/// The elements of an output, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Column {
    Text(Vec<String>),
    Fp32(Vec<f32>),
    Int64(Vec<i64>),
}

/// All outputs of a request, in the interface's order. This protocol has no errors by item: one that could not be read
/// fails the request.
pub(super) fn columns(interface: &Interface, answers: Answers) -> Result<Vec<Column>, ApiError> {
    let items = answers.len();
    let read = answers.into_iter().enumerate().map(|(place, answer)| {
        answer.map_err(|error| ApiError::AllRefused {
            too_large: matches!(error, InputError::TooLarge { .. }),
            reason: match items {
                1 => error.to_string(),
                _ => format!("item {place} of {items}: {error}"),
            },
        })
    });
    let outputs: Vec<Output> = read.collect::<Result<_, _>>()?;
    let not_its_form =
        || InferError::Failed("the recipe's answer is not of the form that it declares".into());
    match interface.form {
        AnswerForm::Classes(count) => {
            let (mut labels, mut scores, mut ids) = (Vec::new(), Vec::new(), Vec::new());
            for output in outputs {
                match output {
                    Output::ImageClasses(classes) if classes.len() == count => {
                        for class in classes {
                            labels.push(class.class);
                            scores.push(class.score);
                            ids.push(i64::from(class.class_id));
                        }
                    }
                    _ => return Err(not_its_form().into()),
                }
            }
            Ok(vec![
                Column::Text(labels),
                Column::Fp32(scores),
                Column::Int64(ids),
            ])
        }
        AnswerForm::Label => {
            let (mut labels, mut scores) = (Vec::new(), Vec::new());
            for output in outputs {
                let Output::TextLabel(text) = output else {
                    return Err(not_its_form().into());
                };
                labels.push(text.label);
                scores.push(text.score);
            }
            Ok(vec![Column::Text(labels), Column::Fp32(scores)])
        }
        AnswerForm::Embedding(width) => {
            let mut vectors = Vec::with_capacity(items * width);
            for output in outputs {
                match output {
                    Output::Embedding(vector) if vector.len() == width => vectors.extend(vector),
                    _ => return Err(not_its_form().into()),
                }
            }
            Ok(vec![Column::Fp32(vectors)])
        }
        _ => {
            let json = outputs.iter().map(serde_json::to_string);
            let predictions = json.collect::<Result<_, _>>().map_err(|error| {
                tracing::error!(%error, "an answer cannot be written");
                InferError::Failed("the answer cannot be written".into())
            })?;
            Ok(vec![Column::Text(predictions)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_the_rows_of_one_output() {
        let read = |vectors: &[&[f32]]| {
            let interface = Interface {
                inputs: Vec::new(),
                outputs: Vec::new(),
                form: AnswerForm::Embedding(2),
            };
            let answer = |vector: &&[f32]| Ok(Output::Embedding(vector.to_vec()));
            columns(&interface, vectors.iter().map(answer).collect()).ok()
        };
        let rows = read(&[&[1.0, 2.0], &[3.0, 4.0]]);
        assert_eq!(rows, Some(vec![Column::Fp32(vec![1.0, 2.0, 3.0, 4.0])]));
        assert_eq!(read(&[&[1.0]]), None);
    }
}
