//! Programs of random networks, and on a device what they compute.

use super::*;
use crate::{
    cuda::check::{name, spans},
    executor::tests::network,
    train::{Form, differentiate, tests::descent},
};

/// Programs for a card of a network that is all its own.
fn programs(seed: u64, element: Element) -> Programs {
    let form = Form {
        batch: 3,
        dropout: true,
    };
    let plan = differentiate(&network(seed), form).unwrap();
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
}
