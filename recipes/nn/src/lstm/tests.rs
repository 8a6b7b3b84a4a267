//! Against a plain reference, candle's own LSTM, and torch.

use std::collections::HashMap;

use candle_core::{DType, IndexOp};
use candle_nn::rnn::{LSTMConfig, RNN};
use galley_core::synthetic;

use super::*;
use crate::host::to_vec as host_values;

/// The textbook, in f64: `[steps, hidden]`, and the last state and cell.
pub(super) struct Reference {
    lstm: HashMap<String, Vec<f32>>,
    input: usize,
    hidden: usize,
}

impl Reference {
    fn new(seed: u64, input: usize, hidden: usize) -> Self {
        Self::of_layer(seed, 0, input, hidden)
    }

    pub(super) fn of_layer(seed: u64, layer: usize, input: usize, hidden: usize) -> Self {
        let tensor = |name: &str, suffix: &str| {
            let inputs = if name.contains("ih") { input } else { hidden };
            let shape = [4 * hidden, inputs];
            let shape = &shape[..if name.starts_with("bias") { 1 } else { 2 }];
            let full = format!("{name}_l{layer}{suffix}");
            (
                format!("{name}{suffix}"),
                synthetic::tensor(&full, shape, seed),
            )
        };
        let names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"];
        let lstm = (names.iter())
            .flat_map(|name| ["", "_reverse"].map(|suffix| tensor(name, suffix)))
            .collect();
        Self {
            lstm,
            input,
            hidden,
        }
    }

    pub(super) fn direction(&self, x: &[f32], suffix: &str) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let get = |name: &str| &self.lstm[&format!("{name}{suffix}")];
        let (wi, wh, bi, bh) = (
            get("weight_ih"),
            get("weight_hh"),
            get("bias_ih"),
            get("bias_hh"),
        );
        let n = self.hidden;
        let steps = x.len() / self.input;
        let (mut h, mut c) = (vec![0.0; n], vec![0.0; n]);
        let mut out = vec![0.0; steps * n];
        let dot =
            |w: &[f32], x: &[f64]| -> f64 { w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum() };
        for s in 0..steps {
            let t = if suffix.is_empty() { s } else { steps - 1 - s };
            let row: Vec<f64> = x[t * self.input..][..self.input]
                .iter()
                .map(|x| f64::from(*x))
                .collect();
            let gates: Vec<f64> = (0..4 * n)
                .map(|g| {
                    dot(&wi[g * self.input..][..self.input], &row)
                        + dot(&wh[g * n..][..n], &h)
                        + f64::from(bi[g])
                        + f64::from(bh[g])
                })
                .collect();
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            for u in 0..n {
                c[u] = sigmoid(gates[n + u]) * c[u] + sigmoid(gates[u]) * gates[2 * n + u].tanh();
                h[u] = sigmoid(gates[3 * n + u]) * c[u].tanh();
            }
            out[t * n..][..n].copy_from_slice(&h);
        }
        (out, h, c)
    }
}

pub(super) fn assert_close(
    what: &str,
    got: &[f32],
    want: impl IntoIterator<Item = f64>,
    tolerance: f64,
) {
    let want: Vec<f64> = want.into_iter().collect();
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (f64::from(*got) - want).abs();
        assert!(difference <= tolerance, "{what}[{i}]: {got} is not {want}");
    }
}

fn load(level: Level, seed: u64, input: usize, hidden: usize) -> BiLstm {
    let vb = synthetic::var_builder(seed);
    BiLstm::load_at(level, &vb, 0, input, hidden).unwrap()
}

pub(super) fn random(name: &str, rows: usize, width: usize) -> Vec<f32> {
    synthetic::uniform(name, 7).take(rows * width).collect()
}

#[test]
fn agrees_with_the_textbook_on_any_shape_and_instruction_set() {
    let shapes: [(usize, usize, &[usize]); 7] = [
        (3, 5, &[4]),
        (1, 1, &[1, 1, 1]),
        (7, 16, &[1, 9, 2, 9, 3]),
        (25, 25, &[5, 0, 3, 11, 1, 1, 8, 2]),
        (150, 100, &[40]),
        (10, 17, &[300, 2]),
        (20, 33, &[3; 61]),
    ];
    for (case, (input, hidden, lengths)) in shapes.into_iter().enumerate() {
        let rows = lengths.iter().sum();
        let x = random(&format!("x{case}"), rows, input);
        let reference = Reference::new(case as u64, input, hidden);
        for level in Level::all() {
            let lstm = load(level, case as u64, input, hidden);
            let tensor = Tensor::from_slice(&x, (rows, input), &Device::Cpu).unwrap();
            let out = lstm.forward(&tensor, lengths).unwrap();
            let mut first = 0;
            for (s, &length) in lengths.iter().enumerate() {
                let x = &x[first * input..][..length * input];
                for (d, suffix) in ["", "_reverse"].into_iter().enumerate() {
                    let what = format!("case {case}, {level:?}, sequence {s}, direction {d}");
                    let (output, h, c) = reference.direction(x, suffix);
                    let got = out
                        .output
                        .i((first..first + length, d * hidden..(d + 1) * hidden));
                    assert_close(&what, &host_values(&got.unwrap()).unwrap(), output, 2e-6);
                    assert_close(
                        &what,
                        &host_values(&out.hidden.i((d, s)).unwrap()).unwrap(),
                        h,
                        2e-6,
                    );
                    assert_close(
                        &what,
                        &host_values(&out.cell.i((d, s)).unwrap()).unwrap(),
                        c,
                        2e-6,
                    );
                }
                first += length;
            }
        }
    }
}

#[test]
fn batch_mates_and_projected_rows_change_no_bit() {
    let (input, hidden, lengths) = (12, 30, [7, 1, 19, 4, 4, 4, 4, 30, 2, 6, 13]);
    let rows: usize = lengths.iter().sum();
    let lstm = load(Level::detect(), 1, input, hidden);
    let x = random("x", rows, input);
    let tensor = Tensor::from_slice(&x, (rows, input), &Device::Cpu).unwrap();
    let together = host_values(&lstm.forward(&tensor, &lengths).unwrap().output).unwrap();
    let mut first = 0;
    for length in lengths {
        let alone = tensor.narrow(0, first, length).unwrap();
        let alone = host_values(&lstm.forward(&alone, &[length]).unwrap().output).unwrap();
        assert_eq!(alone, together[first * 2 * hidden..][..length * 2 * hidden]);
        first += length;
    }

    // Rows in the opposite order, found again by their index.
    let mut gates = Gates::default();
    let reversed: Vec<&[f32]> = x.chunks(input).rev().collect();
    let (head, tail) = reversed.split_at(17);
    lstm.project(head, &mut gates);
    lstm.project(tail, &mut gates);
    let index: Vec<u32> = (0..rows as u32).rev().collect();
    let out = lstm.run(&gates, &index, &lengths, true);
    assert_eq!(out.output, together);
    let states = lstm.run(&gates, &index, &lengths, false);
    assert!(states.output.is_empty());
    assert_eq!((states.hidden, states.cell), (out.hidden, out.cell));
}

#[test]
fn agrees_with_candle() {
    let (input, hidden, steps, seed) = (9, 14, 23, 5);
    let vb = synthetic::var_builder(seed);
    let candle = candle_nn::lstm(input, hidden, LSTMConfig::default(), vb).unwrap();
    let x = Tensor::from_vec(random("x", steps, input), (1, steps, input), &Device::Cpu).unwrap();
    let states = candle.seq(&x).unwrap();
    let want = host_values(&candle.states_to_tensor(&states).unwrap()).unwrap();
    let ours = load(Level::detect(), seed, input, hidden);
    let out = ours.forward(&x.i(0).unwrap(), &[steps]).unwrap().output;
    let got = host_values(&out.i((.., ..hidden)).unwrap()).unwrap();
    assert_close("candle", &got, want.into_iter().map(f64::from), 2e-6);
}

#[test]
fn agrees_with_torch() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/lstm_bi_100.safetensors"
    );
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let want = |name: String| {
        host_values(&golden[&name])
            .unwrap()
            .into_iter()
            .map(f64::from)
    };
    let lstm = load(Level::detect(), 3001, 100, 100);
    let lengths = [1, 7, 50, 200];
    let x: Vec<f32> = lengths
        .iter()
        .enumerate()
        .flat_map(|(i, length)| {
            synthetic::uniform(&format!("input.{i}"), 3001)
                .take(length * 100)
                .map(|u| u * 3.0_f64.sqrt() as f32)
        })
        .collect();
    let x = Tensor::from_vec(x, (258, 100), &Device::Cpu).unwrap();
    let out = lstm.forward(&x, &lengths).unwrap();
    let mut first = 0;
    for (i, length) in lengths.into_iter().enumerate() {
        let output = host_values(&out.output.narrow(0, first, length).unwrap()).unwrap();
        assert_close("output", &output, want(format!("output.{i}")), 2e-5);
        for (name, states) in [("h_n", &out.hidden), ("c_n", &out.cell)] {
            let states = host_values(&states.i((.., i)).unwrap()).unwrap();
            assert_close(name, &states, want(format!("{name}.{i}")), 2e-5);
        }
        first += length;
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let lstm = load(Level::detect(), 1, 4, 3);
    let x = Tensor::zeros((5, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(lstm.forward(&x, &[2, 2]).is_err());
    assert!(lstm.forward(&x.t().unwrap(), &[4]).is_err());
    assert!(
        lstm.forward(&x.to_dtype(DType::F64).unwrap(), &[5])
            .is_err()
    );
    let none = lstm.forward(&x.narrow(0, 0, 0).unwrap(), &[]).unwrap();
    assert_eq!(none.output.dims(), [0, 6]);
    assert_eq!(none.hidden.dims(), [2, 0, 3]);
}

#[test]
fn gates_far_out_saturate() {
    // Inputs of +-1000 through weights of about 1 put the gates where their functions are flat.
    let (input, hidden) = (6, 10);
    let x: Vec<f32> = random("x", 12, input).iter().map(|x| x * 1000.0).collect();
    let reference = Reference::new(2, input, hidden);
    for level in Level::all() {
        let tensor = Tensor::from_slice(&x, (12, input), &Device::Cpu).unwrap();
        let out = load(level, 2, input, hidden)
            .forward(&tensor, &[12])
            .unwrap();
        let (output, _, c) = reference.direction(&x, "");
        let got = host_values(&out.output.i((.., ..hidden)).unwrap()).unwrap();
        assert_close("output", &got, output, 2e-6);
        assert_close(
            "cell",
            &host_values(&out.cell.i((0, 0)).unwrap()).unwrap(),
            c,
            1e-5,
        );
    }
}
