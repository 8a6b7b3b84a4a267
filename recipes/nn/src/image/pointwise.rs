//! Pointwise (1x1) convolution: a matrix product over all pixels, with everything that follows it done while the
//! results are still in registers.
//!
//! The weights are packed once into panels of [`PANEL`] output channels, `[panels, cin, PANEL]`. A task takes some rows
//! (pixels) and some panels; within it a panel stays in the nearest cache while the rows go past it, `ROWS` at a time.

use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{
    Activation,
    host::{self, Output, Shared},
};
use crate::simd::{Level, Vector, dispatch};

/// Output channels in a panel: two of the longest vectors.
const PANEL: usize = 32;
/// The most rows in a task: its input stays in the second-level cache.
const TASK_ROWS: usize = 96;
/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 3;

/// A pointwise convolution, or a linear layer: `activation(x w + bias)`.
#[derive(Clone, Debug)]
pub struct Pointwise {
    /// `[panels, cin, PANEL]`, with zeros where the last panel is not full.
    panels: Tensor,
    /// `[cout]`.
    bias: Tensor,
    activation: Activation,
    cin: usize,
    cout: usize,
}

/// What else a pointwise convolution takes in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// `[n, cin]`: multiplies each image's input channels (a squeeze-excite's gates).
    pub gates: Option<&'a Tensor>,
    /// Of the output's shape: added last.
    pub residual: Option<&'a Tensor>,
}

impl Pointwise {
    /// From a weight `[cout, cin]` (or `[cout, cin, 1, 1]`) and a bias `[cout]`.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn new(weight: &Tensor, bias: &Tensor, activation: Activation) -> Result<Self> {
        let weight = weight.flatten_from(1)?;
        let (cout, cin) = weight.dims2()?;
        host::expect_shape("bias", bias, &[cout])?;
        let count = cout.div_ceil(PANEL);
        let panels = weight
            .pad_with_zeros(0, 0, count * PANEL - cout)?
            .reshape((count, PANEL, cin))?
            .transpose(1, 2)?
            .contiguous()?;
        Ok(Self {
            panels,
            bias: bias.contiguous()?,
            activation,
            cin,
            cout,
        })
    }

    /// `[n, .., cin]` -> `[n, .., cout]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device has no such operator.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Extras::default())
    }

    /// As [`Self::forward`], with gates and a residual.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_with(&self, x: &Tensor, extras: Extras<'_>) -> Result<Tensor> {
        if x.rank() < 2 || x.dim(D::Minus1)? != self.cin {
            bail!(
                "pointwise: expected [n, .., {}], got {:?}",
                self.cin,
                x.dims()
            )
        }
        if let Some(gates) = extras.gates {
            host::expect_shape("gates", gates, &[x.dim(0)?, self.cin])?;
        }
        if let Some(residual) = extras.residual {
            host::expect_shape("residual", residual, &self.output_shape(x.dims()))?;
        }
        x.apply_op1_no_bwd(&Call {
            layer: self,
            extras,
        })
    }

    fn output_shape(&self, input: &[usize]) -> Vec<usize> {
        let mut shape = input.to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.cout;
        }
        shape
    }
}

struct Call<'a> {
    layer: &'a Pointwise,
    extras: Extras<'a>,
}

impl CustomOp1 for Call<'_> {
    fn name(&self) -> &'static str {
        "pointwise"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let layer = self.layer;
        let x = host::values(storage, layout)?;
        let shape = layer.output_shape(layout.dims());
        let rows: usize = x.len() / layer.cin.max(1);
        let images = layout.dims()[0].max(1);
        host::with(&layer.panels, |panels| {
            host::with(&layer.bias, |bias| {
                host::with_option(self.extras.gates, |gates| {
                    host::with_option(self.extras.residual, |residual| {
                        let product = Product {
                            x,
                            panels,
                            bias,
                            gates,
                            residual,
                            activation: layer.activation,
                            cin: layer.cin,
                            cout: layer.cout,
                            rows,
                            rows_per_image: rows / images,
                        };
                        let mut output = Output::new(rows * layer.cout);
                        product.run(Level::detect(), output.shared());
                        // SAFETY: the tasks of `run` cover every row and every panel.
                        Ok(unsafe { output.finish(shape) })
                    })
                })
            })
        })
    }
}

/// One product and all that it needs, as slices.
struct Product<'a> {
    x: &'a [f32],
    panels: &'a [f32],
    bias: &'a [f32],
    gates: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    activation: Activation,
    cin: usize,
    cout: usize,
    rows: usize,
    rows_per_image: usize,
}

impl Product<'_> {
    fn run(&self, level: Level, output: Shared) {
        let wanted = rayon::current_num_threads() * TASKS_PER_THREAD;
        // Few rows are not split further: each part would read all of the weights again.
        let rows = host::split(self.rows, 12, self.rows.div_ceil(TASK_ROWS));
        let panels = self.cout.div_ceil(PANEL);
        let panels = host::split(panels, 1, wanted.div_ceil(rows.len().max(1)));
        let tasks = rows.len() * panels.len();
        (0..tasks).into_par_iter().for_each(|task| {
            let rows = rows[task / panels.len()].clone();
            let panels = panels[task % panels.len()].clone();
            let scaled = self.gates.map(|gates| self.scale(gates, rows.clone()));
            let task = Task {
                product: self,
                x: scaled
                    .as_deref()
                    .unwrap_or(&self.x[rows.start * self.cin..rows.end * self.cin]),
                rows,
                panels,
                output,
            };
            // SAFETY: the level is this processor's; the slices have the lengths that the constructor and
            // `forward_with` checked; no two tasks share both a row and a panel.
            unsafe { run_task(level, &task) };
        });
    }

    /// The rows with their image's gates multiplied in.
    fn scale(&self, gates: &[f32], rows: std::ops::Range<usize>) -> Vec<f32> {
        let mut scaled = Vec::with_capacity(rows.len() * self.cin);
        for row in rows {
            let image = row / self.rows_per_image;
            let gates = &gates[image * self.cin..][..self.cin];
            let x = &self.x[row * self.cin..][..self.cin];
            scaled.extend(x.iter().zip(gates).map(|(x, gate)| x * gate));
        }
        scaled
    }
}

struct Task<'a> {
    product: &'a Product<'a>,
    /// The rows of this task alone.
    x: &'a [f32],
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    output: Shared,
}

dispatch!(fn run_task(task: &Task<'_>) = task_kernel);

#[inline(always)]
unsafe fn task_kernel<V: Vector>(task: &Task<'_>) {
    for panel in task.panels.clone() {
        let mut column = panel * PANEL;
        let end = task.product.cout.min(column + PANEL);
        while column < end {
            let mut row = task.rows.start;
            while row < task.rows.end {
                // SAFETY: rows and columns stay within those of the task.
                row += unsafe {
                    match (task.rows.end - row).min(V::ROWS) {
                        12.. => block::<V, 12>(task, row, column),
                        6.. => block::<V, 6>(task, row, column),
                        4.. => block::<V, 4>(task, row, column),
                        2.. => block::<V, 2>(task, row, column),
                        _ => block::<V, 1>(task, row, column),
                    }
                };
            }
            column += 2 * V::LEN;
        }
    }
}

/// `R` rows by two vectors of columns; gives `R`.
#[inline(always)]
unsafe fn block<V: Vector, const R: usize>(task: &Task<'_>, row: usize, column: usize) -> usize {
    let product = task.product;
    let cin = product.cin;
    // SAFETY: `x` holds R rows of `cin` values from `row` on, a panel `cin` rows of PANEL, of which the two vectors
    // from `column` on are a part as 2 * LEN divides PANEL; the output has R rows from `row` on, and nothing beyond
    // `cout` is touched.
    unsafe {
        let x = task.x.as_ptr().add((row - task.rows.start) * cin);
        let panel = product.panels.as_ptr();
        let panel = panel.add(column / PANEL * cin * PANEL + column % PANEL);
        let mut sums = [[V::splat(0.0); 2]; R];
        for k in 0..cin {
            let left = V::load(panel.add(k * PANEL));
            let right = V::load(panel.add(k * PANEL + V::LEN));
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = V::splat(*x.add(r * cin + k));
                sums[0] = left.mul_add(factor, sums[0]);
                sums[1] = right.mul_add(factor, sums[1]);
            }
        }
        for half in 0..2 {
            let column = column + half * V::LEN;
            if column >= product.cout {
                break;
            }
            let count = V::LEN.min(product.cout - column);
            let bias = load(product.bias.as_ptr().add(column), count);
            for (r, sums) in sums.iter().enumerate() {
                let at = (row + r) * product.cout + column;
                let mut value: V = product.activation.apply(sums[half].add(bias));
                if let Some(residual) = product.residual {
                    value = value.add(load(residual.as_ptr().add(at), count));
                }
                if count == V::LEN {
                    value.store(task.output.at(at));
                } else {
                    value.store_first(task.output.at(at), count);
                }
            }
        }
    }
    R
}

#[inline(always)]
unsafe fn load<V: Vector>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller vouches for `count` values, at most LEN.
    unsafe {
        if count == V::LEN {
            V::load(from)
        } else {
            V::load_first(from, count)
        }
    }
}

/// A pointwise convolution with made-up weights, for timing.
pub(super) fn made_up(cin: usize, cout: usize, activation: Activation) -> Result<Pointwise> {
    let device = Device::Cpu;
    Pointwise::new(
        &Tensor::randn(0f32, 0.1, (cout, cin), &device)?,
        &Tensor::zeros(cout, candle_core::DType::F32, &device)?,
        activation,
    )
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::{assert_close, flat, random};
    use super::*;

    fn naive(layer: (&Tensor, &Tensor, Activation), x: &Tensor, extras: Extras<'_>) -> Tensor {
        let (cout, cin) = layer.0.dims2().unwrap();
        let n = x.dim(0).unwrap();
        let x = match extras.gates {
            Some(gates) => x
                .broadcast_mul(&gates.reshape((n, 1, 1, cin)).unwrap())
                .unwrap(),
            None => x.clone(),
        };
        let rows: Vec<f32> = flat(&x);
        let (weight, bias) = (flat(layer.0), flat(layer.1));
        let mut out = Vec::new();
        for row in rows.chunks_exact(cin) {
            for (weight, bias) in weight.chunks_exact(cin).zip(&bias) {
                let sum: f32 = row.iter().zip(weight).map(|(a, b)| a * b).sum();
                out.push(layer.2.of(sum + bias));
            }
        }
        let mut shape = x.dims().to_vec();
        shape[3] = cout;
        let out = Tensor::from_vec(out, shape, &Device::Cpu).unwrap();
        match extras.residual {
            Some(residual) => (out + residual).unwrap(),
            None => out,
        }
    }

    #[test]
    fn equals_the_naive_product_on_odd_shapes() {
        let shapes = [
            ([1, 1, 1, 1], 1),
            ([2, 3, 5, 7], 9),
            ([1, 9, 9, 24], 88),
            ([3, 4, 4, 17], 33),
            ([1, 13, 11, 40], 144),
            ([2, 7, 7, 96], 65),
        ];
        for (seed, (shape, cout)) in shapes.into_iter().enumerate() {
            for activation in [Activation::None, Activation::Relu6, Activation::Silu] {
                let seed = seed as u32 * 10;
                let (weight, bias) = (random(&[cout, shape[3]], seed), random(&[cout], seed + 1));
                let x = random(&shape, seed + 2);
                let gates = random(&[shape[0], shape[3]], seed + 3);
                let residual = random(&[shape[0], shape[1], shape[2], cout], seed + 4);
                let layer = Pointwise::new(&weight, &bias, activation).unwrap();
                for extras in [
                    Extras::default(),
                    Extras {
                        gates: Some(&gates),
                        residual: Some(&residual),
                    },
                ] {
                    let got = layer.forward_with(&x, extras).unwrap();
                    let expected = naive((&weight, &bias, activation), &x, extras);
                    let what = format!("{shape:?} to {cout}, {activation:?}");
                    assert_close(&what, &got, &expected, 1e-4);
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same() {
        let (rows, cin, cout) = (31, 19, 45);
        let (x, weight, bias) = (
            random(&[rows, cin], 1),
            random(&[cout, cin], 2),
            random(&[cout], 3),
        );
        let layer = Pointwise::new(&weight, &bias, Activation::Silu).unwrap();
        let expected = layer.forward(&x).unwrap();
        for level in Level::all() {
            let (x, panels, bias) = (flat(&x), flat(&layer.panels), flat(&bias));
            let product = Product {
                x: &x,
                panels: &panels,
                bias: &bias,
                gates: None,
                residual: None,
                activation: Activation::Silu,
                cin,
                cout,
                rows,
                rows_per_image: 1,
            };
            let mut output = Output::new(rows * cout);
            product.run(level, output.shared());
            // SAFETY: `run` writes every value.
            let (storage, _) = unsafe { output.finish((rows, cout)) };
            let values = storage.as_slice::<f32>().unwrap().to_vec();
            let got = Tensor::from_vec(values, (rows, cout), &Device::Cpu).unwrap();
            assert_close(&format!("{level:?}"), &got, &expected, 1e-5);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let layer = made_up(4, 6, Activation::None).unwrap();
        assert!(layer.forward(&random(&[1, 2, 2, 5], 1)).is_err());
        let gates = random(&[2, 4], 1);
        let extras = Extras {
            gates: Some(&gates),
            residual: None,
        };
        assert!(
            layer
                .forward_with(&random(&[1, 2, 2, 4], 1), extras)
                .is_err()
        );
    }
}
