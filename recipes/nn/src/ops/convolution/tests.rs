//! Against the plain convolution, at every level, between other channels.

use super::*;
use crate::{
    graph::{Builder, Value, reference},
    host::{
        Shared,
        tests::{flat, random},
    },
};

const SIZE: [usize; 2] = [9, 14];

struct Case {
    inputs: usize,
    layer: graph::Convolution,
    /// Pixels that weights are laid out for: by squares, if there are enough.
    pixels: usize,
    activation: Activation,
    order: bool,
    before: bool,
    residual: bool,
}

fn cases() -> Vec<Case> {
    use graph::Convolution as Of;
    let layers = [
        (3, Of::new(16, 7).stride(2).padding(3)),
        (5, Of::new(7, 1)),
        (19, Of::new(33, 1)),
        (19, Of::new(40, 1).stride(2)),
        (15, Of::new(24, 3).padding(1)),
        (16, Of::new(24, 3).padding(1)),
        (21, Of::new(49, 3)),
        (37, Of::new(16, 3).padding([1, 0])),
        (6, Of::new(70, [1, 5]).padding([0, 2])),
        (6, Of::new(9, [4, 2]).stride([3, 1]).padding([1, 0])),
        (64, Of::new(64, 3).padding(1).groups(16)),
        (96, Of::new(64, 3).stride(2).padding(1).groups(2)),
        (15, Of::new(10, 3).groups(5)),
        // Rows that would push each other out of the nearest cache.
        (1024, Of::new(20, 1)),
        (512, Of::new(9, 1).stride(2)),
        (512, Of::new(7, 3).stride(2).padding(1)),
        (1024, Of::new(16, 3).stride(1).padding(1).groups(4)),
    ];
    let mut cases = Vec::new();
    for (i, (inputs, layer)) in layers.into_iter().enumerate() {
        for extras in 0..4 {
            cases.push(Case {
                inputs,
                pixels: if extras < 2 { 1000 } else { 10 },
                activation: if extras == 1 {
                    Activation::Silu
                } else {
                    Activation::Relu6
                },
                order: layer.groups == 1 && extras % 2 == 1,
                layer: layer.clone().biased(),
                before: extras >= 2,
                residual: (i + extras) % 2 == 1,
            });
        }
    }
    // So many weights that all threads share squares.
    for (outputs, before) in [(176, false), (170, true)] {
        cases.push(Case {
            inputs: 170,
            pixels: 1000,
            activation: Activation::Relu,
            layer: Of::new(outputs, 3).padding(1).biased(),
            order: before,
            before,
            residual: !before,
        });
    }
    cases
}

impl Case {
    /// Layer by layer.
    fn expected(&self, tensor: &dyn Fn(&str) -> Vec<f32>, image: &[f32]) -> Vec<f32> {
        let mut net = Builder::new(self.inputs, SIZE);
        let mut x: Value = net.input();
        if self.before {
            x = net.batch_norm_with("norm", x, 0.0);
            x = net.relu(x);
        }
        x = net.convolution("layer", x, self.layer.clone());
        x = net.activation(x, self.activation);
        let graph = net.finish(x).unwrap();
        let read = |name: &str, shape: &[usize]| -> Vec<f64> {
            let values = match name {
                "norm.running_mean" => vec![0.0; shape[0]],
                "norm.running_var" => vec![1.0; shape[0]],
                name => tensor(name),
            };
            values.into_iter().map(f64::from).collect()
        };
        let image: Vec<f64> = image.iter().map(|x| f64::from(*x)).collect();
        reference::run(&graph, &image, &read)
            .into_iter()
            .map(|y| y as f32)
            .collect()
    }

    fn check(&self, level: Level) {
        let inputs = self.inputs;
        let Some(out) = self.layer.window.over(SIZE, false) else {
            panic!("nothing fits")
        };
        let outputs = self.layer.outputs;
        let taps: usize = self.layer.window.kernel.iter().product();
        let tensor = |name: &str| match name {
            "layer.weight" => flat(&random(&[outputs * inputs / self.layer.groups * taps], 1)),
            "layer.bias" => flat(&random(&[outputs], 2)),
            "norm.weight" => flat(&random(&[inputs], 3)),
            _ => flat(&random(&[inputs], 4)),
        };
        // Channels in the order in which they lie.
        let order: Vec<usize> = (0..inputs)
            .map(|i| if self.order { inputs - 1 - i } else { i })
            .collect();
        let ordered = |values: Vec<f32>| -> Vec<f32> { order.iter().map(|i| values[*i]).collect() };
        let mut laid = Convolution::new(
            &self.layer,
            [inputs, self.pixels],
            Weights {
                weight: &tensor("layer.weight"),
                bias: &tensor("layer.bias"),
                order: self.order.then_some(&order[..]),
            },
            self.activation,
        );
        if self.before {
            laid = laid.after(Before {
                scale: ordered(tensor("norm.weight")),
                shift: ordered(tensor("norm.bias")),
                activation: Activation::Relu,
            });
        }
        let (images, pixels, to) = (3, SIZE[0] * SIZE[1], out[0] * out[1]);
        let mut x = flat(&random(&[images * pixels * (inputs + 2)], 5));
        let mut residual = flat(&random(&[images * to * (outputs + 1)], 6));
        let mut y = vec![f32::NAN; images * to * (outputs + 3)];
        let pass = Pass {
            layer: &laid,
            images,
            input: Images {
                values: Shared::new(&mut x).from(1),
                size: SIZE,
                channels: inputs,
                pitch: inputs + 2,
            },
            output: Images {
                values: Shared::new(&mut y).from(3),
                size: out,
                channels: outputs,
                pitch: outputs + 3,
            },
            residual: self.residual.then_some(Images {
                values: Shared::new(&mut residual),
                size: out,
                channels: outputs,
                pitch: outputs + 1,
            }),
            after: Activation::Relu,
        };
        // SAFETY: the level is the processor's, and nobody else uses the memory.
        unsafe { pass.run(level) };
        for image in 0..images {
            let channel = |i: usize| {
                let place = order.iter().position(|logical| *logical == i).unwrap();
                (0..pixels).map(move |pixel| (image * pixels + pixel) * (inputs + 2) + 1 + place)
            };
            let values: Vec<f32> = (0..inputs).flat_map(channel).map(|at| x[at]).collect();
            let expected = self.expected(&tensor, &values);
            for (i, expected) in expected.into_iter().enumerate() {
                let (channel, pixel) = (i / to, image * to + i % to);
                let expected = match self.residual {
                    true => (expected + residual[pixel * (outputs + 1) + channel]).max(0.0),
                    false => expected,
                };
                let got = y[pixel * (outputs + 3) + 3 + channel];
                // Transforms lose a little of the sum's terms, whatever their sum is.
                let terms = (taps * inputs / self.layer.groups) as f32;
                assert!(
                    (got - expected).abs() <= 1e-4 * (1.0 + expected.abs()) + 2e-6 * terms,
                    "{level:?}, {:?} of {inputs}, image {image}, channel {channel}: {got}, expected {expected}",
                    self.layer
                );
            }
        }
        let between = y.chunks_exact(outputs + 3).flat_map(|pixel| &pixel[..3]);
        assert!(
            between.into_iter().all(|y| y.is_nan()),
            "between the channels"
        );
    }
}

#[test]
fn equals_the_plain_convolution_at_every_level() {
    for case in cases() {
        for level in Level::all() {
            case.check(level);
        }
    }
}
