//! Against what the same weights gave in PyTorch, and with input that nobody would type.

mod held_out;

use std::io::Write as _;
use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Tensor};
use galley_core::{Input, InputError, Output, Recipe, WeightSource, run_batch};
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::text::{Text, words};

const GOLDEN: &str = include_str!("../tests/data/golden.json");

#[derive(Deserialize)]
struct Golden {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    id: String,
    text: String,
    segments: Vec<String>,
    segments_long: Vec<String>,
    emissions: Option<Vec<[f32; 3]>>,
}

fn goldens() -> Vec<Item> {
    serde_json::from_str::<Golden>(GOLDEN).unwrap().items
}

fn recipe(options: &LoadOptions) -> DeepSegment {
    load_recipe(&ENTRIES[0], options).unwrap()
}

fn bundled() -> DeepSegment {
    recipe(&LoadOptions::default())
}

fn prepare(recipe: &DeepSegment, text: &str) -> Text {
    recipe.prepare(Input::text(text)).unwrap()
}

/// All texts as one batch, with windows of the recipe's or, for a single pass, without.
fn segment(recipe: &DeepSegment, texts: &[&str], windows: Windows) -> Vec<Vec<String>> {
    let texts: Vec<Text> = texts.iter().map(|text| prepare(recipe, text)).collect();
    let batch: Vec<&Text> = texts.iter().collect();
    let raw = recipe.segment(&batch, windows).unwrap();
    texts
        .into_iter()
        .zip(raw)
        .map(|(text, raw)| match recipe.finish(text, raw) {
            Output::Sentences(sentences) => sentences,
            other => panic!("expected sentences, got {other:?}"),
        })
        .collect()
}

const SINGLE_PASS: Windows = Windows {
    words: usize::MAX,
    max_prefix: usize::MAX,
};

#[test]
fn goldens_come_out_alone_and_in_one_batch() {
    assert_goldens(&bundled());
}

fn assert_goldens(recipe: &DeepSegment) {
    let items = goldens();
    assert_eq!(items.len(), 40);
    for item in &items {
        let text = [item.text.as_str()];
        let got = segment(recipe, &text, recipe.windows);
        assert_eq!(
            got,
            std::slice::from_ref(&item.segments_long),
            "{}",
            item.id
        );
        let got = segment(recipe, &text, SINGLE_PASS);
        assert_eq!(got, std::slice::from_ref(&item.segments), "{}", item.id);
    }
    let texts: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
    let got = segment(recipe, &texts, recipe.windows);
    for (item, got) in items.iter().zip(got) {
        assert_eq!(got, item.segments_long, "{} in a batch", item.id);
    }
}

/// A batch of raw tensors from texts, padded to the longest.
fn tensors(recipe: &DeepSegment, texts: &[&str]) -> galley_core::RawTensors {
    let texts: Vec<Text> = texts.iter().map(|text| prepare(recipe, text)).collect();
    let n = texts.len();
    let t = texts.iter().map(Text::len).max().unwrap();
    let c = 40;
    let (mut words, mut chars) = (vec![0_u32; n * t], vec![0_u32; n * t * c]);
    for (i, text) in texts.iter().enumerate() {
        for (j, &word) in text.words.iter().enumerate() {
            let (index, spelling) = text.distinct.get(word).split_at(4);
            words[i * t + j] = u32::from_le_bytes(index.try_into().unwrap());
            for (k, &id) in spelling.iter().enumerate() {
                chars[(i * t + j) * c + k] = id.into();
            }
        }
    }
    let lengths: Vec<u32> = texts.iter().map(|text| text.len() as u32).collect();
    let cpu = &Device::Cpu;
    HashMap::from([
        (
            "words".into(),
            Tensor::from_vec(words, (n, t), cpu).unwrap(),
        ),
        (
            "chars".into(),
            Tensor::from_vec(chars, (n, t, c), cpu).unwrap(),
        ),
        ("lengths".into(), Tensor::from_vec(lengths, n, cpu).unwrap()),
    ])
}

#[test]
fn raw_tensors_give_the_golden_emissions() {
    assert_emissions(&bundled(), 1e-4);
}

/// Holds emissions against the goldens'; gives how many words there are, and of how many the highest score is the same
/// label's.
fn assert_emissions(recipe: &DeepSegment, tolerance: f32) -> (usize, usize) {
    let items: Vec<Item> = goldens()
        .into_iter()
        .filter(|item| item.emissions.is_some())
        .collect();
    let texts: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
    let got = recipe.forward_tensors(&tensors(recipe, &texts)).unwrap();
    assert_eq!(got.len(), items.len());
    let best = |scores: &[f32; 3]| (0..3).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (mut words, mut same) = (0, 0);
    for (item, got) in items.iter().zip(got) {
        let got: Vec<[f32; 3]> = serde_json::from_value(got["emissions"].clone()).unwrap();
        let want = item.emissions.as_ref().unwrap();
        assert_eq!(got.len(), want.len(), "{}", item.id);
        words += got.len();
        same += (got.iter().zip(want))
            .filter(|(got, want)| best(got) == best(want))
            .count();
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert!(
                (got - want).abs() <= tolerance,
                "{}: {got} is not {want}",
                item.id
            );
        }
    }
    (words, same)
}

/// The first CUDA device with the bundled weights, or nothing where there is none, and says so.
fn on_cuda(dtype: DType) -> Option<DeepSegment> {
    match Device::new_cuda(0) {
        Ok(device) => Some(recipe(&LoadOptions {
            device,
            dtype,
            ..LoadOptions::default()
        })),
        Err(_) => {
            // Past the test harness, which shows what a passing test prints to nobody.
            let _ = writeln!(std::io::stderr(), "skipped: no CUDA device");
            None
        }
    }
}

#[test]
fn goldens_come_out_on_cuda_in_f32() {
    let Some(recipe) = on_cuda(DType::F32) else {
        return;
    };
    assert_goldens(&recipe);
    assert_emissions(&recipe, 1e-4);
    answers_of_many_are_those_of_each(&recipe, &recipe);
}

#[test]
fn goldens_come_out_on_cuda_in_f16_as_far_as_it_goes() {
    let Some(recipe) = on_cuda(DType::F16) else {
        return;
    };
    let scores = goldens().into_iter().filter_map(|item| item.emissions);
    let scores: Vec<f32> = scores.flatten().flatten().collect();
    let highest = scores.iter().copied().fold(f32::MIN, f32::max);
    let lowest = scores.iter().copied().fold(f32::MAX, f32::min);
    let (words, same) = assert_emissions(&recipe, 2e-2 * (highest - lowest));
    assert!(
        same as f32 >= 0.995 * words as f32,
        "{same} of {words} words"
    );
    answers_of_many_are_those_of_each(&recipe, &recipe);
}

#[test]
fn raw_tensors_that_do_not_fit_are_refused_with_what_is_expected() {
    let recipe = bundled();
    let good = tensors(&recipe, &["one two", "three"]);
    let spoil = |name: &str, tensor: Option<Tensor>| {
        let mut bad = good.clone();
        match tensor {
            Some(tensor) => drop(bad.insert(name.into(), tensor)),
            None => drop(bad.remove(name)),
        }
        let error = recipe.forward_tensors(&bad).unwrap_err().to_string();
        assert!(error.contains("expected words [n, t]"), "{name}: {error}");
    };
    let full = |value: u32, shape: &[usize]| Tensor::full(value, shape, &Device::Cpu).unwrap();
    spoil("words", None);
    spoil("chars", None);
    spoil("pixels", Some(full(0, &[2])));
    spoil("words", Some(full(20_000, &[2, 2])));
    spoil("words", Some(full(1, &[2, 3])));
    spoil("words", Some(good["words"].to_dtype(DType::F32).unwrap()));
    spoil("chars", Some(full(97, &[2, 2, 40])));
    spoil("chars", Some(full(1, &[2, 2])));
    spoil("lengths", Some(full(3, &[2])));
    spoil("lengths", Some(full(1, &[3])));
}

#[test]
fn inputs_of_another_kind_fail_alone() {
    let recipe = bundled();
    let inputs = vec![
        Input::text("thank you"),
        Input::File(b"thank you".as_slice().into()),
        Input::Json(json!({"text": " thank\n\u{3000}you "})),
        Input::Json(json!({"text": 5})),
        Input::Json(json!(["thank you"])),
        Input::Json(json!({"txt": "thank you"})),
        Input::text(""),
    ];
    let answers = run_batch(&recipe, inputs).unwrap();
    let sentences = |text: &[&str]| {
        let sentences = text.iter().map(|&text| text.to_owned()).collect();
        Ok(Output::Sentences(sentences))
    };
    assert_eq!(answers[0], sentences(&["thank you"]));
    assert_eq!(answers[2], sentences(&["thank you"]));
    assert_eq!(answers[6], sentences(&[]));
    for place in [1, 4] {
        let wrong = matches!(answers[place], Err(InputError::WrongKind { .. }));
        assert!(wrong, "{:?}", answers[place]);
    }
    for place in [3, 5] {
        let unreadable = matches!(answers[place], Err(InputError::Unreadable(_)));
        assert!(unreadable, "{:?}", answers[place]);
    }
}

#[test]
fn a_text_over_the_limit_is_refused_by_the_option_that_sets_it() {
    let mut options = LoadOptions::default();
    options.limits.max_text_bytes = 9;
    let recipe = recipe(&options);
    assert!(recipe.prepare(Input::text("thank you")).is_ok());
    let error = recipe.prepare(Input::text("thank you!")).unwrap_err();
    let message = "text of 10 bytes exceeds the limit of 9 bytes (--max-text)";
    assert_eq!(error.to_string(), message);
}

#[test]
fn odd_input_keeps_every_word() {
    let recipe = bundled();
    let controls: String = (0..0x300).filter_map(char::from_u32).collect();
    let texts = [
        "x".repeat(1 << 20),
        "é".repeat(1 << 19),
        "so ".repeat(10_000),
        (0..5_000).map(|i| format!("w{i} ")).collect(),
        "🙂 👩‍👩‍👧‍👦 \u{0} \u{7f} \u{200b} \u{feff}a \u{202e}b".into(),
        controls,
        "‘quoted’ İI ΟΔΟΣ".into(),
    ];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let together = segment(&recipe, &texts, recipe.windows);
    for (text, sentences) in texts.into_iter().zip(together) {
        let expected: Vec<&str> = words(text).collect();
        assert_eq!(sentences.join(" "), expected.join(" "));
    }
}

#[test]
fn answers_depend_neither_on_batch_mates_nor_on_what_was_asked_before() {
    answers_of_many_are_those_of_each(&bundled(), &bundled());
}

fn answers_of_many_are_those_of_each(recipe: &DeepSegment, fresh: &DeepSegment) {
    let samples: Vec<Text> = (0..40)
        .map(|seed| recipe.sample(Some(1 + 9 * seed), seed as u64))
        .collect();
    let batch: Vec<&Text> = samples.iter().collect();
    assert_eq!(recipe.cost(batch[39]), 352);
    let together = recipe.forward(&batch).unwrap();
    for (text, together) in batch.iter().zip(&together) {
        assert_eq!(
            fresh.forward(&[text]).unwrap(),
            std::slice::from_ref(together)
        );
    }
    assert_eq!(recipe.forward(&batch).unwrap(), together);
}

#[test]
fn other_weights_load_and_wrong_ones_say_why() {
    let weights = |weights| LoadOptions {
        weights,
        ..LoadOptions::default()
    };
    let synthetic = recipe(&weights(WeightSource::Synthetic(None)));
    assert_eq!(synthetic.info.weights, "synthetic:3001");
    assert_eq!(segment(&synthetic, &["a b"], synthetic.windows).len(), 1);

    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights");
    let from_dir = recipe(&weights(WeightSource::Dir(dir)));
    assert_eq!(from_dir.info.weights, "dir: weights");
    let text = ["i was hungry i ordered a pizza and i went to the movies"];
    let bundled = bundled();
    assert_eq!(bundled.info.weights, "bundled: deepsegment_en");
    let want = segment(&bundled, &text, bundled.windows);
    assert_eq!(segment(&from_dir, &text, from_dir.windows), want);

    let empty = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let error = load(&ENTRIES[0], &weights(WeightSource::Dir(empty))).err();
    assert!(error.unwrap().to_string().contains("config.json"));
    let half = LoadOptions {
        dtype: DType::F16,
        ..LoadOptions::default()
    };
    let error = load(&ENTRIES[0], &half).err().unwrap().to_string();
    assert!(error.contains("f32"), "{error}");
}
