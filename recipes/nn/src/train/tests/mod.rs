//! Networks of all kinds, trained fast and in the plainest way.

#[cfg(feature = "cuda")]
mod device;
mod golden;
mod gradients;
mod operators;
mod plans;
#[cfg(feature = "cuda")]
mod ranks;
mod sequences;
mod steps;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::{
    Optimizer, Settings, Trainer,
    reference::{Factors, Outcome, Step, Tensors},
};
use crate::{
    Backend, Precision,
    executor::tests::weights,
    graph::{Graph, Op},
    host::tests::{flat, random},
    ops::dropout::{Dropout, Stream, TOGETHER},
};

/// A network with numbers, and a batch.
struct Case {
    graph: Graph,
    tensors: HashMap<String, Tensor>,
    input: Vec<f32>,
    labels: Vec<u32>,
}

impl Case {
    fn new(graph: Graph, batch: usize, seed: u32) -> Self {
        let shape = graph.nodes()[0].shape;
        let classes = graph.shape(graph.output()).channels as u32;
        let input = match graph.nodes()[0].op {
            Op::Ids => (0..batch * shape.width)
                .map(|i| (1 + i * 7 % 10) as f32)
                .collect(),
            _ => flat(&random(&[batch, shape.values()], seed + 1)),
        };
        Self {
            tensors: weights(&graph),
            input,
            labels: (0..batch as u32)
                .map(|i| (i * 3 + seed) % classes)
                .collect(),
            graph,
        }
    }

    /// In f64.
    fn numbers(&self) -> Tensors {
        let named = |(name, tensor): (&String, &Tensor)| {
            let numbers = flat(tensor).into_iter().map(f64::from);
            (name.clone(), numbers.collect())
        };
        self.tensors.iter().map(named).collect()
    }

    fn reference(&self, weights: &Tensors, factors: Factors<'_>) -> Outcome {
        let input: Vec<f64> = self.input.iter().map(|x| f64::from(*x)).collect();
        let step = Step {
            graph: &self.graph,
            weights,
            input: &input,
            labels: &self.labels,
            factors,
        };
        step.run()
    }

    fn trainer(&self, settings: &Settings) -> Trainer {
        self.trainer_on(settings, &Precision::F32.into())
    }

    fn trainer_on(&self, settings: &Settings, backend: &Backend) -> Trainer {
        let weights = VarBuilder::from_tensors(self.tensors.clone(), DType::F32, &Device::Cpu);
        Trainer::new(&self.graph, self.labels.len(), &weights, settings, backend).unwrap()
    }
}

/// That the device, if there is one, has the same.
fn check_on_device(what: &str, case: &Case, dropout: Option<u64>, expected: &Outcome) {
    #[cfg(feature = "cuda")]
    device::check(what, case, dropout, expected);
    #[cfg(not(feature = "cuda"))]
    let _ = (what, case, dropout, expected);
}

/// Nothing is dropped.
fn kept(_: usize, values: usize, _: f64) -> Vec<f64> {
    vec![1.0; values]
}

/// What the first step with a seed drops.
fn dropped(seed: u64) -> impl Fn(usize, usize, f64) -> Vec<f64> {
    move |node, values, share| {
        let stream = Stream {
            seed,
            step: 0,
            layer: node as u32,
        };
        let dropout = Dropout::new(share, stream);
        (0..values.div_ceil(TOGETHER))
            .flat_map(|i| dropout.factors(i as u64))
            .take(values)
            .map(f64::from)
            .collect()
    }
}

pub(super) fn descent(lr: f64, dropout: Option<u64>) -> Settings {
    Settings {
        optimizer: Optimizer::Sgd {
            lr,
            momentum: 0.9,
            weight_decay: 1e-4,
            nesterov: true,
        },
        dropout,
        pure_half: false,
    }
}
