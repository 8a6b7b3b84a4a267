//! Against the plain product, at every level, for sizes that fill no tile.

use super::*;
use crate::host::tests::{flat, random};

// Inputs of which there are whole tiles, too, and rows that fill one or two of these or neither.
const SHAPES: [[usize; 3]; 13] = [
    [1, 1, 1],
    [0, 3, 4],
    [5, 0, 3],
    [13, 7, 32],
    [1, 40, 65],
    [31, 19, 45],
    [97, 33, 15],
    [200, 5, 100],
    [64, 130, 257],
    [60, 300, 200],
    [1, 32, 33],
    [17, 64, 64],
    [111, 96, 70],
];

struct Case {
    size: [usize; 3],
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    gates: Vec<f32>,
    residual: Vec<f32>,
}

/// Rows of a group of gates.
const GROUP: usize = 7;

impl Case {
    fn new(size: [usize; 3]) -> Self {
        let [rows, inputs, outputs] = size;
        Self {
            size,
            x: flat(&random(&[rows * inputs], 1)),
            weight: flat(&random(&[outputs * inputs], 2)),
            bias: flat(&random(&[outputs], 3)),
            gates: flat(&random(&[rows.div_ceil(GROUP) * inputs], 4)),
            residual: flat(&random(&[rows * outputs], 5)),
        }
    }

    fn matrix(&self, precision: Precision) -> Matrix {
        let [_, inputs, outputs] = self.size;
        Matrix::pack((inputs, outputs), precision, &self.weight, Some)
    }

    fn product<'a>(&'a self, matrix: &'a Matrix, extras: bool) -> Product<'a> {
        let mut product = Product::new(&self.x, self.size[0], matrix);
        if extras {
            product.bias = Some(&self.bias);
            product.activation = Activation::Gelu;
            product.gates = Some(Gates {
                values: &self.gates,
                rows: GROUP,
            });
            product.residual = Some(&self.residual);
        }
        product
    }

    fn naive(&self, precision: Precision, extras: bool) -> Vec<f32> {
        let rounded = |x: f32| {
            if precision == Precision::F32 {
                f64::from(x)
            } else {
                half::bf16::from_f32(x).to_f64()
            }
        };
        let [rows, inputs, outputs] = self.size;
        let mut values = Vec::new();
        for row in 0..rows {
            for output in 0..outputs {
                let term = |k: usize| {
                    let gate = self.gates[row / GROUP * inputs + k];
                    let x = self.x[row * inputs + k] * if extras { gate } else { 1.0 };
                    rounded(x) * rounded(self.weight[output * inputs + k])
                };
                let mut value = (0..inputs).map(term).sum::<f64>() as f32;
                if extras {
                    value = Activation::Gelu.of(value + self.bias[output]);
                    value += self.residual[row * outputs + output];
                }
                values.push(value);
            }
        }
        values
    }
}

#[test]
fn equals_the_plain_product_on_odd_shapes_at_every_level_and_precision() {
    for precision in Precision::all() {
        for size in SHAPES {
            let case = Case::new(size);
            let matrix = case.matrix(precision);
            for extras in [false, true] {
                let expected = case.naive(precision, extras);
                for level in Level::all() {
                    let product = case.product(&matrix, extras);
                    let got = product.compute(level);
                    assert_eq!(got.len(), expected.len());
                    for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
                        let what =
                            format!("{size:?}, {precision:?}, {level:?}, {extras}, value {i}");
                        assert!(
                            (a - b).abs() <= 3e-5 * (1.0 + b.abs()),
                            "{what}: {a} is not {b}"
                        );
                    }
                    let mut here = vec![f32::NAN; got.len()];
                    product.compute_here(level, &mut here);
                    assert_eq!(here, got);
                    here.fill(f32::NAN);
                    product.compute_into(level, &mut here);
                    assert_eq!(here, got);
                    let mut memory = Aligned::default();
                    let prepared = product.prepared(level, &mut memory).compute(level);
                    assert_eq!(prepared, got);
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_to_the_bit_whatever_is_beside_it() {
    for size in [[131, 50, 77], [131, 64, 77]] {
        let case = Case::new(size);
        let [rows, inputs, outputs] = size;
        for precision in Precision::all() {
            let matrix = case.matrix(precision);
            for level in Level::all() {
                let together = case.product(&matrix, false).compute(level);
                for row in [0, 1, 64, rows - 1] {
                    let alone = Product::new(&case.x[row * inputs..][..inputs], 1, &matrix);
                    assert_eq!(alone.compute(level), together[row * outputs..][..outputs]);
                }
            }
        }
    }
}

#[test]
fn columns_can_be_reordered_and_left_empty() {
    let case = Case::new([3, 4, 5]);
    let order = [Some(4), None, Some(0)];
    let matrix = Matrix::pack((4, 3), Precision::F32, &case.weight, |output| order[output]);
    let got = Product::new(&case.x, 3, &matrix).compute(Level::detect());
    let all = Product::new(&case.x, 3, &case.matrix(Precision::F32)).compute(Level::detect());
    for (got, all) in got.chunks_exact(3).zip(all.chunks_exact(5)) {
        assert_eq!(got, [all[4], 0.0, all[0]]);
    }
}

#[test]
#[should_panic(expected = "input length")]
fn rows_of_another_length_are_refused() {
    let case = Case::new([3, 4, 5]);
    Product::new(&case.x, 2, &case.matrix(Precision::F32)).compute(Level::detect());
}
