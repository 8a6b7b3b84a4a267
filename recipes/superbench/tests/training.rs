//! Every model as it is trained.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use galley_nn::train::{Form, Operation, Optimizer, differentiate};
use galley_superbench::{ENTRIES, optimizer, trained};

#[test]
fn every_model_has_a_step_in_which_nothing_is_missing() {
    assert_eq!(ENTRIES.len(), 7);
    for entry in ENTRIES {
        let graph = trained(entry.name, Some(12)).unwrap().unwrap();
        for dropout in [false, true] {
            let plan = differentiate(&graph, Form { batch: 2, dropout }).unwrap();
            plan.verify()
                .unwrap_or_else(|what| panic!("{}: {what}", entry.name));
            assert_eq!(plan.parameter_count(), graph.parameter_count());
            // Every layer has a way back.
            assert_eq!(plan.layers.len(), plan.backward.len(), "{}", entry.name);
            let dropped = |layer: &&_| matches!(layer, Operation::Dropout { .. });
            let operations = plan.layers.iter().map(|layer| &layer.operation);
            let expected = match entry.name {
                // After the embeddings, and in each layer after attention and at the end.
                "bert-base" | "gpt2-small" if dropout => 1 + 2 * 12,
                "bert-large" | "gpt2-medium" if dropout => 1 + 2 * 24,
                "gpt2-large" if dropout => 1 + 2 * 36,
                "gpt2-xl" if dropout => 1 + 2 * 48,
                _ => 0,
            };
            assert_eq!(
                operations.filter(dropped).count(),
                expected,
                "{}",
                entry.name
            );
        }
    }
    assert!(trained("resnet50", None).is_none());
}

#[test]
fn models_are_trained_as_by_superbench() {
    assert_eq!(optimizer("bert-large"), Some(Optimizer::ADAM_W));
    assert_eq!(optimizer("gpt2-xl"), Some(Optimizer::ADAM_W));
    assert_eq!(optimizer("lstm"), Some(Optimizer::SGD));
    assert_eq!(optimizer("resnet50"), None);
}
