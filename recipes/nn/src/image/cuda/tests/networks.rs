//! Networks to be planned and computed.

use candle_core::{DType, Device, Tensor};

use crate::{
    activation::Activation,
    host::tests::random,
    image::{Bottleneck, Colours, Convolution, Layers, Padding, Window},
};

pub(super) const COLOURS: Colours = Colours {
    mean: [120.0, 110.0, 100.0],
    deviation: [60.0, 55.0, 50.0],
};

pub(super) fn convolution(shape: &[usize], seed: u32) -> Convolution {
    let inputs: usize = shape[1..].iter().product();
    let scale = 1.0 / (inputs as f64).sqrt();
    Convolution {
        weight: (random(shape, seed) * scale).unwrap(),
        bias: (random(&shape[..1], seed + 1) * 0.5).unwrap(),
    }
}

/// A kind of block: its kernel and stride, how much it expands, and what it gives.
struct Kind {
    kernel: usize,
    stride: usize,
    expand: Option<usize>,
    squeezed: Option<usize>,
    outputs: usize,
}

impl Kind {
    fn layer(&self, inputs: usize, padding: fn(usize) -> Padding, seed: u32) -> Bottleneck {
        let wide = self.expand.unwrap_or(inputs);
        let convolution = |shape: &[usize], place| convolution(shape, seed + place);
        Bottleneck {
            expand: self
                .expand
                .map(|wide| convolution(&[wide, inputs, 1, 1], 0)),
            depthwise: convolution(&[wide, 1, self.kernel, self.kernel], 2),
            window: Window {
                stride: self.stride,
                padding: padding(self.kernel),
            },
            squeeze_excite: self.squeezed.map(|squeezed| {
                [
                    convolution(&[squeezed, wide, 1, 1], 4),
                    convolution(&[wide, squeezed], 6),
                ]
            }),
            project: convolution(&[self.outputs, wide, 1, 1], 8),
            residual: self.stride == 1 && inputs == self.outputs,
        }
    }
}

fn kind(
    kernel: usize,
    stride: usize,
    expand: Option<usize>,
    squeezed: Option<usize>,
    outputs: usize,
) -> Kind {
    Kind {
        kernel,
        stride,
        expand,
        squeezed,
        outputs,
    }
}

/// Networks with blocks of every kind, some of channels that fill no vector.
pub(super) fn networks() -> Vec<Layers> {
    let torch: fn(usize) -> Padding = |kernel| Padding::Symmetric(kernel / 2);
    let tensorflow: fn(usize) -> Padding = |_| Padding::Same;
    let even = vec![
        kind(3, 1, None, Some(4), 16),
        kind(3, 1, None, Some(4), 16),
        kind(3, 2, Some(96), Some(4), 24),
        kind(5, 1, Some(144), Some(6), 24),
        kind(5, 2, Some(144), Some(6), 40),
        kind(3, 1, Some(240), None, 40),
    ];
    let odd = vec![
        kind(5, 1, Some(33), None, 19),
        kind(3, 1, Some(70), Some(5), 19),
        kind(5, 2, None, Some(1), 21),
        kind(3, 2, Some(50), Some(3), 21),
        kind(3, 1, None, None, 21),
    ];
    let mut networks = Vec::new();
    for (blocks, stem, activation, padding) in [
        (&even, 32, Activation::Silu, torch),
        (&even, 16, Activation::Relu6, tensorflow),
        (&odd, 19, Activation::Silu, tensorflow),
        (&odd, 8, Activation::Relu6, torch),
    ] {
        let mut channels = stem;
        let mut layers = Vec::new();
        for (i, kind) in blocks.iter().enumerate() {
            layers.push(kind.layer(channels, padding, 20 * i as u32 + 40));
            channels = kind.outputs;
        }
        networks.push(Layers {
            colours: COLOURS,
            stem: convolution(&[stem, 3, 3, 3], 1),
            stem_padding: padding(3),
            blocks: layers,
            head: convolution(&[70, channels, 1, 1], 3),
            classifier: convolution(&[11, 70], 5),
            activation,
        });
    }
    networks
}

/// EfficientNet-B2's blocks.
pub(super) fn b2() -> Layers {
    let zeros = |shape: &[usize]| Convolution {
        weight: Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap(),
        bias: Tensor::zeros(shape[0], DType::F32, &Device::Cpu).unwrap(),
    };
    let mut channels = 32;
    let mut blocks = Vec::new();
    for (kernel, stride, outputs, repeats) in [
        (3, 1, 16, 2),
        (3, 2, 24, 3),
        (5, 2, 48, 3),
        (3, 2, 88, 4),
        (5, 1, 120, 4),
        (5, 2, 208, 5),
        (3, 1, 352, 2),
    ] {
        for repeat in 0..repeats {
            let wide = if outputs == 16 {
                channels
            } else {
                6 * channels
            };
            let stride = if repeat == 0 { stride } else { 1 };
            blocks.push(Bottleneck {
                expand: (outputs != 16).then(|| zeros(&[wide, channels])),
                depthwise: zeros(&[wide, 1, kernel, kernel]),
                window: Window {
                    stride,
                    padding: Padding::Symmetric(kernel / 2),
                },
                squeeze_excite: Some([zeros(&[channels / 4, wide]), zeros(&[wide, channels / 4])]),
                project: zeros(&[outputs, wide]),
                residual: stride == 1 && channels == outputs,
            });
            channels = outputs;
        }
    }
    Layers {
        colours: COLOURS,
        stem: zeros(&[32, 3, 3, 3]),
        stem_padding: Padding::Symmetric(1),
        blocks,
        head: zeros(&[1408, 352]),
        classifier: zeros(&[1000, 1408]),
        activation: Activation::Silu,
    }
}
