//! The model on tensors of its own inputs, so that its numbers can be held against another implementation's.

use candle_core::{DType, Tensor};
use galley_core::{ForwardError, RawTensors};
use serde_json::{Value, json};

use crate::{network::Network, text::Keys};

const EXPECTED: &str = "expected words [n, t] and chars [n, t, c] as integers, 0 where padded, and optionally lengths [n]";

/// The scores of each item's words in a single pass: `{"emissions": [[..]; words]}`.
pub(crate) fn emissions(
    network: &Network,
    tensors: &RawTensors,
) -> Result<Vec<Value>, ForwardError> {
    if let Some(name) = tensors
        .keys()
        .find(|name| !["words", "chars", "lengths"].contains(&name.as_str()))
    {
        return Err(bad(format!("got {name}")));
    }
    let (shape, words) = integers(tensors, "words")?;
    let (char_shape, chars) = integers(tensors, "chars")?;
    let (&[n, t], &[n2, t2, c]) = (&*shape, &*char_shape) else {
        return Err(bad(format!("got words {shape:?} and chars {char_shape:?}")));
    };
    if (n, t) != (n2, t2) {
        return Err(bad(format!("got words {shape:?} and chars {char_shape:?}")));
    }
    let lengths = lengths(tensors, n, t)?;
    let mut keys = Keys::default();
    for (item, &length) in lengths.iter().enumerate() {
        for place in item * t..item * t + length {
            let spelling = chars[place * c..][..c].iter().copied();
            add(network, &mut keys, words[place], spelling)?;
        }
    }
    let mut scores = network.emissions(&keys, &lengths)?.into_iter();
    Ok(lengths
        .iter()
        .map(|&length| json!({"emissions": scores.by_ref().take(length).collect::<Vec<_>>()}))
        .collect())
}

fn bad(got: String) -> ForwardError {
    ForwardError::BadTensors(format!("{EXPECTED}; {got}"))
}

fn lengths(tensors: &RawTensors, n: usize, t: usize) -> Result<Vec<usize>, ForwardError> {
    if !tensors.contains_key("lengths") {
        return Ok(vec![t; n]);
    }
    let (shape, lengths) = integers(tensors, "lengths")?;
    if shape != [n] {
        return Err(bad(format!("got lengths {shape:?} for {n} items")));
    }
    lengths
        .into_iter()
        .map(|length| {
            usize::try_from(length)
                .ok()
                .filter(|length| *length <= t)
                .ok_or_else(|| bad(format!("got a length of {length} for {t} words")))
        })
        .collect()
}

fn add(
    network: &Network,
    keys: &mut Keys,
    word: i64,
    chars: impl Iterator<Item = i64>,
) -> Result<(), ForwardError> {
    let (words, characters) = network.vocabulary();
    let check = |what: &str, index: i64, limit: usize| {
        u32::try_from(index)
            .ok()
            .filter(|index| (*index as usize) < limit)
            .ok_or_else(|| bad(format!("got a {what} {index} outside 0..{limit}")))
    };
    let word = check("word", word, words)?;
    let chars = chars
        .take_while(|index| *index != 0)
        .map(|index| Ok(check("character", index, characters)? as u8))
        .collect::<Result<Vec<u8>, ForwardError>>()?;
    keys.add(|key| {
        key.extend_from_slice(&word.to_le_bytes());
        key.extend_from_slice(&chars);
    });
    Ok(())
}

fn integers(tensors: &RawTensors, name: &str) -> Result<(Vec<usize>, Vec<i64>), ForwardError> {
    let tensor: &Tensor = tensors
        .get(name)
        .ok_or_else(|| bad(format!("got no {name}")))?;
    if !tensor.dtype().is_int() {
        return Err(bad(format!("got {name} as {}", tensor.dtype().as_str())));
    }
    let values = tensor.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?;
    Ok((tensor.dims().to_vec(), values))
}
