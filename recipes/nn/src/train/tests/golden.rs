//! Small networks of sequences against PyTorch's training: `tests/data/make_training.py` made the numbers.

use candle_core::Device;
use galley_core::synthetic;

use super::{Optimizer, Settings, Trainer};
use crate::{
    Precision,
    graph::{Activation, Builder, End, Graph, Lstm},
    text::{Norm, TensorNames, TransformerConfig},
    train::{Batch, trace},
};

const SEED: u64 = 3002;
const BATCH: usize = 3;
const LENGTH: usize = 20;
const CLASSES: usize = 5;

fn config(gpt2: bool) -> TransformerConfig {
    TransformerConfig {
        vocabulary: 50,
        max_positions: 80,
        token_types: if gpt2 { 0 } else { 2 },
        hidden: 24,
        intermediate: if gpt2 { 96 } else { 40 },
        layers: 2,
        heads: 3,
        layer_norm_eps: if gpt2 { 1e-5 } else { 1e-12 },
        norm: if gpt2 { Norm::Pre } else { Norm::Post },
        causal: gpt2,
        activation: if gpt2 {
            Activation::GeluTanh
        } else {
            Activation::Gelu
        },
    }
}

fn check(kind: &str, graph: &Graph, input: Vec<f32>, optimizer: Optimizer) {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/training.safetensors"
    );
    let goldens = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let losses = goldens[&format!("{kind}.losses")].to_vec1::<f64>().unwrap();
    let shape = graph.nodes()[0].shape;
    let batch = Batch {
        input,
        labels: (0..BATCH).map(|i| (i * 2 % CLASSES) as u32).collect(),
        shape: [shape.channels, shape.height, shape.width],
    };
    let weights = synthetic::var_builder(SEED);
    let settings = Settings {
        optimizer,
        dropout: None,
        pure_half: false,
    };
    let backend = Precision::F32.into();
    let mut trainer = Trainer::new(graph, BATCH, &weights, &settings, &backend).unwrap();
    let trace = trace(&mut trainer, &batch, losses.len()).unwrap();
    for (step, (got, expected)) in trace.losses.iter().zip(&losses).enumerate() {
        let off = (got - expected).abs() / expected;
        assert!(
            off < 1e-4,
            "{kind}: the loss of step {step} is {got}, expected {expected}"
        );
    }
    let named = goldens.keys().filter(|name| name.starts_with(kind));
    assert_eq!(trace.parameters.len(), named.count() - 1, "{kind}");
    for norms in trace.parameters {
        let name = format!("{kind}.{}", norms.name);
        let [gradient, value] = goldens[&name].to_vec1::<f64>().unwrap()[..] else {
            panic!("two norms of {name}")
        };
        // Softmax takes no notice of a bias of keys: its gradient is nothing but rounding, which AdamW makes whole steps of.
        if name.ends_with("key.bias") {
            continue;
        }
        for (what, got, expected) in [
            ("gradient", norms.gradient, gradient),
            ("values", norms.value, value),
        ] {
            let off = (got - expected).abs();
            assert!(
                off < 1e-3 * expected,
                "{name}: the norm of its {what} is {got}, expected {expected}"
            );
        }
    }
}

/// A transformer with its head.
fn transformer(gpt2: bool) -> Graph {
    let mut net = Builder::of_ids(LENGTH);
    let (names, prefix) = match gpt2 {
        true => (&TensorNames::GPT2, "gpt2"),
        false => (&TensorNames::BERT, "bert"),
    };
    let x = config(gpt2).describe(&mut net, (names, prefix), 0.1);
    let x = match gpt2 {
        true => net.pick(x, End::Last),
        false => {
            let x = net.pick(x, End::First);
            let x = net.linear("bert.pooler.dense", x, 24);
            net.activation(x, Activation::Tanh)
        }
    };
    let x = net.linear("linear", x, CLASSES);
    net.finish(x).unwrap()
}

fn ids() -> Vec<f32> {
    let ids = synthetic::raw24("ids", SEED).take(BATCH * LENGTH);
    ids.map(|raw| (raw % 50) as f32).collect()
}

#[test]
fn bert_is_trained_as_by_pytorch() {
    let optimizer = Optimizer::ADAM_W.with_rate(1e-3);
    check("bert", &transformer(false), ids(), optimizer);
}

#[test]
fn gpt2_is_trained_as_by_pytorch() {
    let optimizer = Optimizer::ADAM_W.with_rate(1e-3);
    check("gpt2", &transformer(true), ids(), optimizer);
}

#[test]
fn an_lstm_is_trained_as_by_pytorch() {
    let mut net = Builder::new(6, [1, LENGTH]);
    let mut x = net.input();
    for layer in 0..3 {
        let prefix = "lstm".into();
        x = net.lstm(Lstm { prefix, layer }, x, 20);
    }
    let x = net.pick(x, End::Last);
    let x = net.linear("linear", x, CLASSES);
    let input = synthetic::uniform("x", SEED).take(BATCH * LENGTH * 6);
    let optimizer = Optimizer::SGD.with_rate(0.1);
    check("lstm", &net.finish(x).unwrap(), input.collect(), optimizer);
}
