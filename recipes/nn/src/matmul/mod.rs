//! The matrix product of every layer here: rows times a weight that was laid out once, when it was loaded, and with
//! the bias, the activation and a residual applied while the results are still at hand.
//!
//! The weight is packed into panels of [`PANEL`] outputs, `[panels, inputs, PANEL]`. A task takes some rows and some
//! panels; within it a panel stays in a near cache while the rows go past it, a tile at a time. Many rows are shared
//! out over the threads by rows, few rows by panels. Every sum runs over the inputs in their order, whatever the tile
//! and the task: a row's result does not depend, to the bit, on the rows beside it.

mod kernel;
#[cfg(test)]
mod tests;

use std::{fmt, ops::Range, sync::Arc};

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::{
    activation::Activation,
    aligned::Aligned,
    host::{self, Output, Shared},
    simd::Level,
};

/// Outputs in a panel: two of the longest vectors.
const PANEL: usize = 32;
/// The most rows in a task: its input stays in the second-level cache.
const TASK_ROWS: usize = 96;
/// Rows of a task come in multiples of this where they can, to fill the highest tile.
const TILE_ROWS: usize = 12;
/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 3;
/// Multiply-adds below which a task is not worth a thread of its own.
const TASK_WORK: usize = 1 << 17;

/// A weight `[inputs, outputs]`, packed for the kernel. Clones share it.
#[derive(Clone)]
pub(crate) struct Matrix {
    /// `[panels, inputs, PANEL]`, with zeros where the last panel is not full.
    panels: Arc<Aligned>,
    inputs: usize,
    outputs: usize,
}

impl Matrix {
    /// From a weight `[outputs, inputs]` on the CPU, as state dicts have it.
    ///
    /// # Errors
    /// It is no f32 matrix on the CPU.
    pub(crate) fn new(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        host::with(&weight.contiguous()?, |weight| {
            Ok(Self::pack(inputs, outputs, weight, Some))
        })
    }

    /// From rows of `inputs` weights: output `i` is that of row `row(i)`, or zero.
    pub(crate) fn pack(
        inputs: usize,
        outputs: usize,
        weight: &[f32],
        row: impl Fn(usize) -> Option<usize> + Sync,
    ) -> Self {
        let mut panels = Aligned::zeros(outputs.div_ceil(PANEL) * inputs * PANEL);
        panels
            .as_mut_slice()
            .par_chunks_mut((inputs * PANEL).max(1))
            .enumerate()
            .for_each(|(panel, values)| {
                for lane in 0..PANEL.min(outputs - panel * PANEL) {
                    let Some(row) = row(panel * PANEL + lane) else {
                        continue;
                    };
                    let weight = &weight[row * inputs..][..inputs];
                    for (values, weight) in values.chunks_exact_mut(PANEL).zip(weight) {
                        values[lane] = *weight;
                    }
                }
            });
        Self {
            panels: Arc::new(panels),
            inputs,
            outputs,
        }
    }

    /// Values of a row that it takes.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Values of a row that it gives.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix[{}, {}]", self.inputs, self.outputs)
    }
}

/// `activation(x w + bias) + residual`, and all that it needs.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    /// `[rows, inputs]`.
    pub(crate) x: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) matrix: &'a Matrix,
    /// `[outputs]`.
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Activation,
    pub(crate) gates: Option<Gates<'a>>,
    /// `[rows, outputs]`.
    pub(crate) residual: Option<&'a [f32]>,
}

/// Factors for the inputs of rows that come in groups of one size.
#[derive(Clone, Copy)]
pub(crate) struct Gates<'a> {
    /// `[groups, inputs]`.
    pub(crate) values: &'a [f32],
    /// How many rows a group has.
    pub(crate) rows: usize,
}

impl<'a> Product<'a> {
    /// The bare product; the other fields are for the caller to set.
    pub(crate) fn new(x: &'a [f32], rows: usize, matrix: &'a Matrix) -> Self {
        Self {
            x,
            rows,
            matrix,
            bias: None,
            activation: Activation::None,
            gates: None,
            residual: None,
        }
    }

    /// Computes it on rayon's pool, `[rows, outputs]`.
    ///
    /// # Panics
    /// A slice has another length than its field says.
    pub(crate) fn compute(&self, level: Level) -> Vec<f32> {
        self.check();
        let mut output = Output::new(self.rows * self.matrix.outputs);
        let shared = output.shared();
        let [rows, panels] = self.parts(rayon::current_num_threads());
        let tasks = rows.len() * panels.len();
        // Neighbouring tasks share rows, not panels: few rows mean many panels.
        (0..tasks).into_par_iter().with_max_len(1).for_each(|task| {
            let (rows, panels) = (&rows[task / panels.len()], &panels[task % panels.len()]);
            // SAFETY: the slices were checked, and no two tasks share both a row and a panel.
            unsafe { self.run(level, rows.clone(), panels.clone(), shared) };
        });
        // SAFETY: the tasks cover every row and every panel.
        unsafe { output.values() }
    }

    /// Computes it on this thread, into `[rows, outputs]`.
    ///
    /// # Panics
    /// A slice, or `out`, has another length than it should.
    pub(crate) fn compute_into(&self, level: Level, out: &mut [f32]) {
        self.check();
        assert_eq!(out.len(), self.rows * self.matrix.outputs, "output length");
        let panels = 0..self.matrix.outputs.div_ceil(PANEL);
        let shared = Shared::new(out);
        for rows in self.row_parts(1) {
            // SAFETY: the slices were checked, and nobody else has `out`.
            unsafe { self.run(level, rows, panels.clone(), shared) };
        }
    }

    fn check(&self) {
        let (inputs, outputs) = (self.matrix.inputs, self.matrix.outputs);
        assert_eq!(self.x.len(), self.rows * inputs, "input length");
        assert!(
            self.bias.is_none_or(|bias| bias.len() == outputs),
            "bias length"
        );
        let length = self.rows * outputs;
        assert!(
            self.residual
                .is_none_or(|residual| residual.len() == length),
            "residual length"
        );
        let fits = |gates: Gates| {
            self.rows == 0 || gates.values.len() >= self.rows.div_ceil(gates.rows) * inputs
        };
        assert!(self.gates.is_none_or(fits), "gates' length");
    }

    /// The rows and the panels of the tasks: each task takes one range of either.
    fn parts(&self, threads: usize) -> [Vec<Range<usize>>; 2] {
        let Matrix {
            inputs, outputs, ..
        } = *self.matrix;
        let worthwhile = self.rows * inputs * outputs / TASK_WORK + 1;
        let wanted = worthwhile.min(threads * TASKS_PER_THREAD);
        // Few rows are not split further: each part would read all of the weights again.
        let rows = self.row_parts(1);
        let panels = outputs.div_ceil(PANEL);
        let panels = host::split(panels, 1, wanted.div_ceil(rows.len().max(1)));
        [rows, panels]
    }

    fn row_parts(&self, least: usize) -> Vec<Range<usize>> {
        let parts = self.rows.div_ceil(TASK_ROWS).max(least);
        host::split(self.rows, TILE_ROWS, parts)
    }

    /// One task.
    ///
    /// # Safety
    /// The processor has the level, `check` has passed, `output` has a place for each result, and nobody else uses
    /// those of these rows and panels meanwhile.
    unsafe fn run(&self, level: Level, rows: Range<usize>, panels: Range<usize>, output: Shared) {
        let inputs = self.matrix.inputs;
        let gated = self.gates.map(|gates| self.gate(gates, rows.clone()));
        let task = kernel::Task {
            product: self,
            x: gated
                .as_deref()
                .unwrap_or(&self.x[rows.start * inputs..rows.end * inputs]),
            panels_of_matrix: self.matrix.panels.as_slice(),
            rows,
            panels,
            output,
        };
        // SAFETY: as the caller's; `x` holds the task's rows.
        unsafe { kernel::run(level, &task) };
    }

    /// The rows with their group's gates multiplied in.
    fn gate(&self, gates: Gates<'_>, rows: Range<usize>) -> Vec<f32> {
        let inputs = self.matrix.inputs;
        let mut gated = Vec::with_capacity(rows.len() * inputs);
        for row in rows {
            let gates = &gates.values[row / gates.rows * inputs..][..inputs];
            let x = &self.x[row * inputs..][..inputs];
            gated.extend(x.iter().zip(gates).map(|(x, gate)| x * gate));
        }
        gated
    }
}
