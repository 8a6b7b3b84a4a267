//! What is launched, without a device.

use super::{dense::Groups, weight::shares, *};
use crate::{
    cuda::{Layout, Program, Target, Work, check::Check},
    graph::Pair,
};

/// A layer over some images of so many pixels down and across, and channels.
fn layer(convolution: Convolution, [height, width, channels]: [usize; 3]) -> Layer {
    let [down, across] = convolution
        .window
        .over([height, width], false)
        .expect("windows that fit");
    Layer {
        from: Shape {
            channels,
            height,
            width,
        },
        to: Shape {
            channels: convolution.outputs,
            height: down,
            width: across,
        },
        convolution,
        images: 4,
    }
}

fn layers() -> Vec<Layer> {
    let new = Convolution::new;
    let across = Convolution::new(122, [1, 7]);
    vec![
        layer(new(64, 7).stride(2).padding(3), [224, 224, 3]),
        layer(new(64, 3).padding(1).biased(), [56, 56, 64]),
        layer(new(128, 3).stride(2).padding(1), [56, 56, 128]),
        layer(new(512, 3).padding(1), [7, 7, 512]),
        layer(new(512, 1).stride(2), [56, 56, 256]),
        layer(new(32, 3).padding(1), [14, 14, 128]),
        layer(across.padding([0, 3]).biased(), [14, 14, 58]),
        layer(new(128, 3).padding(1).groups(32), [56, 56, 128]),
        layer(new(25, 3).padding(1).groups(5), [9, 9, 15]),
        layer(new(64, 3).padding(1).groups(32), [9, 9, 32]),
        layer(new(96, 3).stride(2).padding(1).groups(96), [112, 112, 96]),
        layer(new(58, 3).padding(1).groups(58).biased(), [28, 28, 58]),
        layer(new(27, 7).padding(3).groups(27), [14, 14, 27]),
    ]
}

/// Where a layer's values, weights and gradients are, for an element.
struct Spans {
    layout: Layout,
    input: Span,
    x: Span,
    dy: Span,
    weight: Span,
    bias: Option<Span>,
    y: Span,
    dx: Span,
    dweight: Span,
    dbias: Option<Span>,
}

impl Spans {
    fn of(layer: &Layer, element: Element) -> Self {
        let mut layout = Layout::default();
        let [from, to] = [layer.from, layer.to].map(|shape| layer.images * shape.values());
        let outputs = layer.convolution.bias.then_some(layer.to.channels);
        let size = element.size();
        let start = layout;
        let x = layout.place(from * size);
        let dy = layout.place(to * size);
        let weight = layout.place(layer.weights() * size);
        let bias = outputs.map(|outputs| layout.place(outputs * size));
        let dx = layout.place(from * size);
        // What is added to is there before.
        let input = layout.since(start);
        Self {
            input,
            x,
            dy,
            weight,
            bias,
            dx,
            y: layout.place(to * size),
            dweight: layout.place(layer.weights() * 4),
            dbias: outputs.map(|outputs| layout.place(outputs * 4)),
            layout,
        }
    }
}

fn targets() -> [Target; 3] {
    [
        Target::hopper(Element::F16),
        Target::hopper(Element::F32),
        Target::ampere(Element::F16),
    ]
}

/// The work of one operator.
fn program(
    target: Target,
    spans: &Spans,
    push: impl FnOnce(&mut Draft) -> Result<()>,
) -> (Program, Layout) {
    let mut draft = Draft::new(target, spans.layout);
    push(&mut draft).expect("a batch that fits");
    draft.finish()
}

#[test]
fn programs_read_what_was_written_and_stay_within_their_memory() {
    for layer in layers() {
        for target in targets() {
            let spans = Spans::of(&layer, target.element);
            let check = |output, push: &dyn Fn(&mut Draft) -> Result<()>| {
                let (program, layout) = program(target, &spans, push);
                assert!(!program.work().is_empty());
                let check = Check {
                    program: &program,
                    weights: 0,
                    layout,
                    input: spans.input,
                    output,
                };
                check.run();
            };
            check(spans.y, &|draft| {
                layer.forward(draft, (spans.weight, spans.bias), spans.x, spans.y)
            });
            for onto in [Onto::Write, Onto::Add] {
                check(spans.dx, &|draft| {
                    layer.backward_input(draft, spans.weight, spans.dy, (spans.dx, onto))
                });
            }
            for output in [Some(spans.dweight), spans.dbias].into_iter().flatten() {
                check(output, &|draft| {
                    layer.backward_weight(draft, [spans.x, spans.dy], spans.dweight, spans.dbias)
                });
            }
        }
    }
}

#[test]
fn what_is_a_product_is_the_library_s() {
    let pointwise = layer(Convolution::new(64, 1).biased(), [14, 14, 24]);
    let whole = layer(Convolution::new(10, [5, 3]), [5, 3, 8]);
    for (layer, [rows, values]) in [(pointwise, [4 * 196, 24]), (whole, [4, 120])] {
        let spans = Spans::of(&layer, Element::F16);
        let target = Target::hopper(Element::F16);
        let outputs = layer.to.channels;
        let first = |push: &dyn Fn(&mut Draft) -> Result<()>| {
            let (program, _) = program(target, &spans, push);
            match program.work().first() {
                Some(Work::Product(product)) => *product,
                other => panic!("expected a product, got {other:?}"),
            }
        };
        let forward =
            first(&|draft| layer.forward(draft, (spans.weight, spans.bias), spans.x, spans.y));
        assert_eq!(forward.sizes, [rows, outputs, values]);
        assert_eq!((forward.a.pitch, forward.a.turned), (values, false));
        assert_eq!((forward.b.pitch, forward.b.turned), (values, true));
        let input = first(&|draft| {
            layer.backward_input(draft, spans.weight, spans.dy, (spans.dx, Onto::Add))
        });
        assert_eq!(input.sizes, [rows, values, outputs]);
        assert!(!input.a.turned && !input.b.turned && input.onto == Onto::Add);
        let weight = first(&|draft| {
            layer.backward_weight(draft, [spans.x, spans.dy], spans.dweight, spans.dbias)
        });
        assert_eq!(weight.sizes, [outputs, values, rows]);
        assert!(weight.a.turned && !weight.b.turned);
        assert_eq!(weight.c.element, Element::F32);
    }
}

/// The kernels of a layer, forward, backward to its input and to its weight.
fn kernels(layer: &Layer, target: Target) -> [Vec<String>; 3] {
    let spans = Spans::of(layer, target.element);
    let names = |push: &dyn Fn(&mut Draft) -> Result<()>| {
        let (program, _) = program(target, &spans, push);
        program
            .launches()
            .map(|launch| launch.kernel.clone())
            .collect()
    };
    [
        names(&|draft| layer.forward(draft, (spans.weight, spans.bias), spans.x, spans.y)),
        names(&|draft| {
            layer.backward_input(draft, spans.weight, spans.dy, (spans.dx, Onto::Write))
        }),
        names(&|draft| layer.backward_weight(draft, [spans.x, spans.dy], spans.dweight, None)),
    ]
}

#[test]
fn weights_are_laid_out_only_where_they_do_not_lie_so() {
    fn new(outputs: usize, kernel: impl Into<Pair>) -> Convolution {
        Convolution::new(outputs, kernel)
    }
    let plain = layer(new(64, 3).padding(1), [56, 56, 64]);
    for target in targets() {
        let [forward, input, _] = kernels(&plain, target);
        assert_eq!(
            (forward.len(), input.len()),
            (1, 2),
            "{forward:?} {input:?}"
        );
    }
    // Three channels have a fourth, and a line of the kernel is a tap.
    let stem = layer(new(64, 7).stride(2).padding(3), [224, 224, 3]);
    let [forward, ..] = kernels(&stem, Target::hopper(Element::F16));
    let expected = [
        "train_conv_fill_f16",
        "train_conv_lay_lines_f16",
        "conv_f16_sm90_lines32",
    ];
    assert_eq!(forward, expected);
    let [forward, ..] = kernels(&stem, Target::ampere(Element::F16));
    assert_eq!(forward[2], "train_conv_16_128x64_f16");
    let depthwise = layer(new(96, 3).stride(2).padding(1).groups(96), [112, 112, 96]);
    let [forward, input, weight] = kernels(&depthwise, Target::hopper(Element::F16));
    assert_eq!(forward, ["train_depthwise_3_2_4_f16"]);
    assert_eq!(input, ["train_depthwise_back_3_4_f16"]);
    assert_eq!(weight[0], "train_depthwise_weight_3_2_4_f16");
}

#[test]
fn groups_go_together_up_to_a_tile() {
    let of = |groups, channels, outputs| {
        let convolution = Convolution::new(outputs, 3).padding(1).groups(groups);
        let groups = Groups::of(&layer(convolution, [9, 9, channels]));
        (groups.count, groups.merged, groups.inputs, groups.outputs)
    };
    assert_eq!(of(1, 256, 512), (1, 1, 256, 512));
    assert_eq!(of(32, 128, 128), (2, 16, 64, 64));
    assert_eq!(of(32, 1024, 1024), (16, 2, 64, 64));
    assert_eq!(of(5, 15, 25), (1, 5, 15, 25));
    assert_eq!(of(2, 256, 256), (2, 1, 128, 128));
}

#[test]
fn shares_are_all_of_it_and_none_is_empty() {
    for values in [1, 49, 1000, 100_352, 401_408] {
        for wanted in [0, 1, 7, 300] {
            for least in [16, 51, 64] {
                let (share, count) = share::even(values, wanted, least);
                assert!(share.is_multiple_of(least) && share * count >= values);
                assert!(share * (count - 1) < values, "{values} {wanted} {least}");
            }
        }
    }
    // With tiles enough there is nothing to share out; with few, all multiprocessors have some.
    assert_eq!(shares(100_352, 2000, 1 << 20, 264), 1);
    let few = shares(401_408, 4, 9408, 264);
    assert!((60..=264).contains(&few), "{few}");
}
