//! The same steps on a CUDA device, where there is one.

use std::sync::OnceLock;

use super::{Case, descent, steps::worst};
use crate::{
    backend::{Backend, Kind},
    cuda::{Element, tests::device},
    train::{Settings, Trainer, reference::Outcome},
};

/// Steps after which gradients have become small enough for f16, at most.
const STEPS: usize = 20;

/// The first device in each element that networks are trained in.
fn backends() -> &'static [(Element, Backend)] {
    static BACKENDS: OnceLock<Vec<(Element, Backend)>> = OnceLock::new();
    BACKENDS.get_or_init(|| {
        let both = [Element::F32, Element::F16].into_iter();
        both.filter_map(|element| Some((element, Backend(Kind::Cuda(device(element)?)))))
            .collect()
    })
}

/// Whether all parameters are numbers of f16 after a step, and have changed.
#[test]
fn where_f16_is_all_that_there_is_parameters_are_numbers_of_it() {
    for (_, backend) in backends()
        .iter()
        .filter(|(element, _)| *element == Element::F16)
    {
        let case = Case::new(super::sequences::lstm(), 6, 3);
        let settings = Settings {
            pure_half: true,
            ..descent(0.1, None)
        };
        let mut trainer = case.trainer_on(&settings, backend);
        let values = |trainer: &mut Trainer| -> Vec<f32> {
            let parameters = trainer.parameters().unwrap();
            parameters
                .flat_map(|parameter| parameter.values.to_vec())
                .collect()
        };
        let before = values(&mut trainer);
        let loss = trainer.step(&case.input, &case.labels).unwrap().loss;
        let after = values(&mut trainer);
        assert!(loss.is_finite() && before != after);
        assert!(after.iter().all(|&x| half::f16::from_f32(x).to_f32() == x));
    }
}

/// Whether a step's gradients were more than f16 holds: then it has changed nothing but what the next loss is multiplied by.
fn is_too_large(trainer: &mut Trainer) -> bool {
    let mut parameters = trainer.parameters().unwrap();
    parameters.any(|parameter| parameter.gradient.iter().any(|x| !x.is_finite()))
}

/// That a step has the loss and the gradients that are expected, as nearly as the element is rounded.
pub(super) fn check(what: &str, case: &Case, dropout: Option<u64>, expected: &Outcome) {
    for (element, backend) in backends() {
        let mut trainer = case.trainer_on(&descent(0.1, dropout), backend);
        let mut loss = trainer.step(&case.input, &case.labels).unwrap().loss;
        for _ in 0..STEPS {
            if *element == Element::F32 || dropout.is_some() || !is_too_large(&mut trainer) {
                break;
            }
            loss = trainer.step(&case.input, &case.labels).unwrap().loss;
        }
        // Another step drops other values.
        if *element == Element::F16 && dropout.is_some() && is_too_large(&mut trainer) {
            continue;
        }
        let nearness = match element {
            Element::F32 => 1e-3,
            Element::F16 => 0.1,
        };
        let off = (loss - expected.loss).abs() / (1.0 + expected.loss.abs());
        let what = format!("{what}, {element:?}, dropout {dropout:?}");
        assert!(off < 0.1 * nearness, "{what}: the loss is off by {off}");
        let (off, name) = worst(&mut trainer, expected);
        assert!(off < nearness, "{what}: {name} is off by {off}");
    }
}
