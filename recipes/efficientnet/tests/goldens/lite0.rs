//! EfficientNet-Lite0 with its weights, on the same pixels and from files.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors};
use galley_core::{AnyRecipe, Input, Output, WeightSource, run_batch};
use serde::Deserialize;

use super::{cuda, data, difference, load, load_for, logits};

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
