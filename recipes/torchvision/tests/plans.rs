//! What is left of the networks to run, once they are fused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use galley_nn::plan::{Form, Operation, Plan};
use galley_torchvision::zoo::{Settings, describe};

fn plan(name: &str) -> Plan {
    let settings = Settings {
        size: [224; 2],
        classes: 1000,
        auxiliary: true,
    };
    let auxiliary = name != "inception_v3";
    let settings = Settings {
        auxiliary,
        ..settings
    };
    let graph = describe(name, settings).unwrap().unwrap();
    Plan::new(&graph, Form::CPU).unwrap()
}

/// How often each kind of step there is.
fn steps(name: &str) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for step in &plan(name).steps {
        let kind = match &step.operation {
            Operation::Convolution { .. } => "convolution",
            Operation::Depthwise {
                expand: Some(_), ..
            } => "expansion",
            Operation::Depthwise { .. } => "filters",
            Operation::Linear { .. } => "linear",
            Operation::Pool { .. } => "pool",
            Operation::Mean { .. } => "mean",
            Operation::Scale { .. } => "scale",
            Operation::Add { .. } => "add",
            Operation::Gate { .. } => "gate",
            Operation::Gather { .. } => "gather",
        };
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

/// Norms, activations, sums, concatenations and dropout are part of other steps.
#[test]
fn little_is_left_beside_convolutions() {
    for (name, expected) in [
        (
            "resnet50",
            &[("convolution", 53), ("linear", 1), ("mean", 1), ("pool", 1)][..],
        ),
        (
            "resnext50_32x4d",
            &[("convolution", 53), ("linear", 1), ("mean", 1), ("pool", 1)],
        ),
        (
            "densenet121",
            &[
                ("convolution", 120),
                ("linear", 1),
                ("mean", 1),
                ("pool", 4),
                ("scale", 1),
            ],
        ),
        (
            "vgg16_bn",
            &[("convolution", 13), ("linear", 3), ("pool", 5)],
        ),
        ("alexnet", &[("convolution", 5), ("linear", 3), ("pool", 3)]),
        (
            "squeezenet1_0",
            &[("convolution", 26), ("mean", 1), ("pool", 3)],
        ),
        (
            "mobilenet_v2",
            &[
                ("convolution", 19),
                ("expansion", 16),
                ("filters", 1),
                ("linear", 1),
                ("mean", 1),
            ],
        ),
        (
            "googlenet",
            &[
                ("convolution", 57),
                ("linear", 1),
                ("mean", 1),
                ("pool", 13),
            ],
        ),
        (
            "inception_v3",
            &[
                ("convolution", 94),
                ("linear", 1),
                ("mean", 1),
                ("pool", 13),
            ],
        ),
        // Each block but the first ones gathers the half that it works on, and the last convolution all.
        (
            "shufflenet_v2_x1_0",
            &[
                ("convolution", 21),
                ("expansion", 16),
                ("filters", 3),
                ("gather", 16),
                ("linear", 1),
                ("mean", 1),
                ("pool", 1),
            ],
        ),
    ] {
        assert_eq!(steps(name), expected.iter().copied().collect(), "{name}");
    }
}

/// What an image needs is far less than all of its layers give together.
#[test]
fn memory_is_shared() {
    for (name, most) in [
        ("resnet50", 3),
        ("vgg16", 7),
        ("densenet121", 3),
        ("mobilenet_v2", 2),
    ] {
        let values = plan(name).len;
        assert!(values < most << 20, "{name} takes {values} values");
    }
}
