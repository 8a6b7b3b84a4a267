//! Against plain loops in f64, whose gradients are held against finite differences.

use super::*;
use crate::host::tests::{flat, random};

/// A layer's sizes: sequences, steps, inputs, hidden.
type Case = [usize; 4];

/// In the order of [`Tensors`], and before them the inputs.
type Values = [Vec<f64>; 5];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// All outputs.
fn outputs([sequences, steps, inputs, hidden]: Case, values: &Values) -> Vec<f64> {
    let [x, input, recurrent, input_bias, recurrent_bias] = values;
    let mut y = Vec::new();
    for sequence in 0..sequences {
        let (mut h, mut c) = (vec![0.0; hidden], vec![0.0; hidden]);
        for step in 0..steps {
            let x = &x[(sequence * steps + step) * inputs..][..inputs];
            let gates: Vec<f64> = (0..4 * hidden)
                .map(|gate| {
                    let dot = |row: &[f64], x: &[f64]| -> f64 {
                        row.iter().zip(x).map(|(w, x)| w * x).sum()
                    };
                    input_bias[gate]
                        + recurrent_bias[gate]
                        + dot(&input[gate * inputs..][..inputs], x)
                        + dot(&recurrent[gate * hidden..][..hidden], &h)
                })
                .collect();
            for unit in 0..hidden {
                let gate = |i: usize| gates[i * hidden + unit];
                c[unit] = sigmoid(gate(1)) * c[unit] + sigmoid(gate(0)) * gate(2).tanh();
                h[unit] = sigmoid(gate(3)) * c[unit].tanh();
            }
            y.extend(&h);
        }
    }
    y
}

/// The gradient of `sum(y * dy)` with respect to all values, by differences.
fn gradients(case: Case, values: &Values, dy: &[f64]) -> Values {
    let loss = |values: &Values| -> f64 {
        let y = outputs(case, values);
        y.iter().zip(dy).map(|(y, dy)| y * dy).sum()
    };
    let mut moved = values.clone();
    std::array::from_fn(|part| {
        (0..values[part].len())
            .map(|i| {
                let at = values[part][i];
                let mut at_step = |step: f64| {
                    moved[part][i] = at + step;
                    loss(&moved)
                };
                let rise = at_step(1e-5) - at_step(-1e-5);
                moved[part][i] = at;
                rise / 2e-5
            })
            .collect()
    })
}

fn close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(
            error < tolerance,
            "{what}: value {i} is {got}, expected {expected}"
        );
    }
}

#[test]
fn outputs_and_gradients_match_plain_loops_at_every_level() {
    for case in [[3, 5, 4, 7], [1, 1, 3, 2], [2, 3, 6, 18], [5, 4, 1, 1]] {
        let [sequences, steps, inputs, hidden] = case;
        let shape = |channels| Shape {
            channels,
            height: 1,
            width: steps,
        };
        let gates = 4 * hidden;
        let count = sequences * steps;
        let lens = [count * inputs, gates * inputs, gates * hidden, gates, gates];
        let values = lens.map(|len| flat(&random(&[len], len as u32)));
        let dy = flat(&random(&[count * hidden], 7));
        let before = flat(&random(&[count * inputs], 8));
        let exact = |values: &[f32]| -> Vec<f64> { values.iter().map(|x| f64::from(*x)).collect() };
        let exact_values: Values = std::array::from_fn(|i| exact(&values[i]));
        let expected = outputs(case, &exact_values);
        let expected_gradients = gradients(case, &exact_values, &exact(&dy));
        let [x, input, recurrent, input_bias, recurrent_bias] = &values;
        for level in Level::all() {
            let what = format!("{case:?}, {level:?}");
            let mut layer = Lstm::new(shape(inputs), shape(hidden), sequences);
            let mut y = vec![f32::NAN; count * hidden];
            let mut kept = [4, 1].map(|parts| vec![f32::NAN; parts * count * hidden]);
            // A second pass finds the memory of the first.
            for onto in [Onto::Write, Onto::Add] {
                let [gates, cells] = &mut kept;
                let tensors = [
                    &input[..],
                    &recurrent[..],
                    &input_bias[..],
                    &recurrent_bias[..],
                ];
                layer.forward(level, tensors, x, &mut y, Kept { gates, cells });
                close(&what, &y, &expected, 1e-5);
                let [gates, cells] = &mut kept;
                let mut dx = before.clone();
                let mut gradients = [1, 2, 3, 4].map(|i| vec![f32::NAN; lens[i]]);
                layer.backward(
                    level,
                    [input, recurrent],
                    [x, &y, &dy],
                    Kept { gates, cells },
                    Some((&mut dx, onto)),
                    gradients.each_mut().map(|gradient| &mut gradient[..]),
                );
                if onto == Onto::Add {
                    dx.iter_mut().zip(&before).for_each(|(dx, x)| *dx -= x);
                }
                close(&what, &dx, &expected_gradients[0], 1e-4);
                for (got, expected) in gradients.iter().zip(&expected_gradients[1..]) {
                    close(&what, got, expected, 1e-4);
                }
            }
        }
    }
}
