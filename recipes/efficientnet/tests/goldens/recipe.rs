//! What a recipe answers: to odd files, in batches, to samples and to tensors.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use galley_core::{Decoded, Input, InputError, LoadOptions, Output, WeightSource, run_batch};

use super::{data, load};

#[test]
fn the_examples_are_espresso() {
    let recipe = load("efficientnet_lite0", WeightSource::Auto);
    let coffee = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/coffee.jpg");
    let coffee = Input::File(std::fs::read(coffee).unwrap().into());
    for answer in run_batch(recipe.as_ref(), vec![recipe.example(), coffee]).unwrap() {
        let json = serde_json::to_value(answer.unwrap()).unwrap();
        assert_eq!(json[0]["class"], "espresso");
        assert_eq!(json[0]["class_id"], 967);
        assert_eq!(json[0]["synset"], "n07920052");
        assert!(json[0]["score"].as_f64().unwrap() > 0.5);
    }
}

/// Files of kinds that decoders get wrong, with what the reference says to Pillow's pixels of them.
#[test]
fn odd_files_are_answered_as_their_pixels_are() {
    let recipe = load("efficientnet_lite0", WeightSource::Auto);
    let answer = |name: &str| {
        let file = std::fs::read(data("cases").join(name)).unwrap();
        let input = Input::File(file.into());
        run_batch(recipe.as_ref(), vec![input]).unwrap().remove(0)
    };
    let same_pixels = [("espresso", 0.28), ("consomme", 0.13)];
    let turned = [("reel", 0.17), ("consomme", 0.09)];
    let jug = [("espresso", 0.32), ("whiskey jug", 0.10)];
    let eggnog = [("espresso", 0.26), ("eggnog", 0.11)];
    for (name, expected) in [
        ("control_one_scan.jpg", same_pixels),
        ("one_scan_per_component.jpg", same_pixels),
        ("y_then_cbcr.jpg", same_pixels),
        ("exif_orientation_long.jpg", turned),
        ("eleven_bytes_before_APP2.jpg", jug),
        ("exif_flag_no_exif.webp", eggnog),
        ("alpha_flag_no_alph.webp", eggnog),
        ("mjpeg_frame.jpg", [("espresso", 0.33), ("consomme", 0.12)]),
        ("no_eoi_then_trailer.jpg", jug),
    ] {
        let json = serde_json::to_value(answer(name).unwrap()).unwrap();
        for (place, (class, score)) in expected.into_iter().enumerate() {
            assert_eq!(json[place]["class"], class, "{name}");
            let got = json[place]["score"].as_f64().unwrap();
            assert!(
                (got - score).abs() < 0.03,
                "{name}: {class} {got}, not {score}"
            );
        }
    }
    for name in [
        "scan_cut_at_05_percent_then_eoi.jpg",
        "scan_cut_at_30_percent_then_eoi.jpg",
    ] {
        let refused = answer(name).unwrap_err();
        assert!(matches!(refused, InputError::Unreadable(_)), "{name}");
    }
}

#[test]
fn batched_equals_single_and_a_bad_item_fails_alone() {
    let recipe = load("efficientnet_lite0", WeightSource::Auto);
    let prepared: Vec<_> = (0..7).map(|seed| recipe.sample(None, seed)).collect();
    let outputs = |batch: &[&galley_core::Prepared]| recipe.forward(batch).unwrap();
    let batched = outputs(&prepared.iter().collect::<Vec<_>>());
    let singles: Vec<_> = prepared
        .iter()
        .map(|item| outputs(&[item]).remove(0))
        .collect();
    for ((batched, single), seed) in batched.into_iter().zip(singles).zip(0..) {
        let finish = |raw| recipe.finish(recipe.sample(None, seed), raw).unwrap();
        let (Output::ImageClasses(batched), Output::ImageClasses(single)) =
            (finish(batched), finish(single))
        else {
            panic!("expected classes");
        };
        for (a, b) in batched.iter().zip(&single) {
            assert_eq!(a.class_id, b.class_id);
            assert!((a.score - b.score).abs() < 1e-4);
        }
    }
    let inputs = vec![
        recipe.example(),
        Input::File(b"no image".as_slice().into()),
        Input::text("no file"),
        recipe.example(),
    ];
    let answers = run_batch(recipe.as_ref(), inputs).unwrap();
    assert!(answers[0].is_ok() && answers[0] == answers[3]);
    assert!(matches!(answers[1], Err(InputError::Unreadable(_))));
    assert!(matches!(answers[2], Err(InputError::WrongKind { .. })));
}

#[test]
fn samples_of_any_size_run_and_wrong_tensors_are_refused() {
    let recipe = load("efficientnet_b0", WeightSource::Synthetic(None));
    let items: Vec<_> = [1, 33, 33, 64, 224]
        .map(|size| recipe.sample(Some(size), 1))
        .into();
    let batch: Vec<_> = items.iter().collect();
    assert_eq!(recipe.forward(&batch).unwrap().len(), 5);
    let pixels = Tensor::zeros((1, 4, 8, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
    for tensors in [
        HashMap::new(),
        HashMap::from([("pixels".to_owned(), pixels)]),
    ] {
        let refused = recipe.forward_tensors(&tensors).unwrap_err().to_string();
        assert!(
            refused.contains("pixels [n, 3, height, width]"),
            "{refused}"
        );
    }
}

#[test]
fn a_device_decodes_only_if_asked_and_able() {
    let entry = (galley_efficientnet::ENTRIES.iter())
        .find(|entry| entry.name == "efficientnet_lite0")
        .unwrap();
    let load = |jpeg: &str| {
        let options = LoadOptions {
            options: [("jpeg".to_owned(), jpeg.to_owned())].into(),
            ..LoadOptions::default()
        };
        (entry.load)(entry, &options).map(|recipe| recipe.decoder())
    };
    assert_eq!(load("cpu").unwrap(), None);
    for (jpeg, expected) in [("device", "got cpu without"), ("nvjpeg", "cpu or device")] {
        let error = load(jpeg).unwrap_err().to_string();
        assert!(
            error.contains("option efficientnet_lite0.jpeg") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn what_was_decoded_is_counted_once() {
    let recipe = load("efficientnet_lite0", WeightSource::Bundled);
    recipe.prepare(recipe.example()).unwrap();
    let (on_device, on_cpu) = (0, 1);
    assert_eq!(recipe.decoded(), Decoded { on_device, on_cpu });
    assert_eq!(recipe.decoded(), Decoded::default());
}
