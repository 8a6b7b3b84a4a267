//! Against plain loops in f64, at every level.

use super::*;
use crate::host::tests::{flat, random};

/// Values in f64, and the gradients of everything, by the formulas.
struct Expected {
    y: Vec<f64>,
    mean: Vec<f64>,
    variance: Vec<f64>,
    dx: Vec<f64>,
    passed: Vec<f64>,
    dscale: Vec<f64>,
    dshift: Vec<f64>,
}

struct Case {
    pixels: usize,
    channels: usize,
    /// What is added to all values.
    mean: f32,
    residual: bool,
    activation: Activation,
}

const EPS: f64 = 1e-5;

fn expected(case: &Case, [x, scale, shift, residual, dy]: [&[f32]; 5]) -> Expected {
    let (pixels, channels) = (case.pixels, case.channels);
    let mut expected = Expected {
        y: vec![0.0; x.len()],
        mean: Vec::new(),
        variance: Vec::new(),
        dx: vec![0.0; x.len()],
        passed: vec![0.0; x.len()],
        dscale: Vec::new(),
        dshift: Vec::new(),
    };
    let count = pixels as f64;
    for channel in 0..channels {
        let all = || (0..pixels).map(|pixel| pixel * channels + channel);
        let mean = all().map(|i| f64::from(x[i])).sum::<f64>() / count;
        let variance = all().map(|i| (f64::from(x[i]) - mean).powi(2)).sum::<f64>() / count;
        let reciprocal = 1.0 / (variance + EPS).sqrt();
        let [scale, shift] = [scale[channel], shift[channel]].map(f64::from);
        let normal = |i: usize| (f64::from(x[i]) - mean) * reciprocal;
        let (mut dscale, mut dshift) = (0.0, 0.0);
        for i in all() {
            let residual = if case.residual {
                f64::from(residual[i])
            } else {
                0.0
            };
            let sum = normal(i) * scale + shift + residual;
            let most = match case.activation {
                Activation::Relu6 => 6.0,
                _ => f64::INFINITY,
            };
            let cuts = case.activation != Activation::None;
            expected.y[i] = if cuts { sum.clamp(0.0, most) } else { sum };
            expected.passed[i] = match cuts && (sum <= 0.0 || sum >= most) {
                true => 0.0,
                false => f64::from(dy[i]),
            };
            dscale += expected.passed[i] * normal(i);
            dshift += expected.passed[i];
        }
        for i in all() {
            let rest = expected.passed[i] - (dshift + normal(i) * dscale) / count;
            expected.dx[i] = scale * reciprocal * rest;
        }
        expected.mean.push(mean);
        expected.variance.push(variance);
        expected.dscale.push(dscale);
        expected.dshift.push(dshift);
    }
    expected
}

fn close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(
            error <= tolerance * (1.0 + expected.abs()),
            "{what}: value {i} is {got}, expected {expected}"
        );
    }
}

impl Case {
    fn check(&self) {
        let (pixels, channels) = (self.pixels, self.channels);
        let len = pixels * channels;
        let x: Vec<f32> = (flat(&random(&[len], 1)).iter())
            .map(|x| x + self.mean)
            .collect();
        let [scale, shift] = [2, 3].map(|seed| flat(&random(&[channels], seed)));
        let [residual, dy, before] = [4, 5, 6].map(|seed| flat(&random(&[len], seed)));
        let expected = expected(self, [&x, &scale, &shift, &residual, &dy]);
        // What a mean's last bit is worth beside a spread of about one; products with gradients are summed.
        let tolerance = 2e-5 + 1e-6 * f64::from(self.mean.abs());
        let summed = tolerance * (pixels as f64).sqrt();
        for level in Level::all() {
            let what = |what: &str| {
                format!(
                    "{what}, {level:?}, {pixels} x {channels} around {}",
                    self.mean
                )
            };
            let mut y = vec![f32::NAN; len];
            let given = self.residual.then_some(&residual[..]);
            let activation = self.activation;
            let statistics = forward(
                level, &x, channels, &scale, &shift, EPS, given, activation, &mut y,
            );
            close(&what("mean"), &statistics.mean, &expected.mean, 1e-6);
            close(
                &what("variance"),
                &statistics.variance,
                &expected.variance,
                1e-5,
            );
            close(
                &what("output"),
                &y,
                &expected.y,
                tolerance * self.steepness(&expected),
            );
            // Where the activation cuts may hang on the last bit.
            let y: Vec<f32> = expected.y.iter().map(|y| *y as f32).collect();
            for onto in [Onto::Write, Onto::Add] {
                let start = |i: usize| match onto {
                    Onto::Write => f32::NAN,
                    Onto::Add => before[i],
                };
                let mut dx: Vec<f32> = (0..len).map(start).collect();
                let mut dr = dx.clone();
                let [mut dscale, mut dshift] = [(); 2].map(|()| vec![f32::NAN; channels]);
                backward(
                    level,
                    &x,
                    &statistics,
                    &scale,
                    &y,
                    activation,
                    &dy,
                    (&mut dx, onto),
                    self.residual.then_some((&mut dr[..], onto)),
                    &mut dscale,
                    &mut dshift,
                );
                let onto = |i: usize| match onto {
                    Onto::Write => 0.0,
                    Onto::Add => f64::from(before[i]),
                };
                let all = |gradient: &[f64]| -> Vec<f64> {
                    let sums = gradient.iter().enumerate();
                    sums.map(|(i, gradient)| gradient + onto(i)).collect()
                };
                let steep = self.steepness(&expected);
                close(
                    &what("dx"),
                    &dx,
                    &all(&expected.dx),
                    tolerance * steep * steep,
                );
                if self.residual {
                    close(&what("residual"), &dr, &all(&expected.passed), 1e-6);
                }
                close(&what("dshift"), &dshift, &expected.dshift, 1e-5);
                close(&what("dscale"), &dscale, &expected.dscale, summed * steep);
            }
        }
    }

    /// How much errors of `x` grow.
    fn steepness(&self, expected: &Expected) -> f64 {
        let least = expected.variance.iter().copied().fold(1.0, f64::min);
        1.0 / (least + EPS).sqrt()
    }
}

#[test]
fn values_and_gradients_are_those_of_the_formulas() {
    let activations = [Activation::None, Activation::Relu, Activation::Relu6];
    for (pixels, channels) in [(1, 5), (2, 16), (3, 70), (49, 33), (1000, 8), (5003, 19)] {
        for mean in [0.0, 3.0, -1000.0] {
            for (i, activation) in activations.into_iter().enumerate() {
                let case = Case {
                    pixels,
                    channels,
                    mean,
                    residual: (i + channels) % 2 == 0,
                    activation,
                };
                case.check();
            }
        }
    }
}

#[test]
fn a_large_mean_leaves_the_spread() {
    let values = [16384.0, 16384.5, 16385.0];
    let x: Vec<f32> = (0..30_000).map(|i| values[i % 3]).collect();
    let mut y = vec![0.0; x.len()];
    for level in Level::all() {
        let activation = Activation::None;
        let one = forward(level, &x, 1, &[1.0], &[0.0], 0.0, None, activation, &mut y);
        assert_eq!(one.mean, [16384.5]);
        assert!((one.variance[0] - 1.0 / 6.0).abs() < 1e-6, "{one:?}");
    }
}

#[test]
fn statistics_do_not_depend_on_the_threads() {
    let x = flat(&random(&[70_000], 1));
    let statistics = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let mut y = vec![0.0; x.len()];
        let (level, activation) = (Level::detect(), Activation::Relu);
        pool.unwrap().install(|| {
            let [scale, shift] = [[1.0; 7], [0.5; 7]];
            forward(level, &x, 7, &scale, &shift, EPS, None, activation, &mut y)
        })
    };
    assert_eq!(statistics(1), statistics(5));
}
