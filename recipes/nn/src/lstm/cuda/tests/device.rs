//! On a device, if there is one.

use super::*;
use crate::{
    Backend,
    backend::Kind,
    lstm::{CudaBiLstm, Tagger},
};

fn backends() -> Vec<(Element, Backend)> {
    let backend = |element| {
        crate::cuda::tests::device(element).map(|gpu| (element, Backend(Kind::Cuda(gpu))))
    };
    ELEMENTS.into_iter().filter_map(backend).collect()
}

#[test]
fn a_layer_on_the_device_is_the_layer_of_the_cpu_alone_and_in_a_batch() {
    for (element, backend) in backends() {
        for (case, (input, hidden, count)) in [
            (150, 100, 1),
            (150, 100, 9),
            (150, 100, 130),
            (25, 25, 300),
            (7, 60, 40),
            (64, 128, 33),
            (31, 1, 5),
            (20, 200, 21),
        ]
        .into_iter()
        .enumerate()
        {
            let what = format!("case {case} in {}", element.name());
            let vb = synthetic::var_builder(case as u64);
            let lengths = lengths(case as u64, count);
            let x = batch(case as u64, input, &lengths);
            let cpu = BiLstm::load(&vb, input, hidden).unwrap();
            let want = cpu.forward(&x, &lengths).unwrap();
            let device = CudaBiLstm::load(&backend, &vb, input, hidden).unwrap();
            let got = device.forward(&x, &lengths).unwrap();
            for (got, want) in [
                (&got.output, &want.output),
                (&got.hidden, &want.hidden),
                (&got.cell, &want.cell),
            ] {
                assert_eq!(got.dims(), want.dims(), "{what}");
                let (got, want) = (to_vec(got).unwrap(), to_vec(want).unwrap());
                assert_close(&what, &got, &want, tolerance(element));
            }
            // Launched, then recorded, then replayed: always the same.
            for _ in 0..2 {
                let again = device.forward(&x, &lengths).unwrap();
                assert_eq!(to_vec(&again.output).unwrap(), to_vec(&got.output).unwrap());
            }
            let mut first = 0;
            for length in lengths {
                let alone = device.forward(&x.narrow(0, first, length).unwrap(), &[length]);
                let part = got.output.narrow(0, first, length).unwrap();
                assert_eq!(
                    to_vec(&alone.unwrap().output).unwrap(),
                    to_vec(&part).unwrap()
                );
                first += length;
            }
        }
    }
}

#[test]
fn a_tagger_on_the_device_is_the_one_of_the_cpu_alone_and_in_a_batch() {
    for (element, backend) in backends() {
        for (case, config, count) in [(1, ODD, 3), (2, SEGMENTER, 1), (3, SEGMENTER, 90)] {
            let what = format!("case {case} in {}", element.name());
            let vb = synthetic::var_builder(case);
            let lengths = lengths(case, count);
            let batch = words(&config, case, 20 * count, &lengths);
            let device = Tagger::load(&backend, &vb, &config).unwrap();
            let scores = device.scores(&batch).unwrap();
            let want = reference(&vb, &config, &batch);
            assert_close(&what, &scores, &want, tolerance(element));
            let tags = device.tags(&batch).unwrap();
            for _ in 0..2 {
                assert_eq!(device.tags(&batch).unwrap(), tags, "{what}");
            }
            let mut first = 0;
            for length in lengths {
                let mut alone = Words {
                    rows: Vec::new(),
                    lengths: Vec::new(),
                    ..batch.clone()
                };
                alone.sequence(batch.rows[first..first + length].iter().copied());
                let part = &scores[3 * first..3 * (first + length)];
                assert_eq!(device.scores(&alone).unwrap(), part, "{what}");
                assert_eq!(device.tags(&alone).unwrap(), tags[first..first + length]);
                if (1..=6).contains(&length) {
                    let (score, highest) = field_scores(&vb, part, &tags[first..first + length]);
                    assert!(score >= highest - 1e-4, "{what}: {score} of {highest}");
                }
                first += length;
            }
        }
    }
}
