//! Random networks, fused and laid out, against the same networks layer by layer.

use std::collections::HashMap;

use candle_core::DType;

use super::*;
use crate::{
    Precision,
    graph::{Activation, Builder, Convolution, Op, Pool, Reduction, Value, Window, reference},
    host::tests::{flat, random},
};

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// A network of everything that there is, in any order that fits together.
pub(crate) fn network(seed: u64) -> Graph {
    let mut dice = Dice(seed);
    let size = [5 + dice.below(9), 5 + dice.below(9)];
    let mut net = Builder::new(COLOURS, size);
    let mut values = vec![net.input()];
    let layers = 4 + dice.below(14);
    let mut name = 0;
    while values.len() < layers {
        // Mostly the last one, so that there are chains to fuse.
        let last = values.len() - 1;
        let x = if dice.below(4) > 0 {
            values[last]
        } else {
            dice.of(&values)
        };
        let others: Vec<Value> = values
            .iter()
            .copied()
            .filter(|y| {
                [net.shape(*y).height, net.shape(*y).width]
                    == [net.shape(x).height, net.shape(x).width]
            })
            .collect();
        let mut tried = net.clone();
        name += 1;
        let y = layer(&mut tried, &mut dice, (x, &others), name);
        if tried.clone().finish(y).is_ok() && tried.shape(y).channels <= 80 {
            net = tried;
            values.push(y);
        }
    }
    let last = values[values.len() - 1];
    let output = match dice.below(3) {
        0 => net.linear("classifier", last, 5),
        1 => {
            let x = net.mean(last);
            net.linear("classifier", x, 5)
        }
        _ => {
            let x = net.convolution("classifier", last, Convolution::new(5, 1).biased());
            net.mean(x)
        }
    };
    net.finish(output).unwrap()
}

const ACTIVATIONS: [Activation; 3] = [Activation::Relu, Activation::Relu6, Activation::Sigmoid];

fn layer(net: &mut Builder, dice: &mut Dice, (x, others): (Value, &[Value]), name: usize) -> Value {
    let channels = net.shape(x).channels;
    match dice.below(14) {
        0..=3 => {
            let kernel = dice.of(&[[1, 1], [1, 1], [3, 3], [5, 5], [1, 3], [3, 1], [2, 4]]);
            let groups = dice.of(&[1, 1, 1, 2, 3, channels]);
            let mut layer =
                Convolution::new(groups * (1 + dice.below(24 / groups.min(12))), kernel)
                    .stride(dice.of(&[1, 1, 2, 3]))
                    .padding([dice.below(kernel[0]), dice.below(kernel[1])])
                    .groups(groups);
            layer.bias = dice.below(2) == 0;
            net.convolution(&format!("conv{name}"), x, layer)
        }
        4 => {
            let kernel = dice.of(&[3, 5]);
            let layer = Convolution::new(channels, kernel)
                .stride(dice.of(&[1, 2]))
                .padding(kernel / 2)
                .groups(channels);
            net.convolution(&format!("conv{name}"), x, layer)
        }
        5 | 6 => net.batch_norm_with(&format!("norm{name}"), x, dice.of(&[1e-5, 1e-3])),
        7 => net.activation(x, dice.of(&ACTIVATIONS)),
        8 => {
            let pool = Pool {
                window: Window::new(dice.of(&[2, 3]))
                    .stride(dice.of(&[1, 2]))
                    .padding(dice.below(2)),
                reduction: dice.of(&[
                    Reduction::Max,
                    Reduction::Mean {
                        count_padding: true,
                    },
                    Reduction::Mean {
                        count_padding: false,
                    },
                ]),
                ceil: dice.below(2) == 0,
            };
            net.pool(x, pool)
        }
        9 => {
            let parts: Vec<Value> = (0..1 + dice.below(3)).map(|_| dice.of(others)).collect();
            net.concat(&[&[x], &parts[..]].concat())
        }
        10 => {
            let first = dice.below(channels);
            net.slice(x, first, 1 + dice.below(channels - first))
        }
        11 => net.shuffle(x, dice.of(&[2, 3])),
        12 => match dice.below(3) {
            0 => {
                let gates = net.mean(x);
                let layer = Convolution::new(channels, 1).biased();
                let gates = net.convolution(&format!("conv{name}"), gates, layer);
                let gates = net.activation(gates, Activation::Sigmoid);
                net.gate(x, gates)
            }
            1 => net.dropout(x, 0.5),
            _ => net.adaptive_mean(x, [1 + dice.below(4), 1 + dice.below(4)]),
        },
        _ => {
            let other = dice.of(others);
            net.sum(x, other)
        }
    }
}

/// Weights for all of a graph's layers.
pub(crate) fn weights(graph: &Graph) -> HashMap<String, Tensor> {
    let seed = |name: &str| {
        name.bytes()
            .fold(7u32, |hash, byte| hash.wrapping_mul(31) + u32::from(byte))
    };
    let mut tensors = HashMap::new();
    for (name, shape) in graph.parameters() {
        let fan_in: usize = shape[1..].iter().product();
        let values = (random(&shape, seed(&name)) / (fan_in as f64).sqrt()).unwrap();
        tensors.insert(name, values);
    }
    for node in graph.nodes() {
        if matches!(node.op, Op::BatchNorm { .. }) {
            let [mean, variance] =
                ["running_mean", "running_var"].map(|part| format!("{}.{part}", node.name));
            let channels = [node.shape.channels];
            tensors.insert(mean.clone(), random(&channels, seed(&mean)));
            let values = (random(&channels, seed(&variance)).sqr().unwrap() + 0.2).unwrap();
            tensors.insert(variance, values);
        }
    }
    tensors
}

pub(crate) fn executor(graph: &Graph, tensors: &HashMap<String, Tensor>) -> Executor {
    executor_on(graph, tensors, &Precision::F32.into())
}

pub(crate) fn executor_on(
    graph: &Graph,
    tensors: &HashMap<String, Tensor>,
    backend: &Backend,
) -> Executor {
    let (description, shape) = (graph.clone(), graph.nodes()[0].shape);
    let weights = VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu);
    let colours = Colours {
        mean: [0.0; 3],
        deviation: [1.0; 3],
    };
    let describe: Describe = Box::new(move |_| Ok(description.clone()));
    let size = [shape.height, shape.width];
    Executor::new(describe, size, &weights, backend, &colours).unwrap()
}

#[test]
fn fused_networks_give_what_their_layers_give() {
    for seed in 0..400 {
        let graph = network(seed);
        let tensors = weights(&graph);
        let shape = graph.nodes()[0].shape;
        let images = 2;
        let pixels = random(
            &[images, shape.height, shape.width, COLOURS],
            seed as u32 + 1,
        );
        let executor = executor(&graph, &tensors);
        // Twice, so that what a pass leaves behind would be seen.
        executor.forward(&pixels).unwrap();
        let got = flat(&executor.forward(&pixels).unwrap());
        let mut expected = Vec::new();
        for image in flat(&pixels).chunks_exact(shape.values()) {
            let image: Vec<f64> = (0..COLOURS)
                .flat_map(|colour| {
                    image
                        .iter()
                        .skip(colour)
                        .step_by(COLOURS)
                        .map(|x| f64::from(*x))
                })
                .collect();
            let read = |name: &str, shape: &[usize]| {
                assert_eq!(tensors[name].dims(), shape, "{name}");
                flat(&tensors[name]).into_iter().map(f64::from).collect()
            };
            expected.extend(reference::run(&graph, &image, &read));
        }
        assert_eq!(got.len(), expected.len());
        let largest = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let off = (f64::from(*got) - expected).abs();
            assert!(
                off <= 2e-4 * (1.0 + largest),
                "seed {seed}, value {i}: {got}, expected {expected}\n{graph:#?}\n{:#?}",
                Plan::new(&graph, Form::CPU)
            );
        }
    }
}

#[test]
fn batch_mates_change_no_bit() {
    for seed in 400..420 {
        let graph = network(seed);
        let shape = graph.nodes()[0].shape;
        let executor = executor(&graph, &weights(&graph));
        let pixels = random(&[5, shape.height, shape.width, COLOURS], 3);
        let together = flat(&executor.forward(&pixels).unwrap());
        for (i, together) in together.chunks_exact(executor.classes()).enumerate() {
            let alone = executor.forward(&pixels.narrow(0, i, 1).unwrap()).unwrap();
            assert_eq!(flat(&alone), together, "seed {seed}");
        }
    }
}

#[test]
fn missing_weights_and_other_sizes_are_told() {
    let describe = |size| {
        let mut net = Builder::new(COLOURS, size);
        let x = net.convolution("stem", net.input(), Convolution::new(4, 5));
        let x = net.linear("fc", x, 2);
        net.finish(x)
    };
    let mut tensors = weights(&describe([6, 6]).unwrap());
    let build = |tensors: &HashMap<String, Tensor>| {
        let weights = VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu);
        let colours = Colours {
            mean: [0.0; 3],
            deviation: [1.0; 3],
        };
        Executor::new(
            Box::new(describe),
            [6, 6],
            &weights,
            &Precision::F32.into(),
            &colours,
        )
    };
    let executor = build(&tensors).unwrap();
    let of = |height, width| {
        executor
            .forward(&random(&[1, height, width, COLOURS], 1))
            .map(|y| y.dims().to_vec())
    };
    assert_eq!(of(6, 6).unwrap(), [1, 2]);
    // The linear layer would need other weights.
    assert!(
        of(7, 6)
            .unwrap_err()
            .to_string()
            .contains("fc has other weights")
    );
    assert!(
        of(4, 6)
            .unwrap_err()
            .to_string()
            .contains("stem: expected an image")
    );
    tensors.remove("stem.weight");
    assert!(
        build(&tensors)
            .unwrap_err()
            .to_string()
            .contains("stem.weight")
    );
}
