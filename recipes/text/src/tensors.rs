//! A text model's own inputs as raw tensors: `input_ids` and `attention_mask` `[n, l]`, whole numbers of any dtype.

use candle_core::{DType, Tensor};
use galley_core::{ForwardError, RawTensors, without_backtrace};
use galley_nn::text::Packed;

/// Bounds on what a model reads.
#[derive(Clone, Copy, Debug)]
pub struct TensorLimits {
    /// Ids are below this.
    pub vocabulary: usize,
    /// The most tokens that a row's mask shows.
    pub max_positions: usize,
}

/// Packs the tokens that the mask shows; without a mask, all of them. `token_type_ids` may be there, and be 0.
///
/// # Errors
/// A tensor is missing, unknown, of another shape or dtype, or holds a number out of range.
pub fn packed(tensors: &RawTensors, limits: TensorLimits) -> Result<Packed, ForwardError> {
    const NAMES: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];
    if let Some(unknown) = tensors.keys().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(bad(format!("got the unknown tensor {unknown}")));
    }
    let ids = tensors
        .get("input_ids")
        .ok_or_else(|| bad("got no input_ids"))?;
    let rows = |name: &str, limit: usize| match tensors.get(name) {
        Some(tensor) if tensor.dims() != ids.dims() => Err(bad(format!(
            "got input_ids of shape {:?} and {name} of shape {:?}",
            ids.shape(),
            tensor.shape()
        ))),
        Some(tensor) => whole_numbers(name, tensor, limit).map(Some),
        None => Ok(None),
    };
    let ids = rows("input_ids", limits.vocabulary)?.unwrap_or_default();
    rows("token_type_ids", 1)?;
    let mask = rows("attention_mask", 2)?
        .unwrap_or_else(|| ids.iter().map(|row| vec![1; row.len()]).collect());
    let packed = Packed::from_padded(&ids, &mask).map_err(|error| bad(without_backtrace(error)))?;
    match packed.lengths().max() {
        Some(longest) if longest > limits.max_positions => Err(bad(format!(
            "got a row of {longest} tokens, and the model takes {}",
            limits.max_positions
        ))),
        _ => Ok(packed),
    }
}

fn bad(reason: impl std::fmt::Display) -> ForwardError {
    ForwardError::BadTensors(format!(
        "expected input_ids [n, l] and optionally attention_mask [n, l], of whole numbers; {reason}"
    ))
}

/// The rows of a `[n, l]` of whole numbers in `[0, limit)`.
fn whole_numbers(name: &str, tensor: &Tensor, limit: usize) -> Result<Vec<Vec<u32>>, ForwardError> {
    if tensor.rank() != 2 || !tensor.dtype().is_int() {
        return Err(bad(format!(
            "got {name} of shape {:?} and dtype {}",
            tensor.shape(),
            tensor.dtype().as_str()
        )));
    }
    let rows: Vec<Vec<i64>> = tensor.to_dtype(DType::I64)?.to_vec2()?;
    rows.into_iter()
        .map(|row| {
            row.into_iter()
                .map(|value| match u32::try_from(value) {
                    Ok(number) if (number as usize) < limit => Ok(number),
                    _ => Err(bad(format!(
                        "got {value} in {name}, which must be below {limit}"
                    ))),
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensors(named: &[(&str, Tensor)]) -> RawTensors {
        let owned = |(name, tensor): &(&str, Tensor)| (name.to_string(), tensor.clone());
        named.iter().map(owned).collect()
    }

    fn ids(rows: &[[i64; 3]]) -> Tensor {
        Tensor::from_slice(rows.as_flattened(), (rows.len(), 3), &Device::Cpu).unwrap()
    }

    const LIMITS: TensorLimits = TensorLimits {
        vocabulary: 10,
        max_positions: 2,
    };

    #[test]
    fn masked_tokens_are_left_out() {
        let got = packed(
            &tensors(&[
                ("input_ids", ids(&[[1, 2, 0], [9, 0, 0]])),
                ("attention_mask", ids(&[[1, 1, 0], [1, 0, 0]])),
                ("token_type_ids", ids(&[[0; 3]; 2])),
            ]),
            LIMITS,
        );
        assert_eq!(got.unwrap(), Packed::new([vec![1, 2], vec![9]]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let ok = ids(&[[1, 2, 3]]);
        for (tensors, reason) in [
            (tensors(&[]), "no input_ids"),
            (tensors(&[("pixels", ok.clone())]), "unknown tensor pixels"),
            (tensors(&[("input_ids", ok.clone())]), "a row of 3 tokens"),
            (
                tensors(&[("input_ids", ids(&[[1, 10, 3]]))]),
                "got 10 in input_ids",
            ),
            (
                tensors(&[("input_ids", ids(&[[1, -1, 3]]))]),
                "got -1 in input_ids",
            ),
            (
                tensors(&[("input_ids", ok.to_dtype(DType::F32).unwrap())]),
                "dtype f32",
            ),
            (
                tensors(&[
                    ("input_ids", ok.clone()),
                    ("attention_mask", ids(&[[1; 3]; 2])),
                ]),
                "attention_mask of shape [2, 3]",
            ),
        ] {
            let error = packed(&tensors, LIMITS).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
