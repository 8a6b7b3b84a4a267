//! One token of each sequence, and the gradient's way back to it.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use super::Onto;
use crate::graph::{End, Shape};

/// Where the token lies in each sequence of this shape.
fn place(end: End, from: Shape) -> std::ops::Range<usize> {
    let token = match end {
        End::First => 0,
        End::Last => from.width - 1,
    };
    token * from.channels..(token + 1) * from.channels
}

/// From `[sequences, tokens, features]` to `[sequences, features]`.
pub(crate) fn forward(end: End, from: Shape, x: &[f32], y: &mut [f32]) {
    let sequences = x.chunks_exact(from.values());
    for (x, y) in sequences.zip(y.chunks_exact_mut(from.channels)) {
        y.copy_from_slice(&x[place(end, from)]);
    }
}

/// The gradient of all tokens, of which the others get none.
pub(crate) fn backward(end: End, from: Shape, dy: &[f32], (dx, onto): (&mut [f32], Onto)) {
    if onto == Onto::Write {
        dx.fill(0.0);
    }
    let sequences = dx.chunks_exact_mut(from.values());
    for (dx, dy) in sequences.zip(dy.chunks_exact(from.channels)) {
        for (dx, dy) in dx[place(end, from)].iter_mut().zip(dy) {
            *dx += dy;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_picked_and_gets_its_gradient() {
        let from = Shape {
            channels: 2,
            height: 1,
            width: 3,
        };
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        for (end, picked, places) in [
            (End::First, [0.0, 1.0, 6.0, 7.0], [0, 6]),
            (End::Last, [4.0, 5.0, 10.0, 11.0], [4, 10]),
        ] {
            let mut y = [f32::NAN; 4];
            forward(end, from, &x, &mut y);
            assert_eq!(y, picked);
            for (onto, before) in [(Onto::Write, f32::NAN), (Onto::Add, 1.0)] {
                let mut dx = [before; 12];
                backward(end, from, &[1.0, 2.0, 3.0, 4.0], (&mut dx, onto));
                let mut expected = [if onto == Onto::Add { 1.0 } else { 0.0 }; 12];
                for (i, place) in places.into_iter().enumerate() {
                    expected[place] += (2 * i + 1) as f32;
                    expected[place + 1] += (2 * i + 2) as f32;
                }
                assert_eq!(dx, expected);
            }
        }
    }
}
