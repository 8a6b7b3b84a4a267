//! Against the textbook form in f64, at every level, for sizes that fill no tile.

use super::*;
use crate::host::tests::{flat, random};

/// `[tokens, heads * dim]`, one (sequence, head, query) at a time.
fn naive(qkv: &[f32], tokens: Tokens<'_>, dim: usize) -> Vec<f64> {
    let Tokens { offsets, heads, .. } = tokens;
    let width = heads * dim;
    let mut out = Vec::new();
    let part = |token: usize, part: usize, head: usize| {
        let at = (3 * token + part) * width + head * dim;
        qkv[at..at + dim].iter().map(|&x| f64::from(x))
    };
    for pair in offsets.windows(2) {
        for query in pair[0]..pair[1] {
            for head in 0..heads {
                let score = |key: usize| -> f64 {
                    let products = part(query, 0, head).zip(part(key, 1, head));
                    products.map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt()
                };
                let end = if tokens.causal { query + 1 } else { pair[1] };
                let weights: Vec<f64> = (pair[0]..end).map(|key| score(key).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut context = vec![0.0; dim];
                for (key, weight) in (pair[0]..end).zip(weights) {
                    for (context, value) in context.iter_mut().zip(part(key, 2, head)) {
                        *context += weight / sum * value;
                    }
                }
                out.extend(context);
            }
        }
    }
    out
}

pub(super) fn offsets(lengths: &[usize]) -> Vec<usize> {
    let end = |i| lengths[..i].iter().sum();
    (0..=lengths.len()).map(end).collect()
}

fn attend(level: Level, qkv: &[f32], tokens: Tokens<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; qkv.len() / 3];
    forward(level, qkv, tokens, None, &mut out);
    out
}

pub(super) fn tokens(offsets: &[usize], heads: usize, causal: bool) -> Tokens<'_> {
    Tokens {
        offsets,
        heads,
        causal,
    }
}

#[test]
fn packed_sequences_attend_to_themselves_only_at_every_level() {
    let cases: [(&[usize], usize, usize); 7] = [
        (&[1, 7, 130, 0, 31, 32, 33], 3, 32),
        (&[5], 1, 17),
        (&[33, 1, 31], 2, 17),
        (&[200, 1], 12, 64),
        (&[3, 14], 2, 1),
        (&[40, 2], 2, 70),
        (&[512], 1, 64),
    ];
    for (lengths, heads, dim) in cases {
        let offsets = offsets(lengths);
        let qkv = flat(&random(&[offsets[lengths.len()] * 3 * heads * dim], 7));
        for causal in [false, true] {
            let tokens = tokens(&offsets, heads, causal);
            let expected = naive(&qkv, tokens, dim);
            for level in Level::all() {
                let got = attend(level, &qkv, tokens);
                for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(
                        error < 1e-5,
                        "{lengths:?}, {heads} x {dim}, {causal}, {level:?}: value {i} is {got}, expected {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_sequence_is_the_same_to_the_bit_whatever_is_beside_it() {
    let (lengths, heads, dim) = ([1, 7, 130, 31, 32, 33, 300], 2, 32);
    let offsets = offsets(&lengths);
    let width = heads * dim;
    let qkv = flat(&random(&[offsets[lengths.len()] * 3 * width], 8));
    for (level, causal) in Level::all()
        .into_iter()
        .flat_map(|level| [(level, false), (level, true)])
    {
        let together = attend(level, &qkv, tokens(&offsets, heads, causal));
        for pair in offsets.windows(2) {
            let qkv = &qkv[pair[0] * 3 * width..pair[1] * 3 * width];
            let alone = attend(level, qkv, tokens(&[0, pair[1] - pair[0]], heads, causal));
            assert_eq!(alone, together[pair[0] * width..pair[1] * width]);
        }
    }
}

#[test]
fn tasks_cover_each_query_of_each_head_once() {
    for threads in [1, 2, 64] {
        let (lengths, heads) = ([512, 0, 1, 100], 3);
        let offsets = offsets(&lengths);
        let mut seen = vec![0; offsets[lengths.len()] * heads];
        let (tasks, work) = tasks(&offsets, heads, 64, threads);
        for task in &tasks {
            for query in task.queries.clone() {
                seen[(task.rows.start + query) * heads + task.head] += 1;
            }
        }
        assert!(seen.iter().all(|&times| times == 1), "{threads}");
        assert_eq!(work, 3 * 2 * 64 * (512 * 512 + 1 + 100 * 100));
        assert_eq!(tasks.len() > 3 * 4, threads == 64, "{threads}");
    }
}

#[test]
fn scores_far_apart_leave_one_value() {
    // The query finds the third key only, whatever the size of its score.
    let qkv: Vec<f32> = [1000.0, -1000.0, 5000.0, 4000.0]
        .into_iter()
        .flat_map(|key| [1.0, key, key / 1000.0])
        .collect();
    for level in Level::all() {
        assert_eq!(attend(level, &qkv, tokens(&[0, 4], 1, false)), [5.0; 4]);
        let seen = attend(level, &qkv, tokens(&[0, 4], 1, true));
        assert_eq!(seen, [1.0, 1.0, 5.0, 5.0]);
    }
}

#[test]
#[should_panic(expected = "whole rows")]
fn offsets_that_do_not_cover_the_rows_are_refused() {
    attend(Level::detect(), &[0.0; 24], tokens(&[0, 3], 1, false));
}

#[test]
#[should_panic(expected = "in order")]
fn offsets_out_of_order_are_refused() {
    attend(Level::detect(), &[0.0; 24], tokens(&[0, 3, 2, 4], 1, false));
}

#[test]
#[should_panic(expected = "whole heads")]
fn heads_that_do_not_fit_are_refused() {
    attend(Level::detect(), &[0.0; 24], tokens(&[0, 4], 4, false));
}
