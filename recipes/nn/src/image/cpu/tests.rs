//! Every step against candle's own operators, at every level, on sizes that fit no tile, panel or vector.

use candle_core::{Device, Tensor};

use super::{block::Workspace, *};
use crate::{
    host::tests::{assert_close, flat, random},
    image::{Colours, Window},
};

fn convolution(shape: &[usize], seed: u32) -> Convolution {
    let inputs: usize = shape[1..].iter().product();
    let scale = 1.0 / (inputs as f64).sqrt();
    Convolution {
        weight: (random(shape, seed) * scale).unwrap(),
        bias: random(&shape[..1], seed + 1),
    }
}

/// `[n, h, w, c]` to `[n, c, h, w]`.
fn channels_first(x: &Tensor) -> Tensor {
    x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

fn channels_last(x: &Tensor) -> Tensor {
    x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
}

/// A convolution by candle's operator, on an image padded by hand, channels first.
fn candle(layer: &Convolution, window: Window, x: &Tensor, groups: usize) -> Tensor {
    let (_, _, h, w) = x.dims4().unwrap();
    let weight = match layer.weight.rank() {
        2 => layer.weight.unsqueeze(2).unwrap().unsqueeze(3).unwrap(),
        _ => layer.weight.clone(),
    };
    let k = weight.dim(2).unwrap();
    let (top, bottom) = window.padding.around(h, k, window.stride);
    let (left, right) = window.padding.around(w, k, window.stride);
    let x = x.pad_with_zeros(2, top, bottom).unwrap();
    let x = x.pad_with_zeros(3, left, right).unwrap();
    let bias = layer.bias.reshape((1, (), 1, 1)).unwrap();
    x.contiguous()
        .and_then(|x| x.conv2d(&weight, 0, window.stride, 1, groups))
        .and_then(|y| y.broadcast_add(&bias))
        .unwrap()
}

const ONE: Window = Window {
    stride: 1,
    padding: Padding::Symmetric(0),
};

fn apply(activation: Activation, x: &Tensor) -> Tensor {
    let values: Vec<f32> = flat(x).into_iter().map(|x| activation.of(x)).collect();
    Tensor::from_vec(values, x.dims(), &Device::Cpu).unwrap()
}

/// The block as its layers say it, one operator after the other.
fn plain(layer: &Bottleneck, activation: Activation, x: &Tensor) -> Tensor {
    let input = channels_first(x);
    let mut y = input.clone();
    if let Some(expand) = &layer.expand {
        y = apply(activation, &candle(expand, ONE, &y, 1));
    }
    let channels = y.dim(1).unwrap();
    y = apply(
        activation,
        &candle(&layer.depthwise, layer.window, &y, channels),
    );
    if let Some([reduce, expand]) = &layer.squeeze_excite {
        let means = y.mean_keepdim(2).and_then(|y| y.mean_keepdim(3)).unwrap();
        let squeezed = apply(Activation::Silu, &candle(reduce, ONE, &means, 1));
        let gates = apply(Activation::Sigmoid, &candle(expand, ONE, &squeezed, 1));
        y = y.broadcast_mul(&gates).unwrap();
    }
    y = candle(&layer.project, ONE, &y, 1);
    if layer.residual {
        y = (y + input).unwrap();
    }
    channels_last(&y)
}

/// What a block is to be.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// `[n, h, w, c]`.
    x: [usize; 4],
    wide: usize,
    kernel: usize,
    window: Window,
    squeeze_excite: bool,
    outputs: usize,
    activation: Activation,
}

impl Case {
    fn layer(&self) -> Bottleneck {
        let inputs = self.x[3];
        Bottleneck {
            expand: (self.wide != inputs).then(|| convolution(&[self.wide, inputs], 1)),
            depthwise: convolution(&[self.wide, 1, self.kernel, self.kernel], 3),
            window: self.window,
            squeeze_excite: self.squeeze_excite.then(|| {
                [
                    convolution(&[5, self.wide], 5),
                    convolution(&[self.wide, 5], 7),
                ]
            }),
            project: convolution(&[self.outputs, self.wide, 1, 1], 9),
            residual: self.window.stride == 1 && inputs == self.outputs,
        }
    }

    fn run(&self, level: Level, precision: Precision, x: &Tensor) -> Tensor {
        let block = Block::new(&self.layer(), self.activation, precision).unwrap();
        let (n, height, width, _) = x.dims4().unwrap();
        let size = Size { height, width };
        let out = block.output(size).unwrap();
        let mut workspace = Workspace::default();
        let mut y = vec![f32::NAN; n * out.pixels() * block.outputs()];
        // Twice, so that what the first pass leaves behind would be seen.
        for _ in 0..2 {
            block
                .forward(level, &flat(x), (n, size), &mut workspace, &mut y)
                .unwrap();
        }
        let shape = (n, out.height, out.width, block.outputs());
        Tensor::from_vec(y, shape, &Device::Cpu).unwrap()
    }
}

/// Every kernel, stride and padding, with and without each of the steps.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes = [
        ([1, 1, 1, 1], 6, 1),
        ([2, 5, 7, 8], 48, 24),
        ([1, 9, 6, 19], 33, 19),
        ([3, 3, 4, 33], 33, 33),
        ([1, 14, 27, 16], 96, 40),
        ([2, 4, 11, 70], 70, 17),
    ];
    for (x, wide, outputs) in shapes {
        for kernel in [3, 5] {
            for stride in [1, 2] {
                for padding in [Padding::Symmetric(kernel / 2), Padding::Same] {
                    cases.push(Case {
                        x,
                        wide,
                        kernel,
                        window: Window { stride, padding },
                        squeeze_excite: cases.len() % 3 != 0,
                        outputs,
                        activation: [Activation::Silu, Activation::Relu6][cases.len() / 2 % 2],
                    });
                }
            }
        }
    }
    cases
}

#[test]
fn a_block_equals_candles_operators_one_by_one() {
    for case in cases() {
        let x = random(&case.x, 20);
        let expected = plain(&case.layer(), case.activation, &x);
        for level in Level::all() {
            let got = case.run(level, Precision::F32, &x);
            assert_close(&format!("{level:?}, {case:?}"), &got, &expected, 3e-5);
        }
        if let Some(precision) = Precision::bf16() {
            let got = case.run(Level::detect(), precision, &x);
            assert_close(&format!("{case:?}"), &got, &expected, 4e-2);
        }
    }
}

#[test]
fn a_stem_equals_candles_convolution() {
    for shape in [[1, 1, 1, 3], [2, 5, 8, 3], [1, 33, 18, 3], [1, 6, 40, 3]] {
        for channels in [1, 8, 19, 32] {
            for padding in [Padding::Symmetric(1), Padding::Same] {
                let layer = convolution(&[channels, 3, 3, 3], 1);
                let x = random(&shape, 3);
                let window = Window { stride: 2, padding };
                let expected = channels_last(&candle(&layer, window, &channels_first(&x), 1));
                let stem = Stem::new(&layer, padding, Activation::None).unwrap();
                let [height, width] = [shape[1], shape[2]];
                let mut got = vec![f32::NAN; expected.elem_count()];
                stem.forward(
                    Level::detect(),
                    &flat(&x),
                    (shape[0], Size { height, width }),
                    &mut got,
                )
                .unwrap();
                let got = Tensor::from_vec(got, expected.dims(), &Device::Cpu).unwrap();
                let what = format!("{shape:?} to {channels}, {padding:?}");
                assert_close(&what, &got, &expected, 1e-5);
            }
        }
    }
}

fn network(precision: Precision) -> Network {
    let block = |inputs, kernel, stride, outputs| Bottleneck {
        expand: Some(convolution(&[6 * inputs, inputs], 11)),
        depthwise: convolution(&[6 * inputs, 1, kernel, kernel], 13),
        window: Window {
            stride,
            padding: Padding::Same,
        },
        squeeze_excite: Some([
            convolution(&[4, 6 * inputs], 15),
            convolution(&[6 * inputs, 4], 17),
        ]),
        project: convolution(&[outputs, 6 * inputs], 19),
        residual: stride == 1 && inputs == outputs,
    };
    let layers = Layers {
        colours: Colours {
            mean: [0.0; 3],
            deviation: [1.0; 3],
        },
        stem: convolution(&[16, 3, 3, 3], 21),
        stem_padding: Padding::Symmetric(1),
        blocks: vec![
            block(16, 3, 1, 16),
            block(16, 3, 2, 24),
            block(24, 5, 1, 24),
            block(24, 5, 2, 40),
        ],
        head: convolution(&[70, 40, 1, 1], 23),
        classifier: convolution(&[11, 70], 25),
        activation: Activation::Silu,
    };
    Network::new(&layers, precision).unwrap()
}

/// Large images go through the first blocks in smaller groups, and lone ones are cut up.
#[test]
fn batch_mates_change_no_bit() {
    for precision in Precision::all() {
        let network = network(precision);
        for side in [7, 128] {
            let size = Size {
                height: side,
                width: side,
            };
            let images = 5;
            let pixels = flat(&random(&[images, side, side, 3], 1));
            let run = |pixels: &[f32], images| {
                let len = side * side * 3;
                let fill = |i: usize, to: &mut [f32]| to.copy_from_slice(&pixels[i * len..][..len]);
                network.forward(images, size, &fill).unwrap()
            };
            let together = run(&pixels, images);
            for (alone, together) in pixels
                .chunks(side * side * 3)
                .zip(together.chunks(network.classes()))
            {
                assert_eq!(run(alone, 1), together);
            }
        }
    }
}

#[test]
fn layers_that_do_not_fit_are_refused() {
    let case = cases()[8];
    let refused = |change: fn(&mut Bottleneck)| {
        let mut layer = case.layer();
        change(&mut layer);
        Block::new(&layer, Activation::Silu, Precision::F32).is_err()
    };
    assert!(!refused(|_| ()));
    assert!(refused(
        |layer| layer.depthwise = convolution(&[40, 1, 3, 3], 1)
    ));
    assert!(refused(
        |layer| layer.depthwise = convolution(&[48, 1, 4, 4], 1)
    ));
    assert!(refused(|layer| layer.window.stride = 3));
    assert!(refused(|layer| layer.project = convolution(&[24, 47], 1)));
    assert!(refused(|layer| layer.residual = true));
    assert!(refused(|layer| {
        let [reduce, _] = layer.squeeze_excite.clone().unwrap();
        layer.squeeze_excite = Some([reduce, convolution(&[47, 5], 1)]);
    }));
}
