//! For every recipe that there is: its own input as a file of tensors, and what it gives for them.

use galley_core::{Entry, InputKind, synthetic};
use safetensors::{Dtype, serialize, tensor::TensorView};
use serde_json::Value;

/// A tensor of a file: its name, dtype, shape and bytes.
pub(crate) type Named<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

/// A safetensors file.
pub(crate) fn file(tensors: &[Named<'_>]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (*name, view)
    });
    serialize(views, None).unwrap()
}

/// Whole numbers of eight bytes.
pub(crate) fn whole<'a>(name: &'a str, shape: &[usize], values: &[i64]) -> Named<'a> {
    let bytes = values.iter().copied().flat_map(i64::to_le_bytes).collect();
    (name, Dtype::I64, shape.into(), bytes)
}

/// Two images that differ, of `side` by `side` pixels.
pub(crate) fn pixels(side: usize) -> Named<'static> {
    let image = |name| synthetic::image(name, side, 1, 1 + side / 8);
    let values = ["one", "other"].into_iter().flat_map(image);
    let bytes = values.flat_map(f32::to_le_bytes).collect();
    ("pixels", Dtype::F32, vec![2, 3, side, side], bytes)
}

/// Sequences of three rows of 256 numbers.
fn rows(sequences: usize) -> Named<'static> {
    let values = synthetic::uniform("rows", 1).take(sequences * 3 * 256);
    let bytes = values.flat_map(f32::to_le_bytes).collect();
    ("input", Dtype::F32, vec![sequences, 3, 256], bytes)
}

/// Two items that differ, as a recipe's network takes them; nothing where there is no network, or one of gigabytes that is as
/// a smaller one.
///
/// # Panics
/// Nobody has said yet what a recipe's tensors are.
pub(crate) fn of(entry: &Entry) -> Option<Vec<Named<'static>>> {
    match (entry.name, entry.input_kind) {
        ("echo", _) => None,
        // What smaller images become is too small for its last layers.
        ("inception_v3", _) => Some(vec![pixels(80)]),
        (_, InputKind::File) => Some(vec![pixels(64)]),
        ("deepsegment_en", _) => Some(vec![
            whole("words", &[2, 3], &[5, 6, 7, 8, 9, 0]),
            whole("chars", &[2, 3, 2], &[1, 2, 3, 0, 4, 5, 6, 7, 8, 0, 0, 0]),
            whole("lengths", &[2], &[3, 2]),
        ]),
        ("bert-large" | "gpt2-medium" | "gpt2-large" | "gpt2-xl", _) => None,
        ("lstm", _) => Some(vec![rows(2)]),
        (
            "transformers_ner" | "distilbert_sst2" | "text_embeddings" | "bert-base" | "gpt2-small",
            _,
        ) => Some(vec![
            whole("input_ids", &[2, 4], &[5, 6, 7, 8, 9, 10, 11, 0]),
            whole("attention_mask", &[2, 4], &[1, 1, 1, 1, 1, 1, 1, 0]),
        ]),
        (name, _) => panic!("{name} has no tensors to be tried on yet"),
    }
}

/// As [`of`], but with nothing in it: no item at all, and items of no words where a recipe can say something of these.
pub(crate) fn of_nothing(entry: &Entry) -> Vec<Vec<Named<'static>>> {
    match (entry.name, entry.input_kind) {
        ("echo", _) => Vec::new(),
        (_, InputKind::File) => vec![vec![("pixels", Dtype::F32, vec![0, 3, 8, 8], Vec::new())]],
        ("deepsegment_en", _) => vec![
            vec![
                whole("words", &[0, 3], &[]),
                whole("chars", &[0, 3, 2], &[]),
            ],
            vec![
                whole("words", &[2, 0], &[]),
                whole("chars", &[2, 0, 2], &[]),
            ],
        ],
        ("transformers_ner", _) => vec![
            vec![whole("input_ids", &[0, 3], &[])],
            vec![whole("input_ids", &[2, 0], &[])],
        ],
        ("lstm", _) => vec![vec![rows(0)]],
        ("distilbert_sst2" | "text_embeddings" | "bert-base" | "gpt2-small", _) => {
            vec![vec![whole("input_ids", &[0, 3], &[])]]
        }
        (name, _) => panic!("{name} has no tensors to be tried on yet"),
    }
}

/// Weights that a recipe has without a network: real ones if it has any.
pub(crate) fn weights(entry: &Entry) -> &'static str {
    match entry.bundled {
        Some(_) => "bundled",
        None => "synthetic:1",
    }
}

/// The numbers of each item's line, which are those of its one member: `{"logits": [...]}`.
pub(crate) fn numbers(lines: &[Value]) -> Vec<Vec<f64>> {
    fn add(value: &Value, numbers: &mut Vec<f64>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| add(value, numbers)),
            other => numbers.push(other.as_f64().unwrap_or_else(|| panic!("{other}"))),
        }
    }
    let of_line = |line: &Value| {
        let members: Vec<_> = line.as_object().unwrap().iter().collect();
        let [(name, value)] = members[..] else {
            panic!("expected one member, got {line}")
        };
        assert!(
            ["logits", "emissions", "embedding"].contains(&name.as_str()),
            "{name}"
        );
        let mut numbers = Vec::new();
        add(value, &mut numbers);
        numbers
    };
    lines.iter().map(of_line).collect()
}
