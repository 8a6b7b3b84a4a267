//! Stacks of layers against the textbook and torch.

use candle_core::{DType, IndexOp};
use galley_core::synthetic;

use super::{
    super::tests::{Reference, assert_close, random},
    *,
};
use crate::host::to_vec as host_values;

fn stack(level: Level, config: LstmConfig) -> Lstm {
    Lstm::load_at(level, &synthetic::var_builder(3), config).unwrap()
}

#[test]
fn layers_of_one_direction_are_each_the_textbook() {
    // More steps than a turn has, sequences that end within one, and none.
    let lengths = [300, 1, 0, 64, 299, 2, 130];
    let (input, hidden, layers) = (5, 18, 3);
    let rows: usize = lengths.iter().sum();
    let x = random("x", rows, input);
    for level in Level::all() {
        let config = LstmConfig {
            input,
            hidden,
            layers,
            bidirectional: false,
        };
        let tensor = Tensor::from_slice(&x, (rows, input), &Device::Cpu).unwrap();
        let got = stack(level, config).forward(&tensor, &lengths).unwrap();
        assert_eq!(got.output.dims(), [rows, hidden]);
        assert_eq!(got.hidden.dims(), [layers, lengths.len(), hidden]);
        let mut first = 0;
        for (s, &length) in lengths.iter().enumerate() {
            let mut below = x[first * input..][..length * input].to_vec();
            for layer in 0..layers {
                let size = if layer == 0 { input } else { hidden };
                let reference = Reference::of_layer(3, layer, size, hidden);
                let (output, h, c) = reference.direction(&below, "");
                let what = format!("{level:?}, sequence {s}, layer {layer}");
                for (states, want) in [(&got.hidden, h), (&got.cell, c)] {
                    let states = host_values(&states.i((layer, s)).unwrap()).unwrap();
                    assert_close(&what, &states, want, 1e-5);
                }
                below = output.iter().map(|&x| x as f32).collect();
            }
            let rows = got.output.narrow(0, first, length).unwrap();
            let want = below.into_iter().map(f64::from);
            assert_close("output", &host_values(&rows).unwrap(), want, 1e-5);
            first += length;
        }
    }
}

#[test]
fn a_stacks_batch_mates_change_no_bit() {
    let lengths = [7, 1, 19, 4, 300];
    for bidirectional in [false, true] {
        let config = LstmConfig {
            input: 6,
            hidden: 10,
            layers: 2,
            bidirectional,
        };
        let lstm = stack(Level::detect(), config);
        let rows: usize = lengths.iter().sum();
        let x = Tensor::from_vec(random("x", rows, 6), (rows, 6), &Device::Cpu).unwrap();
        let together = lstm.forward(&x, &lengths).unwrap();
        let mut first = 0;
        for (s, length) in lengths.into_iter().enumerate() {
            let alone = lstm
                .forward(&x.narrow(0, first, length).unwrap(), &[length])
                .unwrap();
            let own = together.output.narrow(0, first, length).unwrap();
            assert_eq!(
                host_values(&alone.output).unwrap(),
                host_values(&own).unwrap()
            );
            let own = together.hidden.i((.., s)).unwrap();
            assert_eq!(
                host_values(&alone.hidden).unwrap(),
                host_values(&own).unwrap()
            );
            first += length;
        }
    }
}

#[test]
fn stacks_that_cannot_be_are_refused() {
    let config = LstmConfig {
        input: 4,
        hidden: 3,
        layers: 2,
        bidirectional: false,
    };
    let vb = synthetic::var_builder(1);
    for config in [
        LstmConfig {
            layers: 0,
            ..config
        },
        LstmConfig {
            hidden: 0,
            ..config
        },
    ] {
        assert!(Lstm::load(&vb, config).is_err());
    }
    let lstm = Lstm::load(&vb, config).unwrap();
    let x = Tensor::zeros((5, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(lstm.forward(&x, &[2, 2]).is_err());
    assert!(lstm.forward(&x.t().unwrap(), &[4]).is_err());
    let none = lstm.forward(&x.narrow(0, 0, 0).unwrap(), &[]).unwrap();
    assert_eq!(none.output.dims(), [0, 3]);
    assert_eq!(none.hidden.dims(), [2, 0, 3]);
}

#[test]
fn stacks_agree_with_torch() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/sequences.safetensors"
    );
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let lengths = [9, 70];
    let x: Vec<f32> = (lengths.iter())
        .flat_map(|length| synthetic::uniform(&format!("x.{length}"), 3002).take(length * 6))
        .collect();
    let x = Tensor::from_vec(x, (79, 6), &Device::Cpu).unwrap();
    for (name, hidden, layers, bidirectional) in [("lstm", 20, 3, false), ("bilstm", 10, 2, true)] {
        let config = LstmConfig {
            input: 6,
            hidden,
            layers,
            bidirectional,
        };
        let vb = synthetic::var_builder(3002);
        let got = Lstm::load(&vb, config)
            .unwrap()
            .forward(&x, &lengths)
            .unwrap();
        let mut first = 0;
        for (i, length) in lengths.into_iter().enumerate() {
            let rows = [0, length / 2, length - 1].map(|row| got.output.i(first + row).unwrap());
            let states = [&got.hidden, &got.cell].map(|states| states.i((.., i)).unwrap());
            let output = Tensor::stack(&rows, 0).unwrap();
            for (what, got) in ["output", "h", "c"]
                .into_iter()
                .zip([&output].into_iter().chain(&states))
            {
                let what = format!("{name}.{what}.{length}");
                let want = host_values(&golden[&what]).unwrap();
                let got = host_values(got).unwrap();
                assert_close(&what, &got, want.into_iter().map(f64::from), 1e-5);
            }
            first += length;
        }
    }
}
