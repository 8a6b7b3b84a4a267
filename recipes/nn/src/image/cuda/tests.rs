//! Whole passes: that their plans hold, and that by what the kernels say they compute what the CPU does. On a device, that
//! they really do.

use candle_core::{Device, Tensor};

use super::{
    emulator::Emulator,
    model::{Model, Plan, Shape},
    stem::Pixels,
};
use crate::{
    Backend, Precision,
    activation::Activation,
    cuda::{Argument, Element, Target, Weights, check::Check},
    host::tests::{flat, random},
    image::{Bottleneck, Colours, Convolution, Layers, Network, Padding, Window, padding::Size},
};

const COLOURS: Colours = Colours {
    mean: [120.0, 110.0, 100.0],
    deviation: [60.0, 55.0, 50.0],
};

fn convolution(shape: &[usize], seed: u32) -> Convolution {
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
fn networks() -> Vec<Layers> {
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

fn bytes(count: usize, size: Size) -> Vec<u8> {
    let values = flat(&random(&[count * size.pixels() * 3], 7));
    values.iter().map(|x| (x * 64.0 + 128.0) as u8).collect()
}

fn laid_out(element: Element, layers: &Layers) -> (Model, Weights) {
    let mut weights = Weights::new(element);
    let model = Model::new(&mut weights, layers).unwrap();
    (model, weights)
}

fn check(plan: &Plan, weights: &Weights) {
    Check {
        program: &plan.program,
        weights: weights.bytes().len(),
        layout: plan.layout,
        input: plan.pixels,
        output: plan.logits,
    }
    .run();
    #[cfg(feature = "cuda")]
    crate::cuda::tests::check_signatures(&plan.program);
}

fn assert_near(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1.0, |most: f32, x| most.max(x.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let near = (got - expected).abs() <= tolerance * largest;
        assert!(near, "{what}: logit {i} is {got}, expected {expected}");
    }
}

const SIZES: [Size; 3] = [
    Size {
        height: 33,
        width: 46,
    },
    Size {
        height: 7,
        width: 5,
    },
    Size {
        height: 50,
        width: 97,
    },
];

/// How far off logits may be, of the largest of them.
fn tolerance(element: Element) -> f32 {
    match element {
        Element::F32 => 1e-5,
        Element::F16 => 1e-2,
    }
}

#[test]
fn by_their_heads_the_kernels_compute_what_the_cpu_does() {
    for layers in networks() {
        let cpu = Network::new(&layers, &Backend::from(Precision::F32)).unwrap();
        for element in [Element::F32, Element::F16] {
            let (model, weights) = laid_out(element, &layers);
            let mut emulator = Emulator::new(element, &weights);
            for (size, images) in SIZES.into_iter().zip([2, 3, 1]) {
                let decoded = bytes(images, size);
                let each: Vec<&[u8]> = decoded.chunks_exact(size.pixels() * 3).collect();
                let expected = cpu.forward_bytes(&each, (size.height, size.width)).unwrap();
                for pixels in [Pixels::Bytes, Pixels::Floats] {
                    let input = match pixels {
                        Pixels::Bytes => decoded.clone(),
                        Pixels::Floats => {
                            let mut meant = vec![0.0; decoded.len()];
                            COLOURS.table().apply(&decoded, &mut meant);
                            meant.iter().flat_map(|x| x.to_le_bytes()).collect()
                        }
                    };
                    let shape = Shape {
                        images,
                        size,
                        pixels,
                    };
                    let plan = model.plan(&Target::hopper(element), shape).unwrap();
                    check(&plan, &weights);
                    let logits = emulator.run(&plan, &input);
                    let logits: Vec<f32> = (logits.chunks_exact(model.padded_classes()))
                        .flat_map(|row| &row[..model.classes()])
                        .copied()
                        .collect();
                    let what = format!("{element:?} {shape:?} {:?}", layers.activation);
                    assert_near(&what, &logits, &expected, tolerance(element));
                }
            }
        }
    }
}

/// EfficientNet-B2's blocks.
fn b2() -> Layers {
    let zeros = |shape: &[usize]| Convolution {
        weight: Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap(),
        bias: Tensor::zeros(shape[0], candle_core::DType::F32, &Device::Cpu).unwrap(),
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

fn b2_shape(images: usize) -> Shape {
    Shape {
        images,
        size: Size {
            height: 288,
            width: 288,
        },
        pixels: Pixels::Bytes,
    }
}

#[test]
fn a_large_network_is_planned_in_little_more_than_its_largest_layer() {
    for target in [
        Target::hopper(Element::F16),
        Target::ampere(Element::F16),
        Target::hopper(Element::F32),
    ] {
        let (model, weights) = laid_out(target.element, &b2());
        for images in [1, 2, 32, 256] {
            let plan = model.plan(&target, b2_shape(images)).unwrap();
            check(&plan, &weights);
            // Two blocks of three launches, 21 of four, and the stem, the head, the mean and the classifier.
            let launches = plan.program.launches().len();
            assert_eq!(launches, 2 * 3 + 21 * 4 + 4);
            // The expansion of the first block that has one, its input and its output.
            let largest = 144 * 144 * (16 + 96) + 72 * 72 * 96;
            let bytes = images * largest * target.element.size();
            let most = bytes + bytes / 10 + 4096;
            assert!(
                plan.layout.bytes() <= most,
                "{} of {bytes}",
                plan.layout.bytes()
            );
        }
    }
}

/// What decides the order of a sum.
fn orders(plan: &Plan) -> Vec<(String, Vec<Argument>)> {
    let launches = plan.program.launches();
    let orders = launches.filter_map(|launch| {
        let words: Vec<Argument> = (launch.arguments.iter())
            .filter(|argument| matches!(argument, Argument::Word(_)))
            .copied()
            .collect();
        let name = launch.kernel.clone();
        if name.starts_with("depthwise") {
            // All but the images and the blocks of channels.
            Some((name, [&words[1..10], &words[11..]].concat()))
        } else if name.contains("sm90") {
            panic!("{name} adds up in another order than others")
        } else {
            None
        }
    });
    orders.collect()
}

#[test]
fn the_order_of_sums_does_not_depend_on_the_batch() {
    let target = Target::hopper(Element::F16);
    for layers in networks().iter().chain([&b2()]) {
        let (model, _) = laid_out(target.element, layers);
        let plan = |images| model.plan(&target, b2_shape(images)).unwrap();
        let alone = orders(&plan(1));
        assert!(!alone.is_empty());
        for images in [2, 31, 300] {
            assert_eq!(orders(&plan(images)), alone);
        }
    }
}

#[test]
fn layers_that_do_not_fit_are_refused() {
    let refused = |change: fn(&mut Layers)| {
        let mut layers = networks().remove(0);
        change(&mut layers);
        Model::new(&mut Weights::new(Element::F16), &layers).is_err()
    };
    assert!(!refused(|_| ()));
    assert!(refused(|layers| layers.activation = Activation::Gelu));
    assert!(refused(|layers| layers.head = convolution(&[70, 41], 1)));
    assert!(refused(
        |layers| layers.classifier = convolution(&[11, 71], 1)
    ));
    assert!(refused(|layers| {
        layers.stem.bias = convolution(&[33, 1], 1).bias;
    }));
    assert!(refused(|layers| layers.blocks[2].residual = true));
    assert!(refused(|layers| layers.blocks[2].window.stride = 3));
    assert!(refused(|layers| layers.blocks[3].expand = None));
    assert!(refused(|layers| {
        layers.blocks[2].depthwise = convolution(&[96, 1, 4, 4], 1);
    }));
    assert!(refused(|layers| {
        layers.blocks[2].project = convolution(&[24, 95], 1);
    }));
    assert!(refused(|layers| {
        let [reduce, _] = layers.blocks[2].squeeze_excite.clone().unwrap();
        layers.blocks[2].squeeze_excite = Some([reduce, convolution(&[96, 5], 1)]);
    }));
}

#[test]
fn images_that_no_launch_takes_are_refused() {
    let (model, _) = laid_out(Element::F16, &networks()[2]);
    let plan = |images, side| {
        let size = Size {
            height: side,
            width: side,
        };
        let shape = Shape {
            images,
            size,
            pixels: Pixels::Bytes,
        };
        model.plan(&Target::hopper(Element::F16), shape)
    };
    assert!(plan(1, 1).is_ok());
    let error = plan(70_000, 64).unwrap_err().to_string();
    assert!(error.contains("expected a batch that fits"), "{error}");
    let error = plan(50_000, 2000).unwrap_err().to_string();
    assert!(error.contains("pixels in a batch"), "{error}");
}

#[cfg(feature = "cuda")]
mod on_a_device {
    use super::*;
    use crate::{cuda::tests::device, image::cuda::Network as OnDevice};

    fn compare(element: Element) {
        let Some(gpu) = device(element) else { return };
        for layers in networks() {
            let cpu = Network::new(&layers, &Backend::from(Precision::F32)).unwrap();
            let cuda = OnDevice::new(&gpu, &layers).unwrap();
            for size in SIZES {
                let image = size.pixels() * 3;
                let decoded = bytes(40, size);
                let each: Vec<&[u8]> = decoded.chunks_exact(image).collect();
                let expected = cpu.forward_bytes(&each, (size.height, size.width)).unwrap();
                let mut meant = vec![0.0; decoded.len()];
                COLOURS.table().apply(&decoded, &mut meant);
                let together = cuda.forward_bytes(&each, size).unwrap();
                // Three times: one by one, recorded, and played back.
                for _ in 0..3 {
                    for images in [1, 2, 7, 32, 40] {
                        let what = format!("{element:?} {size:?} {images} {:?}", layers.activation);
                        let logits = images * cuda.classes();
                        let got = cuda.forward_bytes(&each[..images], size).unwrap();
                        assert_near(&what, &got, &expected[..logits], tolerance(element));
                        assert_eq!(got, together[..logits], "{what}: batch-mates");
                        let got = cuda
                            .forward(images, size, &meant[..images * image])
                            .unwrap();
                        assert_near(&what, &got, &expected[..logits], tolerance(element));
                    }
                }
            }
            assert!(cuda.forward_bytes(&[], SIZES[0]).unwrap().is_empty());
        }
    }

    #[test]
    fn networks_in_f32_match_the_cpu() {
        compare(Element::F32);
    }

    #[test]
    fn networks_in_f16_match_the_cpu() {
        compare(Element::F16);
    }

    /// Two threads at once, each in a lane of its own.
    #[test]
    fn passes_at_the_same_time_do_not_disturb_each_other() {
        let Some(gpu) = device(Element::F16) else {
            return;
        };
        let network = OnDevice::new(&gpu, &networks()[0]).unwrap();
        let size = SIZES[0];
        let decoded = bytes(8, size);
        let each: Vec<&[u8]> = decoded.chunks_exact(size.pixels() * 3).collect();
        let expected = network.forward_bytes(&each, size).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        assert_eq!(network.forward_bytes(&each, size).unwrap(), expected);
                    }
                });
            }
        });
    }
}
