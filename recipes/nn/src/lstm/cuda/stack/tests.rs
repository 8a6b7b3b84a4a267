//! Programs as they would be launched, against the CPU's: with what the kernels do emulated, and where there is a device, on it.

use candle_core::Tensor;
use galley_core::synthetic;

use super::*;
use crate::{
    backend::Backend,
    cuda::{Work, check::Check},
    host::to_vec,
    lstm::{
        LstmClassifier,
        cuda::tests::{assert_close, batch, emulate, lengths, of, tolerance},
    },
    simd::Precision,
};

const CLASSES: usize = 5;

fn config([input, hidden, layers]: [usize; 3], bidirectional: bool) -> LstmConfig {
    LstmConfig {
        input,
        hidden,
        layers,
        bidirectional,
    }
}

/// A stack, with its linear layer, of a case's random weights.
fn load(case: u64, target: Target, config: LstmConfig) -> (Stack, Weights) {
    let mut weights = Weights::new(target.element);
    let vb = synthetic::var_builder(case);
    let stack = Stack::load(
        &mut weights,
        target,
        (&vb, config),
        (&vb.pp("head"), CLASSES),
    );
    (stack.unwrap(), weights)
}

fn on(backend: &Backend, case: u64, config: LstmConfig) -> LstmClassifier {
    let vb = synthetic::var_builder(case);
    LstmClassifier::load(backend, (&vb, config), (&vb.pp("head"), CLASSES)).unwrap()
}

fn on_the_cpu(case: u64, config: LstmConfig, x: &Tensor, lengths: &[usize]) -> Vec<f32> {
    let backend = Precision::F32.into();
    on(&backend, case, config).forward(x, lengths).unwrap()
}

/// Small cards make rounds of fewer layers.
fn targets(element: Element) -> [Target; 3] {
    let hopper = Target::hopper(element);
    let small = Target {
        processors: 3,
        ..hopper
    };
    [hopper, Target::ampere(element), small]
}

#[test]
fn a_stack_as_it_is_launched_is_the_stack_of_the_cpu() {
    for (case, sizes, bidirectional, lengths) in [
        (1, [3, 8, 1], false, vec![4]),
        (2, [6, 24, 3], false, vec![70, 0, 33, 1, 64]),
        (3, [5, 40, 5], false, lengths(1, 18)),
        (4, [4, 16, 2], true, vec![7, 12, 0, 3, 40]),
        (5, [9, 13, 2], true, vec![3, 1, 35]),
        (6, [2, 8, 2], false, vec![3; 35]),
        (7, [3, 264, 1], false, vec![2, 3]),
    ] {
        let config = config(sizes, bidirectional);
        let x = batch(case, config.input, &lengths);
        let want = on_the_cpu(case, config, &x, &lengths);
        for element in [Element::F32, Element::F16] {
            for target in targets(element) {
                let (stack, weights) = load(case, target, config);
                let shape = Shape::of(&lengths);
                let places = stack.places(shape);
                let program = stack.program(target, shape, &places).unwrap();
                let check = Check {
                    program: &program,
                    weights: weights.bytes().len(),
                    layout: places.layout,
                    input: places.input,
                    output: places.logits,
                };
                let values = to_vec(&x).unwrap();
                let mut memory = emulate(&check, &weights, |input| {
                    stack.fill(shape, &places, &values, &lengths, input);
                });
                let got = element.read(of(&mut memory, places.logits));
                let what = format!("case {case}, {:?}, {}", stack.way, element.name());
                let got = &got[..lengths.len() * CLASSES];
                assert_close(&what, got, &want, 4.0 * tolerance(element));
            }
        }
    }
}

#[test]
fn as_many_layers_run_at_once_as_a_card_has_room_for() {
    let way = |target, sizes, both| Way::of(target, config(sizes, both));
    let wave = |streams, groups| Way::Wave { streams, groups };
    let hopper = Target::hopper(Element::F16);
    // SuperBench's: 43 blocks of 24 units each.
    assert_eq!(way(hopper, [256, 1024, 8], false), wave(3, 3));
    assert_eq!(way(hopper, [256, 1024, 2], true), wave(2, 2));
    assert_eq!(way(hopper, [256, 512, 8], false), wave(4, 2));
    assert_eq!(way(hopper, [256, 1024, 1], false), wave(1, 1));
    assert_eq!(way(hopper, [64, 8, 2], false), wave(2, 1));
    // 86 blocks of 16 units.
    assert_eq!(way(hopper, [64, 1376, 3], false), wave(1, 2));
    let ampere = Target::ampere(Element::F16);
    assert_eq!(way(ampere, [256, 1024, 8], false), wave(1, 2));
    assert_eq!(way(ampere, [256, 512, 8], false), wave(4, 3));
    // Too many units for a card, units that are not whole vectors, and f32.
    assert_eq!(way(hopper, [64, 2048, 1], false), Way::Steps);
    assert_eq!(way(ampere, [64, 1024, 2], true), Way::Steps);
    assert_eq!(way(hopper, [64, 100, 1], false), Way::Steps);
    let floats = Target::hopper(Element::F32);
    assert_eq!(way(floats, [64, 128, 1], false), Way::Steps);
}

#[test]
fn a_layer_is_a_turn_behind_the_layer_below() {
    let target = Target::hopper(Element::F16);
    let (stack, _) = load(1, target, config([6, 24, 3], false));
    // Three turns of three layers, 64 sequences.
    let shape = Shape::of(&[96; 64]);
    let program = stack.program(target, shape, &stack.places(shape)).unwrap();
    let waves: Vec<_> = (program.work().iter())
        .map(|work| match work {
            Work::Launch(launch) if launch.together => launch.grid.blocks[1].to_string(),
            Work::Launch(_) => String::new(),
            _ => "x".into(),
        })
        .collect();
    // Products before each launch for 32 of them, a layer's to itself; at the end the linear layer's.
    assert_eq!(waves.concat(), "x11xx22xxx33xx22x11x");
}

#[cfg(feature = "cuda")]
#[test]
fn launches_are_as_their_kernels_want_them() {
    for element in [Element::F32, Element::F16] {
        for (sizes, both) in [
            ([6, 24, 3], false),
            ([4, 16, 2], true),
            ([3, 264, 1], false),
        ] {
            for target in targets(element) {
                let (stack, _) = load(1, target, config(sizes, both));
                for count in [1, 20, 40] {
                    let shape = Shape::of(&vec![40; count]);
                    let program = stack.program(target, shape, &stack.places(shape));
                    crate::cuda::tests::check_signatures(&program.unwrap());
                }
            }
        }
    }
}

/// Each element's first device.
#[cfg(feature = "cuda")]
#[test]
fn a_stack_on_the_device_is_the_stack_of_the_cpu_alone_and_in_a_batch() {
    use crate::backend::Kind;
    for element in [Element::F32, Element::F16] {
        let Some(gpu) = crate::cuda::tests::device(element) else {
            continue;
        };
        let backend = Backend(Kind::Cuda(gpu));
        for (case, sizes, bidirectional, lengths) in [
            (1, [3, 8, 1], false, vec![4]),
            (2, [6, 24, 3], false, vec![70, 0, 33, 1, 64]),
            (3, [5, 40, 5], false, lengths(1, 18)),
            (4, [4, 16, 2], true, vec![7, 12, 0, 3, 40]),
            (5, [9, 13, 2], true, vec![3, 1, 35]),
            (6, [20, 264, 2], false, lengths(2, 70)),
            (7, [256, 1024, 4], false, vec![100; 32]),
            (8, [64, 512, 2], true, lengths(3, 33)),
            (9, [64, 1376, 2], false, vec![40, 3]),
        ] {
            let config = config(sizes, bidirectional);
            let x = batch(case, config.input, &lengths);
            let want = on_the_cpu(case, config, &x, &lengths);
            let network = on(&backend, case, config);
            let what = format!("case {case} in {}", element.name());
            let got = network.forward(&x, &lengths).unwrap();
            let scale = want.iter().fold(1f32, |most, x| most.max(x.abs()));
            assert_close(&what, &got, &want, 2.0 * scale * tolerance(element));
            // Launched, then recorded, then replayed: always the same.
            for _ in 0..3 {
                assert_eq!(network.forward(&x, &lengths).unwrap(), got, "{what}");
            }
            // Alone, products are others of the library's.
            let mut first = 0;
            for (length, got) in lengths.iter().zip(got.chunks(CLASSES)).take(4) {
                let alone = x.narrow(0, first, *length).unwrap();
                let alone = network.forward(&alone, &[*length]).unwrap();
                assert_close(&what, &alone, got, 2.0 * scale * tolerance(element));
                first += length;
            }
        }
        let none = batch(1, 3, &[]);
        let none = on(&backend, 1, config([3, 8, 1], false)).forward(&none, &[]);
        assert!(none.unwrap().is_empty());
    }
}
