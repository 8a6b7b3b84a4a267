//! A layer of an LSTM in training: what its steps were is kept, and gradients go back through them.
//!
//! The input's part of all gates is one product before the first step, and all gradients of weights are products after the
//! last: only `h * W` is left to a step. Gates are in torch's order: input, forget, cell, output.

mod cell;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;
#[cfg(test)]
mod tests;

use self::cell::{Back, Cell};
use super::{Onto, convolution::train::Trained};
use crate::{
    aligned::Aligned,
    graph::{Convolution, Shape, Stored},
    matmul::{Matrix, Product},
    simd::{Level, Precision},
};

/// A layer for sequences of one length, with the memory that it works in.
#[derive(Debug)]
pub(crate) struct Lstm {
    sizes: Sizes,
    /// From inputs to gates, and from states to gates.
    input: Trained,
    recurrent: Trained,
    /// A step's `h` or the gradients of its gates, `[sequences, hidden]` or `[sequences, 4 * hidden]`.
    now: Aligned,
    /// What the recurrent weights make of that.
    product: Aligned,
    /// The gradients of a step's cells, `[sequences, hidden]`.
    dcells: Aligned,
    /// All states but the last of each sequence, after zeros, `[sequences, steps, hidden]`.
    before: Aligned,
    /// The recurrent weights' columns as rows.
    turned: Aligned,
}

/// The sizes of a layer.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    sequences: usize,
    steps: usize,
    hidden: usize,
}

impl Sizes {
    /// Values of all outputs.
    fn outputs(self) -> usize {
        self.sequences * self.steps * self.hidden
    }
}

/// The tensors of a layer or their gradients, `[4 * hidden, inputs]`, `[4 * hidden, hidden]`, and twice `[4 * hidden]`.
pub(crate) type Tensors<T> = [T; 4];

/// What a pass keeps.
pub(crate) struct Kept<T> {
    /// All gates, `[sequences, steps, 4 * hidden]`.
    pub(crate) gates: T,
    /// All cells, `[sequences, steps, hidden]`.
    pub(crate) cells: T,
}

impl Lstm {
    /// For sequences `from` as long as `to`, whose features are the layer's units.
    pub(crate) fn new(from: Shape, to: Shape, sequences: usize) -> Self {
        let sizes = Sizes {
            sequences,
            steps: to.width,
            hidden: to.channels,
        };
        let gates = Shape {
            channels: 4 * to.channels,
            ..to
        };
        let dense = Convolution::dense(gates.channels, Stored::Linear);
        let memory = |len| Aligned::zeros(sequences * len);
        Self {
            sizes,
            input: Trained::new(&dense, from, gates, sequences),
            recurrent: Trained::new(&dense, to, gates, sequences),
            now: memory(4 * sizes.hidden),
            product: memory(4 * sizes.hidden),
            dcells: memory(sizes.hidden),
            before: memory(sizes.steps * sizes.hidden),
            turned: Aligned::zeros(4 * sizes.hidden * sizes.hidden),
        }
    }

    /// Outputs `[sequences, steps, hidden]` of inputs `[sequences, steps, inputs]`, from states of zeros.
    ///
    /// # Panics
    /// The lengths do not fit the layer.
    pub(crate) fn forward(
        &mut self,
        level: Level,
        [input, recurrent, input_bias, recurrent_bias]: Tensors<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        Kept { gates, cells }: Kept<&mut [f32]>,
    ) {
        let sizes = self.sizes;
        let Sizes {
            sequences,
            steps,
            hidden,
        } = sizes;
        assert_eq!(y.len(), sizes.outputs(), "outputs");
        assert_eq!(
            [gates.len(), cells.len()],
            [4 * y.len(), y.len()],
            "what is kept"
        );
        let biases = input_bias.iter().zip(recurrent_bias);
        let bias: Vec<f32> = biases.map(|(input, recurrent)| input + recurrent).collect();
        self.input.forward(level, input, Some(&bias), x, gates);
        let matrix = Matrix::pack((hidden, 4 * hidden), Precision::F32, recurrent, Some);
        let h = self.now.at_least(sequences * hidden);
        let product = self.product.at_least(4 * sequences * hidden);
        product.fill(0.0);
        for step in 0..steps {
            if step > 0 {
                Product::new(h, sequences, &matrix).compute_into(level, product);
            }
            let cell = Cell {
                sizes,
                step,
                product,
            };
            cell.forward(level, [&mut *gates, &mut *cells, &mut *y, &mut *h]);
        }
    }

    /// The gradients of inputs, if they are wanted, and of tensors, which are written. The gates' gradients take their place.
    ///
    /// # Panics
    /// As [`Self::forward`].
    pub(crate) fn backward(
        &mut self,
        level: Level,
        [input, recurrent]: [&[f32]; 2],
        [x, y, dy]: [&[f32]; 3],
        Kept { gates, cells }: Kept<&mut [f32]>,
        dx: Option<(&mut [f32], Onto)>,
        [dinput, drecurrent, dinput_bias, drecurrent_bias]: Tensors<&mut [f32]>,
    ) {
        let sizes = self.sizes;
        let Sizes {
            sequences,
            steps,
            hidden,
        } = sizes;
        assert_eq!([y.len(), dy.len()], [sizes.outputs(); 2], "outputs");
        assert_eq!(
            [gates.len(), cells.len()],
            [4 * y.len(), y.len()],
            "what is kept"
        );
        let turned = self.turned.at_least(4 * hidden * hidden);
        transpose(recurrent, hidden, turned);
        let matrix = Matrix::pack((4 * hidden, hidden), Precision::F32, turned, Some);
        let dgates = self.now.at_least(4 * sequences * hidden);
        let product = self.product.at_least(sequences * hidden);
        let dcells = self.dcells.at_least(sequences * hidden);
        product.fill(0.0);
        dcells.fill(0.0);
        for step in (0..steps).rev() {
            let back = Back {
                sizes,
                step,
                product,
                cells,
                dy,
            };
            back.run(level, [&mut *gates, &mut *dgates, &mut *dcells]);
            if step > 0 {
                Product::new(dgates, sequences, &matrix).compute_into(level, product);
            }
        }
        if let Some((dx, onto)) = dx {
            self.input.backward_input(level, input, gates, dx, onto);
        }
        self.input
            .backward_weight(level, x, gates, dinput, Some(&mut *dinput_bias));
        let before = self.before.at_least(sizes.outputs());
        let each = steps * hidden;
        for (before, y) in before.chunks_exact_mut(each).zip(y.chunks_exact(each)) {
            before[..hidden].fill(0.0);
            before[hidden..].copy_from_slice(&y[..each - hidden]);
        }
        self.recurrent
            .backward_weight(level, before, gates, drecurrent, None);
        drecurrent_bias.copy_from_slice(dinput_bias);
    }
}

/// Rows and columns of a tile that is turned at a time.
const TILE: usize = 16;

/// From `[4 * hidden, hidden]` to `[hidden, 4 * hidden]`.
fn transpose(weight: &[f32], hidden: usize, to: &mut [f32]) {
    use rayon::prelude::*;
    let rows = 4 * hidden;
    to.par_chunks_mut(TILE * rows)
        .enumerate()
        .for_each(|(tile, to)| {
            for row in (0..rows).step_by(TILE) {
                for (column, to) in (tile * TILE..).zip(to.chunks_exact_mut(rows)) {
                    for row in row..rows.min(row + TILE) {
                        to[row] = weight[row * hidden + column];
                    }
                }
            }
        });
}
