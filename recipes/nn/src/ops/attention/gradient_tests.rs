//! What training keeps and drops, and gradients, against plain loops in f64.

use super::{
    tests::{offsets, tokens},
    *,
};
use crate::{
    host::tests::{flat, random},
    ops::dropout::Stream,
};

/// What a pass gives, and the gradient of `sum(out * dout)` with respect to `qkv`, a (sequence, head, query) at a time.
struct Naive {
    out: Vec<f64>,
    log_sums: Vec<f64>,
    dqkv: Vec<f64>,
}

fn naive(
    [qkv, dout]: [&[f32]; 2],
    tokens: Tokens<'_>,
    dim: usize,
    factor: &dyn Fn(usize, usize, usize) -> f64,
) -> Naive {
    let Tokens {
        offsets,
        heads,
        causal,
    } = tokens;
    let (width, count) = (heads * dim, offsets[offsets.len() - 1]);
    let mut result = Naive {
        out: vec![0.0; count * width],
        log_sums: vec![0.0; heads * count],
        dqkv: vec![0.0; 3 * count * width],
    };
    let scale = 1.0 / (dim as f64).sqrt();
    for (pair, head) in offsets
        .windows(2)
        .flat_map(|pair| (0..heads).map(move |head| (pair, head)))
    {
        let place = |part: usize, token: usize| (3 * token + part) * width + head * dim;
        let x = |part: usize, token: usize, i: usize| f64::from(qkv[place(part, token) + i]);
        let dy = |token: usize, i: usize| f64::from(dout[token * width + head * dim + i]);
        let dot = |f: &dyn Fn(usize) -> f64| (0..dim).map(f).sum::<f64>();
        for query in pair[0]..pair[1] {
            let keys = pair[0]..if causal { query + 1 } else { pair[1] };
            let score = |key: usize| dot(&|i| x(0, query, i) * x(1, key, i)) * scale;
            let sum: f64 = keys.clone().map(|key| score(key).exp()).sum();
            result.log_sums[head * count + query] = sum.ln();
            let weight = |key: usize| score(key).exp() / sum;
            let left = |key: usize| factor(query, head, key - pair[0]);
            let dweight = |key: usize| left(key) * dot(&|i| dy(query, i) * x(2, key, i));
            let mean: f64 = keys.clone().map(|key| weight(key) * dweight(key)).sum();
            for key in keys {
                let dscore = weight(key) * (dweight(key) - mean) * scale;
                for i in 0..dim {
                    result.out[query * width + head * dim + i] +=
                        weight(key) * left(key) * x(2, key, i);
                    result.dqkv[place(0, query) + i] += dscore * x(1, key, i);
                    result.dqkv[place(1, key) + i] += dscore * x(0, query, i);
                    result.dqkv[place(2, key) + i] += weight(key) * left(key) * dy(query, i);
                }
            }
        }
    }
    result
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

/// What dropout multiplies a head's weight of a query and a key by.
fn factor(dropout: Option<Dropout>, [longest, heads]: [usize; 2], place: [usize; 3]) -> f64 {
    let [query, head, key] = place;
    let Some(dropout) = dropout else { return 1.0 };
    let first = (query * heads + head) * longest.div_ceil(TOGETHER);
    let factors = dropout.factors((first + key / TOGETHER) as u64);
    f64::from(factors[key % TOGETHER])
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
    for (lengths, heads, dim) in cases {
        let offsets = offsets(lengths);
        let (count, width) = (offsets[lengths.len()], heads * dim);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let qkv = flat(&random(&[count * 3 * width], 7));
        let dout = flat(&random(&[count * width], 8));
        let before = flat(&random(&[count * 3 * width], 9));
        for causal in [false, true] {
            let stream = Stream {
                seed: 3,
                step: 1,
                layer: 2,
            };
            for dropout in [None, Some(Dropout::new(0.3, stream))] {
                let tokens = tokens(&offsets, heads, causal);
                let expected = naive([&qkv, &dout], tokens, dim, &|query, head, key| {
                    factor(dropout, [longest, heads], [query, head, key])
                });
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
                    close(&what, &out, &expected.out, 1e-5);
                    close(&what, &log_sums, &expected.log_sums, 1e-4);
                    let pass = Backward {
                        qkv: &qkv,
                        out: &out,
                        log_sums: &log_sums,
                        dropout,
                        dout: &dout,
                    };
                    let mut dqkv = vec![f32::NAN; qkv.len()];
                    backward(level, &pass, tokens, (&mut dqkv, Onto::Write));
                    close(&what, &dqkv, &expected.dqkv, 2e-4);
                    let mut added = before.clone();
                    backward(level, &pass, tokens, (&mut added, Onto::Add));
                    let sums = dqkv.iter().zip(&before).map(|(x, y)| x + y);
                    assert!(sums.eq(added), "{what}");
                }
            }
        }
    }
}
