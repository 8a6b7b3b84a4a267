//! What is launched for a product, and on a device what comes out.

use candle_core::{Device, Tensor};

use super::*;
use crate::{
    cuda::{Layout, Place, Target, Work},
    host::tests::random,
};

/// A product that is never run.
struct Case {
    shape: [usize; 3],
    gated: bool,
    residual: bool,
    activation: Activation,
    fixed_order: bool,
}

impl Case {
    fn new(shape: [usize; 3]) -> Self {
        Self {
            shape,
            gated: false,
            residual: false,
            activation: Activation::None,
            fixed_order: false,
        }
    }

    /// Its only launch.
    fn launch(&self, target: &Target) -> (String, Grid, Vec<Argument>) {
        let [m, n, k] = self.shape;
        let span = |bytes| Span {
            place: Place::Weights(0),
            bytes,
        };
        let dense = Dense {
            weight: span(n * k * target.element.size()),
            bias: span(n * 4),
            inputs: k,
            outputs: n,
        };
        let mut layout = Layout::default();
        let [x, out, residual, gates] =
            [m * k, m * n, m * n, m * k].map(|len| layout.place(len * target.element.size()));
        let product = Product {
            activation: self.activation,
            gates: self.gated.then_some(Gates {
                values: gates,
                rows_per_image: 9,
            }),
            residual: self.residual.then_some(residual),
            fixed_order: self.fixed_order,
            ..Product::new(x, m, &dense, out)
        };
        let mut program = Program::default();
        product.push(target, &mut program).unwrap();
        let [Work::Launch(launch)] = program.work() else {
            panic!("expected one launch, got {program:?}");
        };
        (launch.kernel.clone(), launch.grid, launch.arguments.clone())
    }
}

#[test]
fn every_shape_has_a_launch_that_covers_it() {
    let rows = [
        1, 2, 63, 64, 65, 81, 300, 1024, 1025, 5184, 41_472, 5_308_416,
    ];
    let widths = [8, 16, 24, 48, 88, 96, 120, 208, 464, 528, 768, 1000, 3072];
    for target in [Target::hopper(Element::F16), Target::ampere(Element::F16)] {
        for m in rows {
            for n in widths {
                for k in widths {
                    for gated in [false, true] {
                        let case = Case {
                            gated,
                            ..Case::new([m, n, k])
                        };
                        let (kernel, grid, _) = case.launch(&target);
                        assert_eq!(kernel.ends_with("_gated"), gated, "{kernel}");
                        let tile = kernel.trim_end_matches("_gated");
                        let Some((tile_rows, columns)) = (tile.strip_prefix("matmul_f16_"))
                            .and_then(|tile| tile.split_once('x'))
                        else {
                            continue;
                        };
                        let Ok(tile_rows) = tile_rows.parse::<usize>() else {
                            continue;
                        };
                        let columns: usize = columns.parse().unwrap();
                        let tiles = m.div_ceil(tile_rows) * n.div_ceil(columns);
                        assert_eq!(grid.blocks, [tiles, 1, 1], "{kernel} for {m} {n} {k}");
                    }
                }
            }
        }
    }
}

#[test]
fn tensor_cores_of_hopper_get_only_what_they_take() {
    let hopper = Target::hopper(Element::F16);
    let many = [4096, 768, 3072];
    let is_sm90 = |case: &Case, target: &Target| case.launch(target).0.contains("sm90");
    assert!(is_sm90(&Case::new(many), &hopper));
    assert!(!is_sm90(&Case::new(many), &Target::ampere(Element::F16)));
    assert!(!is_sm90(&Case::new(many), &Target::hopper(Element::F32)));
    assert!(!is_sm90(&Case::new([64, 768, 768]), &hopper), "few rows");
    let fixed = Case {
        fixed_order: true,
        ..Case::new(many)
    };
    assert!(!is_sm90(&fixed, &hopper), "another order of sums");
    assert!(
        !is_sm90(&Case::new([4096, 1000, 768]), &hopper),
        "no whole boxes"
    );
    for (activation, residual, taken) in [
        (Activation::Gelu, false, true),
        (Activation::GeluTanh, false, true),
        (Activation::None, true, true),
        (Activation::Gelu, true, false),
        (Activation::Relu, false, false),
    ] {
        let case = Case {
            activation,
            residual,
            ..Case::new(many)
        };
        assert_eq!(is_sm90(&case, &hopper), taken, "{activation:?} {residual}");
    }
}

#[test]
fn maps_describe_the_matrices_and_the_boxes_that_the_kernel_copies() {
    let (kernel, grid, arguments) = Case {
        residual: true,
        ..Case::new([4096, 768, 3072])
    }
    .launch(&Target::hopper(Element::F16));
    let columns: u32 = kernel.rsplit_once('n').unwrap().1.parse().unwrap();
    assert_eq!(kernel, format!("matmul_f16_sm90_residual_n{columns}"));
    assert_eq!(grid.threads, 384);
    assert!(grid.blocks[0] <= 132);
    let panel = if columns == 96 { 32 } else { 64 };
    let maps: Vec<_> = arguments
        .iter()
        .filter_map(|argument| match argument {
            Argument::ReadMap(map) => Some((map.rows, map.columns, map.tile, false)),
            Argument::WriteMap(map) => Some((map.rows, map.columns, map.tile, true)),
            _ => None,
        })
        .collect();
    let expected = [
        (4096, 3072, [128, 64], false),
        (768, 3072, [columns, 64], false),
        (4096, 768, [16, panel], true),
        (4096, 768, [16, panel], false),
    ];
    assert_eq!(maps, expected);
    let words: Vec<_> = (arguments.iter())
        .filter(|argument| matches!(argument, Argument::Word(_)))
        .collect();
    assert_eq!(words, [&4096.into(), &768.into(), &3072.into()]);
}

#[test]
fn columns_of_tiles_are_those_that_leave_the_fewest_processors_idle() {
    assert_eq!(sm90_columns(32_768, 768, 132), 256);
    assert_eq!(sm90_columns(2048, 768, 132), 96);
    assert_eq!(sm90_columns(2048, 3072, 132), 128);
}

#[test]
fn weights_that_vectors_do_not_fill_are_refused() {
    let dense = |element, shape: [usize; 2]| {
        let bias = random(&[shape[0]], 2);
        Dense::new(&mut Weights::new(element), &random(&shape, 1), &bias)
    };
    assert!(dense(Element::F16, [8, 16]).is_ok());
    assert!(dense(Element::F16, [12, 16]).is_err());
    assert!(dense(Element::F16, [16, 12]).is_err());
    assert!(dense(Element::F32, [12, 4]).is_ok());
    let bias = Tensor::zeros(8, candle_core::DType::F32, &Device::Cpu).unwrap();
    let weight = random(&[16, 8], 1);
    assert!(Dense::new(&mut Weights::new(Element::F16), &weight, &bias).is_err());
}

#[cfg(feature = "cuda")]
mod on_a_device {
    use half::f16;

    use super::*;
    use crate::{
        cuda::{Buffer, Gpu, Lane, Pass, tests::device},
        host::tests::flat,
    };

    /// Values as a device keeps them.
    fn rounded(element: Element, values: &[f32]) -> Vec<f32> {
        match element {
            Element::F32 => values.to_vec(),
            Element::F16 => (values.iter())
                .map(|&value| f16::from_f32(value).to_f32())
                .collect(),
        }
    }

    /// Computes a case, with `images` of 9 rows where it is gated; gives what came out and what should have.
    fn compute(gpu: &Gpu, case: &Case) -> (Vec<f32>, Vec<f64>) {
        let element = gpu.target().element;
        let [m, n, k] = case.shape;
        let images = m.div_ceil(9);
        let make = |len: usize, seed| {
            let values = flat(&random(&[len], seed));
            rounded(
                element,
                &values.iter().map(|x| x * 0.25).collect::<Vec<_>>(),
            )
        };
        let (weight, bias) = (make(n * k, 1), make(n, 2));
        let (x, gates, residual) = (make(m * k, 3), make(images * k, 4), make(m * n, 5));

        let mut weights = Weights::new(element);
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
        };
        let dense = Dense::new(
            &mut weights,
            &tensor(&weight, &[n, k]),
            &tensor(&bias, &[n]),
        )
        .unwrap();
        let buffer = Buffer::of(gpu, &weights).unwrap();
        let mut layout = Layout::default();
        // What the product reads is laid out as weights are, only in the pass's memory.
        let mut input = Weights::new(element);
        let spans = [&x, &gates, &residual].map(|values| {
            input.values(values);
            layout.place(values.len() * element.size())
        });
        let before = layout;
        let out = layout.place(m * n * element.size());
        let product = Product {
            activation: case.activation,
            gates: case.gated.then_some(Gates {
                values: spans[1],
                rows_per_image: 9,
            }),
            residual: case.residual.then_some(spans[2]),
            ..Product::new(spans[0], m, &dense, out)
        };
        let pass = Pass::<()> {
            layout,
            input: before.since(Layout::default()),
            output: out,
            key: None,
        };
        let fill = |to: &mut [u8]| to[..input.bytes().len()].copy_from_slice(input.bytes());
        let program = || {
            let mut program = Program::default();
            product.push(&gpu.target(), &mut program)?;
            Ok(program)
        };
        let mut lane = Lane::default();
        let bytes = lane.run(gpu, &buffer, &pass, fill, program).unwrap();
        let got = match element {
            Element::F32 => (bytes.chunks_exact(4))
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                .collect(),
            Element::F16 => (bytes.chunks_exact(2))
                .map(|bytes| f16::from_le_bytes(bytes.try_into().unwrap()).to_f32())
                .collect(),
        };
        let expected = (0..m * n).map(|i| {
            let (row, column) = (i / n, i % n);
            let mut sum = f64::from(bias[column]);
            for j in 0..k {
                let gate = if case.gated {
                    gates[row / 9 * k + j]
                } else {
                    1.0
                };
                sum += f64::from(x[row * k + j] * gate) * f64::from(weight[column * k + j]);
            }
            let end = case.activation.of(sum as f32);
            f64::from(end)
                + if case.residual {
                    f64::from(residual[i])
                } else {
                    0.0
                }
        });
        (got, expected.collect())
    }

    fn check(element: Element, tolerance: f64) {
        let Some(gpu) = device(element) else { return };
        let shapes = [
            [1, 16, 8],
            [7, 24, 16],
            [65, 40, 104],
            [200, 96, 24],
            [130, 768, 768],
            [1, 3072, 768],
            [1500, 320, 192],
            [9000, 144, 24],
        ];
        for shape in shapes {
            let plain = [
                (Activation::None, false, false),
                (Activation::None, true, false),
                (Activation::None, true, true),
                (Activation::None, false, true),
                (Activation::Gelu, false, false),
                (Activation::GeluTanh, false, false),
                (Activation::Silu, true, false),
                (Activation::Relu, false, false),
                (Activation::Relu6, false, false),
                (Activation::Tanh, false, false),
                (Activation::Sigmoid, false, false),
            ];
            for (activation, residual, gated) in plain {
                let case = Case {
                    shape,
                    gated,
                    residual,
                    activation,
                    fixed_order: false,
                };
                let (kernel, ..) = case.launch(&gpu.target());
                let (got, expected) = compute(&gpu, &case);
                for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(
                        error <= tolerance * (1.0 + expected.abs()),
                        "{kernel} {shape:?} {activation:?}: value {i} is {got}, expected {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn products_in_f32_match() {
        check(Element::F32, 1e-5);
    }

    #[test]
    fn products_in_f16_match() {
        check(Element::F16, 3e-3);
    }
}
