//! What training keeps and drops, and gradients, against the plain reference.

use super::{
    tests::{offsets, tokens},
    *,
};
use crate::{
    host::tests::{flat, random},
    ops::dropout::Stream,
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

/// What dropout multiplies a head's weight of a query and a key by.
fn factor(dropout: Option<Dropout>, [longest, heads]: [usize; 2], place: [usize; 3]) -> f64 {
    let [query, head, key] = place;
    let Some(dropout) = dropout else { return 1.0 };
    let first = (query * heads + head) * longest.div_ceil(TOGETHER);
    let factors = dropout.factors((first + key / TOGETHER) as u64);
    f64::from(factors[key % TOGETHER])
}

fn exact(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

#[test]
fn gradients_match_plain_loops_at_every_level() {
    let cases: [(&[usize], usize, usize); 6] = [
        (&[5], 1, 17),
        (&[33, 1, 31], 2, 16),
        (&[100, 100], 3, 32),
        (&[3, 0, 14], 2, 1),
        (&[50], 2, 70),
        (&[130], 1, 64),
    ];
    let stream = Stream {
        seed: 3,
        step: 1,
        layer: 2,
    };
    for (lengths, heads, dim) in cases {
        let offsets = offsets(lengths);
        let (count, width) = (offsets[lengths.len()], heads * dim);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let qkv = flat(&random(&[count * 3 * width], 7));
        let dout = flat(&random(&[count * width], 8));
        let before = flat(&random(&[count * 3 * width], 9));
        for causal in [false, true] {
            for dropout in [None, Some(Dropout::new(0.3, stream))] {
                let tokens = tokens(&offsets, heads, causal);
                let plain = sequences::Attention {
                    offsets: &offsets,
                    heads,
                    causal,
                    left: &|query, head, key| factor(dropout, [longest, heads], [query, head, key]),
                };
                let [expected, expected_sums] = plain.forward(&exact(&qkv));
                let [expected_gradient] = &plain.backward(&exact(&qkv), &exact(&dout))[..] else {
                    panic!("one gradient")
                };
                for level in Level::all() {
                    let what = format!(
                        "{lengths:?}, {heads} x {dim}, causal {causal}, {dropout:?}, {level:?}"
                    );
                    let mut out = vec![f32::NAN; count * width];
                    let mut log_sums = vec![f32::NAN; heads * count];
                    let kept = Kept {
                        log_sums: &mut log_sums,
                        dropout,
                    };
                    forward(level, &qkv, tokens, Some(kept), &mut out);
                    close(&what, &out, &expected, 1e-5);
                    close(&what, &log_sums, &expected_sums, 1e-4);
                    let pass = Backward {
                        qkv: &qkv,
                        out: &out,
                        log_sums: &log_sums,
                        dropout,
                        dout: &dout,
                    };
                    let mut dqkv = vec![f32::NAN; qkv.len()];
                    backward(level, &pass, tokens, (&mut dqkv, Onto::Write));
                    close(&what, &dqkv, expected_gradient, 2e-4);
                    let mut added = before.clone();
                    backward(level, &pass, tokens, (&mut added, Onto::Add));
                    let sums = dqkv.iter().zip(&before).map(|(x, y)| x + y);
                    assert!(sums.eq(added), "{what}");
                }
            }
        }
    }
}
