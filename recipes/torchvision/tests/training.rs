//! Every network as it is trained.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use galley_nn::train::{Form, Operation, Plan, differentiate};
use galley_torchvision::{ENTRIES, trained};

fn plan(name: &str, dropout: bool) -> Plan {
    let graph = trained(name, None).unwrap().unwrap();
    let plan = differentiate(&graph, Form { batch: 2, dropout }).unwrap();
    assert_eq!(plan.parameter_count(), graph.parameter_count(), "{name}");
    plan
}

#[test]
fn every_network_has_a_step_in_which_nothing_is_missing() {
    assert_eq!(ENTRIES.len(), 35);
    for entry in ENTRIES {
        for dropout in [false, true] {
            let plan = plan(entry.name, dropout);
            plan.verify()
                .unwrap_or_else(|what| panic!("{}: {what}", entry.name));
            let dropped = |layer: &&_| matches!(layer, Operation::Dropout { .. });
            let operations = || plan.layers.iter().map(|layer| &layer.operation);
            assert!(dropout || operations().find(dropped).is_none());
            // Every layer has a way back.
            assert_eq!(plan.layers.len(), plan.backward.len(), "{}", entry.name);
        }
    }
}

#[test]
fn auxiliary_classifiers_are_trained_by_their_weights() {
    for (name, expected) in [
        ("googlenet", &[1.0, 0.3, 0.3][..]),
        ("inception_v3", &[1.0, 0.4]),
        ("resnet18", &[1.0]),
    ] {
        let plan = plan(name, false);
        let weights: Vec<f64> = plan.losses.iter().map(|loss| loss.weight).collect();
        assert_eq!(weights, expected, "{name}");
    }
}

/// Images of SuperBench's size are too small for what is trained besides.
#[test]
fn inception_says_what_does_not_fit() {
    let mistake = trained("inception_v3", Some(224)).unwrap().unwrap_err();
    assert_eq!(mistake.layer, "AuxLogits.conv1.conv");
    assert!(trained("resnet51", None).is_none());
}
