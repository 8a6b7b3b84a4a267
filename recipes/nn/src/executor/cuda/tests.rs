//! Random networks on a device against the CPU, and what holds of every pass without one.

use super::{FORM, Model, Pixels, Shape};
use crate::{
    cuda::{Argument, Element, Span, Target, Weights},
    executor::{
        tests::{network, weights},
        weights::Reader,
    },
    graph::Graph,
    image::Colours,
    plan::Plan,
};

const COLOURS: Colours = Colours {
    mean: [0.0; 3],
    deviation: [1.0; 3],
};

fn model(graph: &Graph, target: &Target) -> (Model, Plan, usize) {
    let tensors = weights(graph);
    let builder = candle_nn::VarBuilder::from_tensors(
        tensors,
        candle_core::DType::F32,
        &candle_core::Device::Cpu,
    );
    let plan = Plan::new(graph, FORM).unwrap();
    let mut weights = Weights::new(target.element);
    let reader = Reader(&builder);
    let model = Model::new(&mut weights, target, (&plan, &reader), &COLOURS).unwrap();
    let bytes = weights.bytes().len();
    (model, plan, bytes)
}

/// A launch's spans, with whether they are written.
fn spans(argument: &Argument) -> Option<(Span, bool)> {
    match *argument {
        Argument::Read(span) => Some((span, false)),
        Argument::ReadMap(map) => Some((map.span, false)),
        Argument::ReadPatches(patches) => Some((patches.span, false)),
        Argument::ReadBoxes(boxes) => Some((boxes.span, false)),
        Argument::WriteBoxes(boxes) => Some((boxes.span, true)),
        Argument::Write(span) => Some((span, true)),
        Argument::WriteMap(map) => Some((map.span, true)),
        Argument::Null | Argument::Word(_) => None,
    }
}

#[test]
fn launches_stay_within_their_memory_and_are_aligned() {
    for target in [
        Target::hopper(Element::F16),
        Target::hopper(Element::F32),
        Target::ampere(Element::F16),
    ] {
        for seed in 0..100 {
            let graph = network(seed);
            let (model, plan, weights) = model(&graph, &target);
            let shape = Shape {
                images: 3,
                size: plan.buffers[0].size,
                pixels: Pixels::Floats,
            };
            let pass = model.pass(&target, &plan, shape).unwrap();
            assert_eq!(pass.program.launches().len(), plan.steps.len() + 1);
            for launch in pass.program.launches() {
                for (span, is_written) in launch.arguments.iter().filter_map(spans) {
                    let (start, end) = match span.place {
                        crate::cuda::Place::Weights(start) => (start, weights),
                        crate::cuda::Place::Pass(start) => (start, pass.layout.bytes()),
                    };
                    assert!(start.is_multiple_of(16), "{}: {span:?}", launch.kernel);
                    assert!(start + span.bytes <= end, "{}: {span:?}", launch.kernel);
                    assert!(!is_written || matches!(span.place, crate::cuda::Place::Pass(_)));
                }
            }
            #[cfg(feature = "cuda")]
            crate::cuda::tests::check_signatures(&pass.program);
        }
    }
}

#[cfg(feature = "cuda")]
#[test]
fn a_device_computes_what_the_cpu_does() {
    use crate::{
        backend::{Backend, Kind},
        executor::tests::{executor, executor_on},
        host::tests::{flat, random},
    };
    for (element, most) in [(Element::F32, 2e-4), (Element::F16, 2e-2)] {
        let Some(gpu) = crate::cuda::tests::device(element) else {
            return;
        };
        let backend = Backend(Kind::Cuda(gpu));
        for seed in 0..300 {
            let graph = network(seed);
            let tensors = weights(&graph);
            let shape = graph.nodes()[0].shape;
            let there = executor_on(&graph, &tensors, &backend);
            let here = executor(&graph, &tensors);
            for images in [1, 5] {
                let dims = [images, shape.height, shape.width, 3];
                let pixels = random(&dims, seed as u32 + 1);
                let expected = flat(&here.forward(&pixels).unwrap());
                // Three times: launched one by one twice, then recorded.
                for _ in 0..3 {
                    let got = flat(&there.forward(&pixels).unwrap());
                    let norm = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>().sqrt();
                    let off: Vec<f32> = got.iter().zip(&expected).map(|(a, b)| a - b).collect();
                    let off =
                        norm(&off) / (norm(&expected) + 1e-2 * (expected.len() as f32).sqrt());
                    assert!(
                        off <= most,
                        "{element:?}, seed {seed}, {images}: off by {off}\n{graph:#?}"
                    );
                }
            }
        }
    }
}
