//! Weight files with timm's names.

use std::collections::HashMap;

use candle_core::{Device, Tensor, safetensors};
use galley_core::{LoadOptions, WeightSource, synthetic};

use super::{data, load, logits};

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
