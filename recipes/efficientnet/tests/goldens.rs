//! Networks and whole recipes against what PyTorch and Pillow made of the same input.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors};
use galley_core::{
    AnyRecipe, DeviceName, Input, InputError, LoadError, LoadOptions, Output, WeightSource,
    run_batch, synthetic,
};
use serde::Deserialize;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn load(name: &str, weights: WeightSource) -> AnyRecipe {
    load_for(name, weights, (Device::Cpu, DType::F32)).unwrap()
}

fn load_for(
    name: &str,
    weights: WeightSource,
    (device, dtype): (Device, DType),
) -> Result<AnyRecipe, LoadError> {
    let entry = galley_efficientnet::ENTRIES
        .iter()
        .find(|entry| entry.name == name)
        .unwrap();
    let options = LoadOptions {
        weights,
        device,
        dtype,
        ..LoadOptions::default()
    };
    (entry.load)(entry, &options)
}

/// The first CUDA device, or nothing where there is none, and says so past the test harness, which shows what a passing
/// test prints to nobody.
fn cuda() -> Option<Device> {
    let device = DeviceName::Cuda(0).open();
    device
        .inspect_err(|error| {
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
        })
        .ok()
}

fn logits(recipe: &AnyRecipe, pixels: Tensor) -> Vec<Vec<f32>> {
    let tensors = HashMap::from([("pixels".to_owned(), pixels)]);
    let answers = recipe.forward_tensors(&tensors).unwrap();
    answers
        .into_iter()
        .map(|answer| serde_json::from_value(answer["logits"].clone()).unwrap())
        .collect()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[derive(Deserialize)]
struct Synthetic {
    seed: u64,
    inputs: Vec<SyntheticInput>,
}

#[derive(Deserialize)]
struct SyntheticInput {
    name: String,
    size: usize,
    block: usize,
    top5: Vec<usize>,
}

/// Each input alone and all of them in one batch.
fn synthetic_golden(recipe: &AnyRecipe, golden: &str, tolerance: f32) {
    let json = std::fs::read(data(&format!("{golden}.json"))).unwrap();
    let file: Synthetic = serde_json::from_slice(&json).unwrap();
    let expected = safetensors::load(data(&format!("{golden}.safetensors")), &Device::Cpu).unwrap();
    assert_eq!(recipe.info().weights, format!("synthetic:{}", file.seed));
    let images: Vec<Tensor> = file
        .inputs
        .iter()
        .map(|input| {
            let values = synthetic::image(&input.name, input.size, file.seed, input.block);
            let shape = (1, 3, input.size, input.size);
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        })
        .collect();
    let batched = logits(recipe, Tensor::cat(&images, 0).unwrap());
    for (i, (input, image)) in file.inputs.iter().zip(images).enumerate() {
        let expected: Vec<f32> = expected[&format!("logits.{i}")].to_vec1().unwrap();
        let single = logits(recipe, image).remove(0);
        let off = difference(&single, &expected);
        println!("{golden} {i}: largest difference {off:e}");
        assert!(off < tolerance, "{golden} {i} is off by {off}");
        assert!(difference(&single, &batched[i]) < 1e-4);
        let mut order: Vec<usize> = (0..single.len()).collect();
        order.sort_by(|a, b| single[*b].total_cmp(&single[*a]));
        assert_eq!(order[..5], input.top5);
    }
}

#[test]
fn b0_equals_torchvisions() {
    let recipe = load("efficientnet_b0", WeightSource::Synthetic(None));
    synthetic_golden(&recipe, "efficientnet_b0", 1e-4);
}

#[test]
fn b2_equals_torchvisions() {
    let recipe = load("efficientnet_b2_torchvision", WeightSource::Synthetic(None));
    synthetic_golden(&recipe, "efficientnet_b2", 2e-3);
    // torchvision's own count, which leaves statistics out.
    assert_eq!(recipe.architecture().parameters, Some(9_109_994));
}

#[test]
fn b2_equals_timms_tensorflow_edition() {
    let recipe = load("efficientnet_b2", WeightSource::Synthetic(None));
    synthetic_golden(&recipe, "efficientnet_b2_tf", 2e-3);
}

#[test]
fn on_cuda_they_equal_the_same() {
    let Some(device) = cuda() else { return };
    for (name, golden) in [
        ("efficientnet_b0", "efficientnet_b0"),
        ("efficientnet_b2_torchvision", "efficientnet_b2"),
        ("efficientnet_b2", "efficientnet_b2_tf"),
    ] {
        let weights = WeightSource::Synthetic(None);
        let recipe = load_for(name, weights, (device.clone(), DType::F32)).unwrap();
        synthetic_golden(&recipe, golden, 2e-3);
    }
}

/// timm's names lead to the same network: a weight file with them gives what torchvision's names give.
#[test]
fn b2_reads_timms_names() {
    let dir = tempfile::tempdir().unwrap();
    let names: HashMap<String, String> =
        serde_json::from_slice(&std::fs::read(data("timm_names.json")).unwrap()).unwrap();
    let torchvision = load("efficientnet_b2", WeightSource::Synthetic(None));
    let shapes = weight_shapes();
    assert_eq!(shapes.len(), names.len());
    let tensors: HashMap<String, Tensor> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = synthetic::tensor(&name, &shape, 1002);
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            (names[&name].clone(), tensor)
        })
        .collect();
    safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    let config = dir.path().join("config.json");
    std::fs::write(
        &config,
        r#"{"architecture": "tf_efficientnet_b2", "num_classes": 1000}"#,
    )
    .unwrap();
    let timm = load("efficientnet_b2", WeightSource::Dir(dir.path().into()));
    let image = synthetic::image("any", 96, 1, 12);
    let image = Tensor::from_vec(image, (1, 3, 96, 96), &Device::Cpu).unwrap();
    assert_eq!(logits(&torchvision, image.clone()), logits(&timm, image));

    std::fs::write(&config, r#"{"architecture": "resnet50"}"#).unwrap();
    let entry = galley_efficientnet::ENTRIES
        .iter()
        .find(|entry| entry.name == "efficientnet_b2")
        .unwrap();
    let options = LoadOptions {
        weights: WeightSource::Dir(dir.path().into()),
        ..LoadOptions::default()
    };
    let refused = (entry.load)(entry, &options).err().unwrap().to_string();
    assert!(refused.ends_with("expected the architecture tf_efficientnet_b2, got resnet50"));
}

/// Every tensor of torchvision's `efficientnet_b2`, written down once more from its source.
fn weight_shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = Vec::new();
    let mut conv = |name: String, norm: String, shape: [usize; 4]| {
        shapes.push((format!("{name}.weight"), shape.to_vec()));
        for part in ["weight", "bias", "running_mean", "running_var"] {
            shapes.push((format!("{norm}.{part}"), vec![shape[0]]));
        }
    };
    let mut linear = Vec::new();
    conv("features.0.0".into(), "features.0.1".into(), [32, 3, 3, 3]);
    let mut cin = 32;
    for (stage, (out, repeats, kernel)) in [
        (16, 2, 3),
        (24, 3, 3),
        (48, 3, 5),
        (88, 4, 3),
        (120, 4, 5),
        (208, 5, 5),
        (352, 2, 3),
    ]
    .into_iter()
    .enumerate()
    {
        for repeat in 0..repeats {
            let block = format!("features.{}.{repeat}.block", stage + 1);
            let mut layer = 0;
            let mut wide = cin;
            if stage > 0 {
                wide = cin * 6;
                conv(
                    format!("{block}.0.0"),
                    format!("{block}.0.1"),
                    [wide, cin, 1, 1],
                );
                layer = 1;
            }
            let depthwise = format!("{block}.{layer}");
            let shape = [wide, 1, kernel, kernel];
            conv(format!("{depthwise}.0"), format!("{depthwise}.1"), shape);
            let squeeze = format!("{block}.{}", layer + 1);
            linear.push((format!("{squeeze}.fc1"), vec![cin / 4, wide, 1, 1]));
            linear.push((format!("{squeeze}.fc2"), vec![wide, cin / 4, 1, 1]));
            let project = format!("{block}.{}", layer + 2);
            conv(
                format!("{project}.0"),
                format!("{project}.1"),
                [out, wide, 1, 1],
            );
            cin = out;
        }
    }
    conv(
        "features.8.0".into(),
        "features.8.1".into(),
        [1408, 352, 1, 1],
    );
    linear.push(("classifier.1".into(), vec![1000, 1408]));
    for (name, shape) in linear {
        shapes.push((format!("{name}.bias"), vec![shape[0]]));
        shapes.push((format!("{name}.weight"), shape));
    }
    shapes
}

/// A 224x224 PNG -> the network's input.
fn lite0_input(path: &Path) -> Tensor {
    let rgb = image::open(path).unwrap().into_rgb8().into_raw();
    let values: Vec<f32> = rgb
        .iter()
        .map(|&x| (f32::from(x) - 127.0) / 128.0)
        .collect();
    let image = Tensor::from_vec(values, (1, 224, 224, 3), &Device::Cpu).unwrap();
    image.permute((0, 3, 1, 2)).unwrap()
}

fn lite0_inputs(expected: &Path, inputs: &Path) {
    let recipe = load("efficientnet_lite0", WeightSource::Bundled);
    let expected = safetensors::load(expected, &Device::Cpu).unwrap();
    assert!(!expected.is_empty());
    for (name, expected) in expected {
        let input = lite0_input(&inputs.join(format!("{name}.png")));
        let expected: Vec<f32> = expected.to_vec1().unwrap();
        let off = difference(&logits(&recipe, input)[0], &expected);
        assert!(off < 1e-3, "{name} is off by {off}");
    }
}

#[test]
fn lite0_equals_its_reference_on_the_same_pixels() {
    lite0_inputs(&data("lite0_logits.safetensors"), &data("inputs"));
}

/// The same class, and logits off by less than a share of the largest.
fn lite0_agrees(recipe: &AnyRecipe, tolerance: f32) {
    let expected = safetensors::load(data("lite0_logits.safetensors"), &Device::Cpu).unwrap();
    for (name, expected) in expected {
        let input = lite0_input(&data("inputs").join(format!("{name}.png")));
        let expected: Vec<f32> = expected.to_vec1().unwrap();
        let got = logits(recipe, input).remove(0);
        let best =
            |logits: &[f32]| (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        let range = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
        let off = difference(&got, &expected);
        println!("{name}: off by {off} of {range}");
        assert_eq!(best(&got), best(&expected), "{name}");
        assert!(off < tolerance * range, "{name} is off by {off} of {range}");
    }
}

#[test]
fn lite0_in_bf16_agrees_with_its_reference() {
    let bf16 = (Device::Cpu, DType::BF16);
    match load_for("efficientnet_lite0", WeightSource::Bundled, bf16) {
        Ok(recipe) => lite0_agrees(&recipe, 0.05),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
        }
    }
}

#[test]
fn lite0_on_cuda_agrees_with_its_reference() {
    let Some(device) = cuda() else { return };
    for (dtype, tolerance) in [(DType::F16, 2e-2), (DType::F32, 1e-4)] {
        let for_device = (device.clone(), dtype);
        let recipe = load_for("efficientnet_lite0", WeightSource::Bundled, for_device).unwrap();
        lite0_agrees(&recipe, tolerance);
    }
}

/// A file goes to the device as bytes, and to the same classes as on the CPU.
#[test]
fn files_on_cuda_have_the_classes_that_they_have_on_the_cpu() {
    let Some(device) = cuda() else { return };
    let cpu = load("efficientnet_lite0", WeightSource::Bundled);
    for (dtype, tolerance) in [(DType::F16, 2e-2), (DType::F32, 1e-4)] {
        let for_device = (device.clone(), dtype);
        let cuda = load_for("efficientnet_lite0", WeightSource::Bundled, for_device).unwrap();
        let top = |recipe: &AnyRecipe| {
            let mut answers = run_batch(recipe.as_ref(), vec![recipe.example()]).unwrap();
            match answers.remove(0).unwrap() {
                Output::ImageClasses(classes) => classes,
                other => panic!("{other:?}"),
            }
        };
        let (got, expected) = (top(&cuda), top(&cpu));
        assert_eq!(got[0].class_id, expected[0].class_id);
        assert!((got[0].score - expected[0].score).abs() < tolerance);
    }
}

/// All 28 reference images, where the folder with them is at hand.
#[test]
fn lite0_equals_its_reference_on_all_images() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let reference = shared.join("reference/efficientnet_lite0");
    if !reference.is_dir() {
        // Past the test harness, which shows what a passing test prints to nobody.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no folder shared/reference/efficientnet_lite0 beside the workspace"
        );
        return;
    }
    lite0_inputs(
        &reference.join("logits.safetensors"),
        &reference.join("inputs"),
    );
    let golden = std::fs::read(reference.join("golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let images: Vec<Whole> = golden["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| Whole {
            image: image["image"].as_str().unwrap().into(),
            folder: String::new(),
            top: image["top5"]
                .as_array()
                .unwrap()
                .iter()
                .map(|class| {
                    let index = class["index"].as_u64().unwrap();
                    (index as u32, class["prob"].as_f64().unwrap() as f32)
                })
                .collect(),
        })
        .collect();
    whole_path(&images, |image| {
        shared.join("data/images").join(&image.image)
    });
    for bad in std::fs::read_dir(shared.join("data/images/bad")).unwrap() {
        let bytes = std::fs::read(bad.unwrap().path()).unwrap();
        let recipe = load("efficientnet_lite0", WeightSource::Auto);
        assert!(recipe.prepare(Input::File(bytes.into())).is_err());
    }
}

#[derive(Deserialize)]
struct Whole {
    image: String,
    folder: String,
    top: Vec<(u32, f32)>,
}

/// File in, classes out, all in one batch.
fn whole_path(images: &[Whole], path: impl Fn(&Whole) -> PathBuf) {
    let recipe = load("efficientnet_lite0", WeightSource::Auto);
    let files = images
        .iter()
        .map(|image| Input::File(std::fs::read(path(image)).unwrap().into()))
        .collect();
    let answers = run_batch(recipe.as_ref(), files).unwrap();
    assert_eq!(answers.len(), images.len());
    for (image, answer) in images.iter().zip(answers) {
        let Ok(Output::ImageClasses(classes)) = answer else {
            panic!("{}: {answer:?}", image.image);
        };
        assert_eq!(classes.len(), 5);
        assert_eq!(classes[0].class_id, image.top[0].0, "{}", image.image);
        for (class, score) in &image.top {
            if let Some(got) = classes.iter().find(|got| got.class_id == *class) {
                let off = (got.score - score).abs();
                assert!(off < 0.06, "{}: class {class} is off by {off}", image.image);
            }
        }
    }
}

#[test]
fn lite0_names_what_its_reference_names() {
    let images: Vec<Whole> =
        serde_json::from_slice(&std::fs::read(data("lite0.json")).unwrap()).unwrap();
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../loadgen/data/photos");
    whole_path(&images, |image| match image.folder.as_str() {
        "photos" => photos.join(&image.image),
        folder => data(folder).join(&image.image),
    });
}

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
