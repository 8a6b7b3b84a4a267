//! The plain reference: its way there against the networks' own, its way back against differences.

use super::{Case, Factors, dropped, kept};
use crate::{
    executor::tests::network,
    graph::{Graph, reference},
    host::tests::{flat, random},
};

/// A number for each value, which looks random.
fn direction(len: usize, seed: u32) -> Vec<f64> {
    flat(&random(&[len], seed))
        .into_iter()
        .map(f64::from)
        .collect()
}

/// Moves all of a tensor's values a little, and compares how the loss follows.
pub(super) fn check_by_differences(graph: Graph, batch: usize, seed: u32, factors: Factors<'_>) {
    const STEP: f64 = 1e-6;
    let case = Case::new(graph, batch, seed);
    let weights = case.numbers();
    let outcome = case.reference(&weights, factors);
    assert!(outcome.loss.is_finite());
    let mut largest = 0f64;
    for (name, _) in case.graph.parameters() {
        let gradient = &outcome.gradients[&name];
        let direction = direction(gradient.len(), seed + 77);
        let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let moved = |step: f64| {
            let mut weights = weights.clone();
            let tensor = weights.get_mut(&name).unwrap();
            for (x, direction) in tensor.iter_mut().zip(&direction) {
                *x += step * direction;
            }
            case.reference(&weights, factors).loss
        };
        let got = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        largest = largest.max(expected.abs());
        assert!(
            (got - expected).abs() < 1e-6 + 1e-4 * largest,
            "seed {seed}, {name}: the loss changes by {got}, expected {expected}\n{:#?}",
            case.graph
        );
    }
}

#[test]
fn losses_of_random_networks_follow_their_gradients() {
    for seed in 4000..4024 {
        check_by_differences(network(seed), 3, seed as u32, &kept);
    }
    for seed in 4060..4068 {
        check_by_differences(network(seed), 3, seed as u32, &dropped(5));
    }
}

/// With the statistics of a batch as running ones, a trained network answers as one that is not.
#[test]
fn the_way_there_is_that_of_inference() {
    for seed in 4100..4140 {
        let case = Case::new(network(seed), 2, seed as u32);
        let weights = case.numbers();
        let outcome = case.reference(&weights, &kept);
        let shape = case.graph.nodes()[0].shape;
        let read = |name: &str, shape: &[usize]| {
            let (node, part) = name.rsplit_once('.').unwrap();
            let values = match (outcome.statistics.get(node), part) {
                (Some([mean, _]), "running_mean") => mean,
                (Some([_, variance]), "running_var") => variance,
                _ => &weights[name],
            };
            assert_eq!(values.len(), shape.iter().product::<usize>());
            values.clone()
        };
        let mut loss = 0.0;
        for (image, label) in case.input.chunks_exact(shape.values()).zip(&case.labels) {
            let channel = |channel| image.iter().skip(channel).step_by(shape.channels);
            let image: Vec<f64> = (0..shape.channels)
                .flat_map(|i| channel(i).map(|x| f64::from(*x)))
                .collect();
            let logits = reference::run(&case.graph, &image, &read);
            let sum: f64 = logits.iter().map(|x| x.exp()).sum();
            loss += (sum.ln() - logits[*label as usize]) / case.labels.len() as f64;
        }
        let off = (loss - outcome.loss).abs();
        assert!(
            off < 1e-9 * (1.0 + loss.abs()),
            "seed {seed}: {loss}, expected {}",
            outcome.loss
        );
    }
}
