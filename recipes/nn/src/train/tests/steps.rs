//! Steps of a trainer against the plain reference.

use std::time::Duration;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use super::{Case, Optimizer, Settings, Tensors, Trainer, check_on_device, descent, dropped, kept};
use crate::{
    Backend, Precision,
    executor::tests::network,
    graph::{Builder, Convolution, Graph},
    train::{self, reference::Outcome},
};

/// The Euclidean length.
fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// How far two tensors are apart, in parts of the second, or of a hundredth of `all` if that is more: a gradient of nothing but
/// rounding, such as that of a bias before BatchNorm, is no measure.
pub(super) fn off(got: &[f32], expected: &[f64], all: f64) -> f64 {
    assert_eq!(got.len(), expected.len());
    let pairs = got.iter().zip(expected);
    let difference = length(pairs.map(|(got, expected)| f64::from(*got) - expected));
    difference / length(expected.iter().copied()).max(1e-2 * all)
}

/// How far a trainer's gradients are off, the worst one, and its name.
pub(super) fn worst(trainer: &mut Trainer, expected: &Outcome) -> (f64, String) {
    let all = length(expected.gradients.values().flatten().copied());
    let worst = trainer.parameters().unwrap().map(|parameter| {
        let expected = &expected.gradients[parameter.name];
        (
            off(&parameter.stored(parameter.gradient), expected, all),
            parameter.name.to_owned(),
        )
    });
    worst.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

fn compare(what: &str, trainer: &mut Trainer, loss: f64, expected: &Outcome, graph: &Graph) {
    let off_loss = (loss - expected.loss).abs() / (1.0 + expected.loss.abs());
    assert!(
        off_loss < 1e-4,
        "{what}: the loss is {loss}, expected {}",
        expected.loss
    );
    let (off, name) = worst(trainer, expected);
    assert!(off < 1e-3, "{what}, {name}: off by {off}\n{graph:#?}");
}

#[test]
fn gradients_of_random_networks_are_the_references() {
    for seed in 5000..5120 {
        let case = Case::new(network(seed), 4, seed as u32);
        for dropout in [None, Some(seed)] {
            let mut trainer = case.trainer(&descent(0.1, dropout));
            let loss = trainer.step(&case.input, &case.labels).unwrap().loss;
            let expected = match dropout {
                None => case.reference(&case.numbers(), &kept),
                Some(seed) => case.reference(&case.numbers(), &dropped(seed)),
            };
            let what = format!("seed {seed}");
            compare(&what, &mut trainer, loss, &expected, &case.graph);
            check_on_device(&what, &case, dropout, &expected);
        }
    }
}

/// What one step leaves behind, the next must not see: its numbers are those of the parameters that it begins with.
#[test]
fn later_steps_are_like_the_first() {
    for seed in 5200..5215 {
        let case = Case::new(network(seed), 3, seed as u32);
        let mut trainer = case.trainer(&descent(0.01, None));
        for step in 0..3 {
            let mut weights = case.numbers();
            for parameter in trainer.parameters().unwrap() {
                let values = parameter.values.iter().map(|x| f64::from(*x));
                weights.insert(parameter.name.into(), values.collect());
            }
            let loss = trainer.step(&case.input, &case.labels).unwrap().loss;
            let expected = case.reference(&weights, &kept);
            compare(
                &format!("seed {seed}, step {step}"),
                &mut trainer,
                loss,
                &expected,
                &case.graph,
            );
        }
    }
}

fn small() -> Case {
    let mut net = Builder::new(3, [6, 5]);
    let x = net.convolution("stem", net.input(), Convolution::new(8, 3).padding(1));
    let x = net.batch_norm("norm", x);
    let x = net.relu(x);
    let x = net.dropout(x, 0.3);
    let y = net.mean(x);
    let y = net.linear("side", y, 4);
    net.auxiliary(y, 0.3);
    let x = net.linear("fc", x, 4);
    Case::new(net.finish(x).unwrap(), 6, 3)
}

#[test]
fn a_batch_is_learnt() {
    let case = small();
    let optimizers = [
        descent(0.05, None).optimizer,
        Optimizer::AdamW {
            lr: 0.01,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
        },
    ];
    for optimizer in optimizers {
        for dropout in [None, Some(1)] {
            let mut trainer = case.trainer(&Settings {
                optimizer,
                dropout,
                pure_half: false,
            });
            let mut step = || trainer.step(&case.input, &case.labels).unwrap().loss;
            let first = step();
            let last = (0..60).map(|_| step()).last().unwrap();
            assert!(last < first / 4.0, "{optimizer:?}: from {first} to {last}");
        }
    }
}

#[test]
fn the_same_steps_have_the_same_bits() {
    let case = small();
    let run = |seed| {
        let mut trainer = case.trainer(&descent(0.05, Some(seed)));
        let losses: Vec<u64> = (0..4)
            .map(|_| {
                trainer
                    .step(&case.input, &case.labels)
                    .unwrap()
                    .loss
                    .to_bits()
            })
            .collect();
        let values = trainer
            .parameters()
            .unwrap()
            .flat_map(|parameter| parameter.values.to_vec());
        (losses, values.collect::<Vec<_>>())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
}

/// A tenth of a batch, with PyTorch's unbiased variance.
#[test]
fn running_statistics_follow_the_batches() {
    let case = small();
    let mut trainer = case.trainer(&descent(0.05, None));
    trainer.step(&case.input, &case.labels).unwrap();
    let before = case.numbers();
    let [mean, variance] = &case.reference(&before, &kept).statistics["norm"];
    let count = 6.0 * 6.0 * 5.0;
    let unbiased: Vec<f64> = variance.iter().map(|x| x * count / (count - 1.0)).collect();
    let mut seen = 0;
    for (name, got) in trainer.buffers().unwrap() {
        let new = if name.ends_with("mean") {
            mean
        } else {
            &unbiased
        };
        let pairs = before[name].iter().zip(new);
        let expected: Vec<f64> = pairs.map(|(old, new)| 0.9 * old + 0.1 * new).collect();
        assert!(
            off(got, &expected, 0.0) < 1e-5,
            "{name}: {got:?}, expected {expected:?}"
        );
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn what_does_not_fit_is_told() {
    let case = small();
    let mut trainer = case.trainer(&descent(0.05, None));
    let mut told = |input: &[f32], labels: &[u32]| {
        trainer
            .step(input, labels)
            .unwrap_err()
            .to_string()
            .lines()
            .next()
            .unwrap()
            .to_owned()
    };
    let expected = "expected 540 values and 6 labels, got 539 and 6";
    assert_eq!(told(&case.input[1..], &case.labels), expected);
    let expected = "expected 540 values and 6 labels, got 540 and 5";
    assert_eq!(told(&case.input, &case.labels[1..]), expected);
    assert_eq!(
        told(&case.input, &[0, 1, 2, 3, 4, 0]),
        "expected labels below 4, got 4"
    );
    // Nothing has been learnt from any of these.
    let weights: Tensors = case.numbers();
    for parameter in trainer.parameters().unwrap() {
        assert_eq!(off(parameter.values, &weights[parameter.name], 0.0), 0.0);
    }

    let mut tensors = case.tensors.clone();
    tensors.remove("norm.running_mean");
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let build = |batch: usize, backend: &Backend| {
        let made = Trainer::new(&case.graph, batch, &weights, &descent(0.1, None), backend);
        made.unwrap_err().to_string()
    };
    let backend = Precision::F32.into();
    assert!(build(2, &backend).contains("norm.running_mean"));
    assert!(build(0, &backend).contains("expected a batch of examples"));
    if let Some(precision) = Precision::bf16() {
        assert!(build(2, &precision.into()).contains("on the CPU in f32"));
    }
}

#[test]
fn what_devices_cannot_do_together_is_told() {
    let case = small();
    let weights = VarBuilder::from_tensors(case.tensors.clone(), DType::F32, &Device::Cpu);
    let told = |backends: &[Backend]| {
        let made = Trainer::on(&case.graph, 6, &weights, &descent(0.1, None), backends);
        // A backtrace may follow.
        let told = made.unwrap_err().to_string();
        told.lines().next().unwrap_or_default().to_owned()
    };
    let cpu = || Backend::from(Precision::F32);
    let expected = "expected one device, or several CUDA devices, to train on";
    assert_eq!(told(&[cpu(), cpu()]), expected);
    assert_eq!(told(&[]), expected);
    let expected = "expected a batch that 4 devices share evenly, got 6 examples";
    assert_eq!(told(&[cpu(), cpu(), cpu(), cpu()]), expected);
}

#[test]
fn devices_together_are_as_slow_as_the_slowest_and_lose_the_mean() {
    let millis = Duration::from_millis;
    let outcome = |loss, [forward, backward, update]: [u64; 3]| train::Outcome {
        loss,
        copy: Duration::ZERO,
        forward: millis(forward),
        backward: millis(backward),
        update: millis(update),
    };
    let ranks = [outcome(1.0, [1, 5, 3]), outcome(2.5, [2, 4, 3])];
    assert_eq!(train::Outcome::of(&ranks), outcome(1.75, [2, 5, 3]));
    let settings = descent(0.1, Some(u64::MAX));
    assert_eq!(settings.of(0), settings);
    assert_eq!(settings.of(2).dropout, Some(1));
    assert_eq!(descent(0.1, None).of(2).dropout, None);
}

/// A loss that is not a number is what a step says.
#[test]
fn a_loss_that_is_not_finite_is_reported() {
    let mut case = small();
    case.input[0] = f32::INFINITY;
    let mut trainer = case.trainer(&descent(0.05, None));
    let outcome = trainer.step(&case.input, &case.labels).unwrap();
    assert!(!outcome.loss.is_finite());
}

#[test]
fn a_loss_by_itself_drops_nothing_and_changes_nothing() {
    for seed in 5000..5040 {
        let case = Case::new(network(seed), 4, seed as u32);
        let mut trainer = case.trainer(&descent(0.1, Some(seed)));
        let buffers = |trainer: &mut Trainer| -> Vec<f32> {
            let buffers = trainer.buffers().unwrap();
            buffers.flat_map(|(_, values)| values.to_vec()).collect()
        };
        let before = buffers(&mut trainer);
        let loss = trainer.loss(&case.input, &case.labels).unwrap();
        assert_eq!(buffers(&mut trainer), before);
        let expected = case.reference(&case.numbers(), &kept).loss;
        let off = (loss - expected).abs() / (1.0 + expected.abs());
        assert!(off < 1e-4, "{loss}, expected {expected}");
        // The step after it is what it would have been.
        let step = trainer.step(&case.input, &case.labels).unwrap().loss;
        let mut other = case.trainer(&descent(0.1, Some(seed)));
        assert_eq!(step, other.step(&case.input, &case.labels).unwrap().loss);
    }
}
