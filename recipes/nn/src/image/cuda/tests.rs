//! Whole passes: that their plans hold, and that by what the kernels say they compute what the CPU does. On a device, that
//! they really do.

#[cfg(feature = "cuda")]
mod device;
mod networks;

use self::networks::{COLOURS, b2, convolution, networks};
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
    image::{Layers, Network, padding::Size},
};

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
