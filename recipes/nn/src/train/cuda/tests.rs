//! Programs of random networks, and on a device what they compute.

use super::*;
use crate::{
    cuda::{
        Span, Work,
        check::{name, overlap, spans},
    },
    executor::tests::network,
    graph::Builder,
    ops::optimizer::cuda::State,
    train::{Form, differentiate, tests::descent},
};

const FORM: Form = Form {
    batch: 3,
    dropout: true,
};

/// Programs for a card of a network that is all its own.
fn programs(seed: u64, element: Element) -> Programs {
    let plan = differentiate(&network(seed), FORM).unwrap();
    Programs::new(&plan, &descent(0.1, Some(7)), Target::hopper(element)).unwrap()
}

/// All parts of a step.
fn parts(programs: &Programs) -> [&Program; 5] {
    [
        &programs.start,
        &programs.forward,
        &programs.losses,
        &programs.backward,
        &programs.update,
    ]
}

#[test]
fn steps_stay_within_their_memory() {
    for element in [Element::F16, Element::F32] {
        for seed in 5000..5060 {
            let programs = programs(seed, element);
            for work in parts(&programs).iter().flat_map(|part| part.work()) {
                let (read, written) = spans(work);
                assert!(!written.is_empty(), "{} writes nothing", name(work));
                for span in read.iter().chain(&written) {
                    let crate::cuda::Place::Pass(start) = span.place else {
                        panic!("{} has weights of its own", name(work))
                    };
                    let end = start + span.bytes;
                    assert!(end <= programs.layout.bytes(), "{} goes beyond", name(work));
                    assert_eq!(start % element.size(), 0, "{}", name(work));
                }
            }
        }
    }
}

/// In bytes, of which each array begins at a multiple of 256. Behind them is what operators work in.
#[test]
fn a_step_has_the_memory_of_its_arrays() {
    let mut net = Builder::new(8, [1, 1]);
    let x = net.linear("first", net.input(), 64);
    let x = net.relu(x);
    let x = net.linear("second", x, 16);
    let plan = differentiate(&net.finish(x).unwrap(), FORM).unwrap();
    let count = 8 * 64 + 64 + 64 * 16 + 16;
    assert_eq!(plan.parameters_len(), count);
    for (optimizer, kept) in [(Optimizer::SGD, 1), (Optimizer::ADAM_W, 2)] {
        for element in [Element::F16, Element::F32] {
            let mut layout = Layout::default();
            let _ = Places::new(&plan, element, optimizer.kept(), &mut layout);
            let rounded = match element {
                Element::F16 => 2 * count,
                Element::F32 => 0,
            };
            // Parameters and their gradients, what the optimizer keeps, labels, state, losses, values.
            let mut arrays = vec![4 * count; 2 + kept];
            arrays.extend([rounded, 4 * FORM.batch, State::BYTES, 4]);
            arrays.push(plan.len * element.size());
            let bytes: usize = arrays.iter().map(|bytes| bytes.next_multiple_of(256)).sum();
            assert_eq!(layout.bytes(), bytes, "{element:?} {optimizer:?}");
        }
    }
}

/// On a device, where there is one: the layout, and what any session has besides. Steps allocate nothing.
#[cfg(feature = "cuda")]
#[test]
fn what_is_allocated_is_what_was_planned() {
    use std::sync::Arc;

    use super::device::Cuda;
    use crate::{
        aligned::Aligned,
        cuda::{Session, tests::device},
        train::cpu::Numbers,
    };

    for element in [Element::F16, Element::F32] {
        let Some(gpu) = device(element) else { return };
        let (gpu, held) = gpu.with_cudnn().counted_apart();
        let (session, besides) = held.during(|| Session::new(&gpu, Layout::default()).unwrap());
        drop(session);
        let plan = Arc::new(differentiate(&network(5000), FORM).unwrap());
        let settings = descent(0.1, Some(7));
        let planned = Programs::new(&plan, &settings, gpu.target()).unwrap();
        let numbers = Numbers {
            parameters: Aligned::zeros(plan.parameters_len()),
            gradients: Aligned::zeros(plan.parameters_len()),
            buffers: Aligned::zeros(plan.buffers_len()),
        };
        let mut cuda = Cuda::new(&gpu, &plan, &settings, &numbers).unwrap();
        let input = vec![0.0; plan.slots[plan.input].len];
        let ((), most) = held.during(|| {
            for _ in 0..3 {
                cuda.step(&input, &[0; FORM.batch]).unwrap();
            }
        });
        assert_eq!(most, planned.layout.bytes() + besides, "{element:?}");
        drop(cuda);
        assert_eq!(held.during(|| ()).1, 0);
    }
}

/// What becomes of parameters where f16 is all that there is.
fn pure(optimizer: Optimizer) -> Programs {
    let plan = differentiate(
        &network(5000),
        Form {
            batch: 3,
            dropout: false,
        },
    )
    .unwrap();
    let settings = Settings {
        optimizer,
        pure_half: true,
        ..descent(0.1, None)
    };
    Programs::new(&plan, &settings, Target::hopper(Element::F16)).unwrap()
}

#[test]
fn where_f16_is_all_that_there_is_nothing_looks_for_overflows() {
    for (optimizer, expected) in [
        (Optimizer::SGD, vec!["sgd_pure", "end_pure"]),
        (
            Optimizer::ADAM_W,
            vec!["prepare_f16", "adam_w_pure", "end_pure"],
        ),
    ] {
        let programs = pure(optimizer);
        let names = programs.update.work().iter().map(name);
        assert_eq!(names.collect::<Vec<_>>(), expected);
    }
}

/// Of all kernels, as they were compiled.
#[cfg(feature = "cuda")]
#[test]
fn launches_are_as_their_kernels_want_them() {
    for element in [Element::F16, Element::F32] {
        for seed in 5000..5060 {
            let programs = programs(seed, element);
            for part in parts(&programs) {
                crate::cuda::tests::check_signatures(part);
            }
        }
    }
    for optimizer in [Optimizer::SGD, Optimizer::ADAM_W] {
        crate::cuda::tests::check_signatures(&pure(optimizer).update);
    }
}

/// What the update reads are averages of what the way back wrote last, and while these are made nobody else touches it.
#[test]
fn all_gradients_are_averaged_once_after_their_last_write() {
    for element in [Element::F16, Element::F32] {
        for seed in 5000..5060 {
            let together = Target {
                bucket: Some(100),
                ..Target::hopper(element)
            };
            let plan = differentiate(&network(seed), FORM).unwrap();
            let settings = descent(0.1, Some(7));
            let alone = Programs::new(&plan, &settings, Target::hopper(element)).unwrap();
            let together = Programs::new(&plan, &settings, together).unwrap();
            let mut averaged: Vec<Span> = Vec::new();
            for work in together.backward.work() {
                let (read, written) = spans(work);
                for span in read.iter().chain(&written) {
                    let free = averaged.iter().all(|values| !overlap(*values, *span));
                    assert!(free, "seed {seed}: {} touches averages", name(work));
                }
                if let Work::Average(values) = work {
                    averaged.push(*values);
                }
            }
            let gradients = together.places.gradients;
            let inside = |span: &Span| overlap(*span, gradients);
            assert!(averaged.iter().all(inside), "seed {seed}");
            let bytes: usize = averaged.iter().map(|values| values.bytes).sum();
            assert_eq!(bytes, gradients.bytes, "seed {seed}");
            assert_eq!(together.backward.work().last(), Some(&Work::Join));
            // All else is as it is with one device.
            for (alone, together) in parts(&alone).into_iter().zip(parts(&together)) {
                let works = together.work().iter();
                let same = works.filter(|work| !matches!(work, Work::Average(_) | Work::Join));
                assert!(same.eq(alone.work()), "seed {seed}");
            }
        }
    }
}
