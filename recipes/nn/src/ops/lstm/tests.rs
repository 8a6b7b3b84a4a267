//! Against the plain reference.

use super::*;
use crate::{
    host::tests::{flat, random},
    train::reference::sequences,
};

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
        let tensors: [Vec<f64>; 4] = std::array::from_fn(|i| exact(&values[i + 1]));
        let plain = sequences::Lstm {
            steps,
            hidden,
            tensors: tensors.each_ref().map(|tensor| &tensor[..]),
        };
        let expected = plain.forward(&exact(&values[0]));
        let expected_gradients = plain.backward(&exact(&values[0]), &exact(&dy));
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
