//! The matrix product of every layer here: rows times a weight that was laid out once, when it was loaded, and with
//! the bias, the activation and a residual applied while the results are still at hand.
//!
//! In f32, or with weights and inputs rounded to bf16 and summed in f32 ([`Precision`]), on AVX-512 or, where there are
//! such, on tile registers.
//!
//! The weight is packed into panels of [`PANEL`] outputs, and within these into strips as wide as a tile. A task takes some
//! rows and some panels; within it a panel stays in a near cache while the rows go past it, a tile at a time. Where the rows
//! are too long to stay near as well, it goes through them in parts. Many rows are shared out over the threads by rows, few
//! rows by panels. Every sum runs over the inputs in their order, whatever the tile and the task: a row's result does not
//! depend, to the bit, on the rows beside it.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;
mod gain;
mod kernel;
mod matrix;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub use gain::bf16_gain;

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    activation::Activation,
    aligned::Aligned,
    host::{self, Output, Shared},
    simd::{Level, Precision},
    workspace::with_thread_memory,
};

pub(crate) use kernel::{Ahead, MOST_ROWS, Tile, tiles};
pub(crate) use matrix::{Matrix, PANEL};

/// The most rows in a task: its input stays in the second-level cache.
const TASK_ROWS: usize = 96;
/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 3;
/// Multiply-adds below which a task is not worth a thread of its own.
const TASK_WORK: usize = 1 << 17;

/// The precision for a loop of its own over vectors: where tile registers are what makes bf16 fast, f32 vectors are as fast
/// as bf16 ones or faster.
pub(crate) fn on_vectors(precision: Precision) -> Precision {
    #[cfg(target_arch = "x86_64")]
    if tiles::available() {
        return Precision::F32;
    }
    precision
}

/// `activation(x w + bias) + residual`, and all that it needs.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    /// `[rows, inputs]`.
    pub(crate) x: &'a [f32],
    /// Whether `x` is words, `[rows, words]`.
    pub(crate) packed: bool,
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
            packed: false,
            rows,
            matrix,
            bias: None,
            activation: Activation::None,
            gates: None,
            residual: None,
        }
    }

    /// The same with its rows gated and made words already, in `memory`, if several tasks would each do so with them.
    ///
    /// # Panics
    /// A slice has another length than its field says.
    pub(crate) fn prepared(self, level: Level, memory: &'a mut Aligned) -> Self {
        self.check();
        let [_, panels] = self.parts(rayon::current_num_threads());
        if self.is_ready() || panels.len() < 2 {
            return self;
        }
        Self {
            x: self.matrix.pack_rows(level, self.x, self.gates, memory),
            packed: true,
            gates: None,
            ..self
        }
    }

    /// Whether its rows are what the kernel takes.
    fn is_ready(&self) -> bool {
        let same = self.matrix.precision == Precision::F32 && self.gates.is_none();
        self.packed || same || self.matrix.inputs == 0
    }

    /// Values in a row of `x`.
    fn row_len(&self) -> usize {
        if self.packed {
            self.matrix.words()
        } else {
            self.matrix.inputs
        }
    }

    /// Computes it on rayon's pool, `[rows, outputs]`.
    ///
    /// # Panics
    /// A slice has another length than its field says.
    pub(crate) fn compute(&self, level: Level) -> Vec<f32> {
        let mut output = Output::new(self.rows * self.matrix.outputs);
        self.run_all(level, output.shared());
        // SAFETY: the tasks covered every row and every panel.
        unsafe { output.values() }
    }

    /// As [`Self::compute`], into `[rows, outputs]`.
    ///
    /// # Panics
    /// A slice, or `out`, has another length than it should.
    pub(crate) fn compute_into(&self, level: Level, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.matrix.outputs, "output length");
        self.run_all(level, Shared::new(out));
    }

    /// Computes it on this thread, into `[rows, outputs]`.
    ///
    /// # Panics
    /// A slice, or `out`, has another length than it should.
    pub(crate) fn compute_here(&self, level: Level, out: &mut [f32]) {
        self.check();
        assert_eq!(out.len(), self.rows * self.matrix.outputs, "output length");
        let panels = 0..self.matrix.outputs.div_ceil(PANEL);
        let shared = Shared::new(out);
        for rows in self.row_parts(1) {
            // SAFETY: the slices were checked, and nobody else has `out`.
            unsafe { self.run(level, rows, panels.clone(), shared) };
        }
    }

    /// Computes it on rayon's pool; `output` has a place for each result.
    fn run_all(&self, level: Level, output: Shared) {
        self.check();
        let [rows, panels] = self.parts(rayon::current_num_threads());
        let tasks = rows.len() * panels.len();
        // Neighbouring tasks share rows, not panels: few rows mean many panels.
        (0..tasks).into_par_iter().with_max_len(1).for_each(|task| {
            let (rows, panels) = (&rows[task / panels.len()], &panels[task % panels.len()]);
            // SAFETY: the slices were checked, and no two tasks share both a row and a panel.
            unsafe { self.run(level, rows.clone(), panels.clone(), output) };
        });
    }

    fn check(&self) {
        let (inputs, outputs) = (self.matrix.inputs, self.matrix.outputs);
        assert_eq!(self.x.len(), self.rows * self.row_len(), "input length");
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
        let rows = self.row_parts(threads);
        let panels = outputs.div_ceil(PANEL);
        let panels = host::split(panels, 1, wanted.div_ceil(rows.len().max(1)));
        [rows, panels]
    }

    /// As few parts as tasks may be large, but as many for each thread as for the others.
    fn row_parts(&self, threads: usize) -> Vec<Range<usize>> {
        let parts = self.rows.div_ceil(TASK_ROWS);
        let even = if parts > 1 {
            parts.next_multiple_of(threads)
        } else {
            parts
        };
        host::split(self.rows, self.matrix.row_unit(), even)
    }

    /// One task.
    ///
    /// # Safety
    /// The processor has the level, `check` has passed, `output` has a place for each result, and nobody else uses
    /// those of these rows and panels meanwhile.
    unsafe fn run(&self, level: Level, rows: Range<usize>, panels: Range<usize>, output: Shared) {
        let Matrix {
            inputs, precision, ..
        } = *self.matrix;
        let x = &self.x[rows.start * self.row_len()..rows.end * self.row_len()];
        let run = |x: &[f32]| {
            let task = kernel::Task {
                product: self,
                x,
                rows: rows.clone(),
                panels,
                output,
            };
            #[cfg(target_arch = "x86_64")]
            if self.matrix.on_tiles() {
                // SAFETY: as below, and the matrix is one for tiles.
                unsafe { tiles::run(&task) };
                return;
            }
            // SAFETY: as the caller's; `x` holds the task's rows, as words.
            unsafe { kernel::run(level, precision, &task) };
        };
        if self.is_ready() {
            return run(x);
        }
        let words = precision.words(inputs);
        with_thread_memory(rows.len() * words, |packed| {
            let gates = self.gates.map(|gates| kernel::RowGates {
                gates,
                first: rows.start,
            });
            // SAFETY: the level is the processor's, there is room for the rows' words, and `check` saw gates for all.
            unsafe { kernel::pack_rows(level, precision, x, inputs, gates, packed) };
            run(packed);
        });
    }
}
