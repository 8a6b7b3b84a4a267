//! Devices that train together, where there are such: one that averages with itself alone, and two.

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use super::{Case, Settings, Trainer, descent, steps::off};
use crate::{
    backend::{Backend, Kind},
    cuda::{Element, tests::device_at},
    executor::tests::network,
    graph::{Builder, Convolution},
};

/// Values that are averaged at once: few, so that there are several such in small networks.
const BUCKET: usize = 64;

/// The first devices, or nothing where there are fewer, and says so.
fn devices(count: usize, element: Element) -> Option<Vec<Backend>> {
    let backend = |ordinal| Some(Backend(Kind::Cuda(device_at(ordinal, element)?)));
    (0..count).map(backend).collect()
}

/// A trainer that averages whether or not there are others, or nothing where there is no NCCL, and says so.
fn averaging(case: &Case, settings: &Settings, backends: &[Backend]) -> Option<Trainer> {
    let weights = VarBuilder::from_tensors(case.tensors.clone(), DType::F32, &Device::Cpu);
    let (batch, how) = (case.labels.len(), (backends, Some(BUCKET)));
    match Trainer::averaging(&case.graph, batch, &weights, settings, how) {
        Ok(trainer) => Some(trainer),
        Err(error) if error.to_string().contains("libnccl") => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A network of several layers that does not look at a batch as a whole.
fn plain(examples: usize) -> Case {
    let mut net = Builder::new(3, [6, 6]);
    let x = net.convolution("one", net.input(), Convolution::new(16, 3).padding(1));
    let x = net.relu(x);
    let x = net.dropout(x, 0.3);
    let x = net.convolution("two", x, Convolution::new(16, 3));
    let x = net.relu(x);
    let x = net.mean(x);
    let x = net.linear("fc", x, 4);
    Case::new(net.finish(x).unwrap(), examples, 3)
}

/// With one number for all that are none.
fn bits(values: &[f32]) -> Vec<u32> {
    let bits = |value: &f32| {
        if value.is_nan() {
            u32::MAX
        } else {
            value.to_bits()
        }
    };
    values.iter().map(bits).collect()
}

/// The first steps run as they are, what comes after them as it was recorded.
#[test]
fn one_device_that_averages_has_the_same_bits() {
    for element in [Element::F32, Element::F16] {
        let Some(backends) = devices(1, element) else {
            return;
        };
        for seed in 5000..5010 {
            let case = Case::new(network(seed), 4, seed as u32);
            let settings = descent(0.01, Some(seed));
            let Some(mut averaging) = averaging(&case, &settings, &backends) else {
                return;
            };
            let mut alone = case.trainer_on(&settings, &backends[0]);
            for step in 0..4 {
                let [averaged, expected] = [&mut averaging, &mut alone].map(|trainer| {
                    let loss = trainer.step(&case.input, &case.labels).unwrap().loss;
                    let [parameters, gradients] = trainer.numbers_of(0).unwrap();
                    [&[loss as f32][..], &parameters, &gradients].map(bits)
                });
                assert!(
                    averaged == expected,
                    "seed {seed}, step {step}, {element:?}"
                );
            }
        }
    }
}

#[test]
fn two_devices_train_as_one_on_the_whole_batch() {
    let Some(backends) = devices(2, Element::F32) else {
        return;
    };
    let (case, settings) = (plain(8), descent(0.05, None));
    let Some(mut both) = averaging(&case, &settings, &backends) else {
        return;
    };
    let mut one = case.trainer_on(&settings, &backends[0]);
    for step in 0..5 {
        let [got, expected] =
            [&mut both, &mut one].map(|trainer| trainer.step(&case.input, &case.labels).unwrap());
        let apart = (got.loss - expected.loss).abs();
        assert!(apart < 1e-4, "step {step}: {got:?}, expected {expected:?}");
        assert!(!got.backward.is_zero() && !got.update.is_zero(), "{got:?}");
        let of_ranks = [0, 1].map(|rank| both.numbers_of(rank).unwrap());
        assert!(of_ranks[0] == of_ranks[1], "step {step}: devices differ");
        for (got, expected) in of_ranks[0].iter().zip(one.numbers_of(0).unwrap()) {
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            let off = off(got, &expected, 0.0);
            assert!(off < 1e-3, "step {step}: off by {off}");
        }
    }
    let losses = [&mut both, &mut one].map(|it| it.loss(&case.input, &case.labels).unwrap());
    assert!((losses[0] - losses[1]).abs() < 1e-4, "{losses:?}");
}

/// What is more than f16 holds on one device, here the last, is passed over by all.
#[test]
fn an_overflow_on_one_device_changes_nothing_on_any() {
    for count in [1, 2] {
        let Some(backends) = devices(count, Element::F16) else {
            return;
        };
        let case = plain(8);
        let Some(mut trainer) = averaging(&case, &descent(0.05, Some(1)), &backends) else {
            return;
        };
        let parameters = |trainer: &mut Trainer| {
            let numbers = |rank| trainer.numbers_of(rank).unwrap();
            let all: Vec<_> = (0..count).map(numbers).map(|[values, _]| values).collect();
            assert!(all.iter().all(|values| *values == all[0]), "devices differ");
            all[0].clone()
        };
        let mut spoilt = case.input.clone();
        *spoilt.last_mut().unwrap() = f32::INFINITY;
        let mut learnt = 0;
        for step in 0..24 {
            let before = parameters(&mut trainer);
            let is_spoilt = step % 3 == 0;
            let input = if is_spoilt { &spoilt } else { &case.input };
            trainer.step(input, &case.labels).unwrap();
            let changed = parameters(&mut trainer) != before;
            assert!(!(is_spoilt && changed), "step {step} of {count} devices");
            learnt += usize::from(changed);
        }
        assert!(learnt > 4, "{learnt} steps of {count} devices");
    }
}

#[test]
fn a_device_is_not_two() {
    let Some(backends) = devices(1, Element::F32) else {
        return;
    };
    let case = plain(8);
    let weights = VarBuilder::from_tensors(case.tensors.clone(), DType::F32, &Device::Cpu);
    let twice = [backends[0].clone(), backends[0].clone()];
    let made = Trainer::on(&case.graph, 8, &weights, &descent(0.1, None), &twice);
    let error = made.unwrap_err().to_string();
    assert!(
        error.contains("different devices, got cuda:0 twice"),
        "{error}"
    );
}
