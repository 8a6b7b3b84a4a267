//! One direction of an LSTM, and the loop over its steps for a group of sequences.

use std::ops::Range;

use super::{
    kernel::Step,
    matrix::{Columns, Recurrent},
    weights::DirectionWeights,
};
use crate::{
    aligned::Aligned,
    matmul::{Matrix, Product},
    simd::{Level, Precision},
};

/// The input's part of the gates is made for about this many rows at once: they stay in the second-level cache until
/// the recurrence reads them, and the matrix is read once for all of them.
const ROWS_AT_ONCE: usize = 256;

/// Inputs are brought together for this many rows at a time, few enough to stay near.
const ROWS_GATHERED: usize = 96;

/// The packed weights of one direction.
pub(super) struct Direction {
    /// Input to gates, in the kernel's order of columns.
    input: Matrix,
    /// The sum of both biases, in the same order.
    bias: Vec<f32>,
    recurrent: Recurrent,
    reverse: bool,
}

/// A sequence of a packed batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequence {
    /// Its place among the sequences, for its final states.
    pub(super) index: usize,
    /// Its first row.
    pub(super) first: usize,
    /// Its steps, at least 1.
    pub(super) length: usize,
}

impl Sequence {
    /// The row that a step reads and writes.
    fn row(&self, step: usize, reverse: bool) -> usize {
        self.first
            + if reverse {
                self.length - 1 - step
            } else {
                step
            }
    }
}

/// Where the input's part of the gates comes from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// It is computed from `[rows, input]`.
    Input(&'a [f32]),
    /// It has been computed: row `index[row]` of a table.
    Table(&'a [f32], &'a [u32]),
}

/// Where results go; shared by threads that write to rows, columns and sequences of their own.
#[derive(Clone, Copy)]
pub(super) struct Sink {
    /// `[rows, stride]`, this direction's columns first; null where no output is wanted.
    pub(super) output: *mut f32,
    pub(super) stride: usize,
    /// `[sequences, hidden]`.
    pub(super) hidden: *mut f32,
    /// `[sequences, hidden]`.
    pub(super) cell: *mut f32,
}

// SAFETY: the pointers are only written through by `Direction::run`, whose contract keeps the places apart.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

impl Direction {
    pub(super) fn pack(
        level: Level,
        (input, hidden): (usize, usize),
        reverse: bool,
        weights: &DirectionWeights,
    ) -> Self {
        let columns = Columns::new(level, hidden);
        Self {
            input: Matrix::pack(
                (input, columns.width()),
                Precision::F32,
                &weights.input,
                |column| columns.gate_row(column),
            ),
            bias: (0..columns.width())
                .map(|column| {
                    columns
                        .gate_row(column)
                        .map_or(0.0, |row| weights.bias[row])
                })
                .collect(),
            recurrent: Recurrent::pack(level, hidden, &weights.recurrent),
            reverse,
        }
    }

    /// Values of an input row.
    pub(super) fn input(&self) -> usize {
        self.input.inputs()
    }

    /// Values of an output row.
    pub(super) fn hidden(&self) -> usize {
        self.recurrent.hidden
    }

    /// Values of a row of gates.
    pub(super) fn width(&self) -> usize {
        self.input.outputs()
    }

    /// The input's part of the gates, `[rows, width]`, on this thread.
    ///
    /// # Panics
    /// `x` does not hold `[rows, input]` values, or `gates` has another length.
    pub(super) fn project(&self, x: &[f32], rows: usize, gates: &mut [f32]) {
        let product = Product {
            bias: Some(&self.bias),
            ..Product::new(x, rows, &self.input)
        };
        product.compute_here(self.recurrent.level, gates);
    }

    /// Runs sequences, which are sorted, the longest first.
    ///
    /// # Safety
    /// `sink` has places for every row and every index of `sequences`, and nobody else uses those meanwhile.
    pub(super) unsafe fn run(&self, sequences: &[Sequence], source: Source<'_>, sink: Sink) {
        let Some(longest) = sequences.first().map(|sequence| sequence.length) else {
            return;
        };
        let mut state = self.state(sequences.len());
        let mut gates = Vec::with_capacity(sequences.len());
        let mut window = Window::default();
        let mut active = sequences.len();
        for step in 0..longest {
            while sequences[active - 1].length <= step {
                active -= 1;
            }
            let now = &sequences[..active];
            gates.clear();
            match source {
                Source::Table(table, index) => gates.extend(now.iter().map(|sequence| {
                    let row = index[sequence.row(step, self.reverse)] as usize;
                    table[row * self.width()..][..self.width()].as_ptr()
                })),
                Source::Input(x) => {
                    if step == window.end {
                        self.advance(&mut window, now, x);
                    }
                    gates.extend((0..active).map(|r| window.row(step, r, self.width())));
                }
            }
            // SAFETY: rows of a table and of a window were cut to the width.
            unsafe { self.step(&gates, &mut state) };
            // SAFETY: as the caller's.
            unsafe { self.put(now, step, &state, sink) };
            state.advance();
        }
    }

    /// States of so many sequences before their first step.
    pub(super) fn state(&self, sequences: usize) -> State {
        let units = self.recurrent.units();
        let zeros = || Aligned::zeros(sequences * units);
        State {
            h: zeros(),
            next: zeros(),
            c: zeros(),
            units,
        }
    }

    /// A step of the first sequences, for each of which there are gates; [`State::advance`] follows.
    ///
    /// # Safety
    /// Each of the gates has [`Self::width`] values.
    pub(super) unsafe fn step(&self, gates: &[*const f32], state: &mut State) {
        let matrix = &self.recurrent;
        let len = gates.len() * state.units;
        let step = Step {
            gates,
            weight: matrix.weight.as_slice().as_ptr(),
            hidden: matrix.hidden,
            h: state.h.as_slice()[..len].as_ptr(),
            next: state.next.as_mut_slice()[..len].as_mut_ptr(),
            c: state.c.as_mut_slice()[..len].as_mut_ptr(),
        };
        // SAFETY: the states were checked to have a row for each row of gates; each of these has the width of `input`, as the
        // caller promises, which was packed with the same columns as `recurrent`.
        unsafe { step.run(matrix.level) }
    }

    /// Makes the input's part of the gates for the next steps of the sequences that are active now.
    fn advance(&self, window: &mut Window, now: &[Sequence], x: &[f32]) {
        let steps = (ROWS_AT_ONCE / now.len()).clamp(1, now[0].length - window.end);
        window.start = window.end;
        window.end += steps;
        window.places.clear();
        window.x.clear();
        let (inputs, width) = (self.input.inputs(), self.width());
        let most = steps * now.len() * width;
        if window.gates.as_slice().len() < most {
            window.gates.resize(most);
        }
        let (mut rows, mut done) = (0, 0);
        for step in window.start..window.end {
            window.places.push(rows);
            for sequence in now.iter().take_while(|sequence| sequence.length > step) {
                let row = sequence.row(step, self.reverse);
                window.x.extend_from_slice(&x[row * inputs..][..inputs]);
                rows += 1;
                if rows - done == ROWS_GATHERED {
                    self.project_window(window, done..rows);
                    done = rows;
                }
            }
        }
        self.project_window(window, done..rows);
    }

    /// Makes these rows of a window's gates from their inputs, and drops those.
    fn project_window(&self, window: &mut Window, rows: Range<usize>) {
        let width = self.width();
        let gates = &mut window.gates.as_mut_slice()[rows.start * width..rows.end * width];
        self.project(&window.x, rows.len(), gates);
        window.x.clear();
    }

    /// Copies a step's states to where they belong.
    ///
    /// # Safety
    /// As [`Direction::run`].
    unsafe fn put(&self, now: &[Sequence], step: usize, state: &State, sink: Sink) {
        let hidden = self.recurrent.hidden;
        for (r, sequence) in now.iter().enumerate() {
            let h = &state.next.as_slice()[r * state.units..][..hidden];
            let c = &state.c.as_slice()[r * state.units..][..hidden];
            // SAFETY: the caller has places for this row and this index, apart from `state`.
            unsafe {
                if !sink.output.is_null() {
                    let row = sequence.row(step, self.reverse);
                    copy(h, sink.output.add(row * sink.stride));
                }
                if sequence.length == step + 1 {
                    copy(h, sink.hidden.add(sequence.index * hidden));
                    copy(c, sink.cell.add(sequence.index * hidden));
                }
            }
        }
    }
}

/// The states of a group's sequences, `[rows, units]` with the units padded to whole vectors.
pub(super) struct State {
    h: Aligned,
    next: Aligned,
    c: Aligned,
    units: usize,
}

impl State {
    /// Makes what a step gave what the next one reads.
    pub(super) fn advance(&mut self) {
        std::mem::swap(&mut self.h, &mut self.next);
    }

    /// What a sequence's next step reads.
    pub(super) fn hidden(&self, row: usize, hidden: usize) -> &[f32] {
        &self.h.as_slice()[row * self.units..][..hidden]
    }

    /// A sequence's cell.
    pub(super) fn cell(&self, row: usize, hidden: usize) -> &[f32] {
        &self.c.as_slice()[row * self.units..][..hidden]
    }
}

/// Gates of some steps, computed ahead.
#[derive(Default)]
struct Window {
    start: usize,
    end: usize,
    /// The first row of each step.
    places: Vec<usize>,
    /// The inputs of the rows whose gates come next.
    x: Vec<f32>,
    gates: Aligned,
}

impl Window {
    fn row(&self, step: usize, r: usize, width: usize) -> *const f32 {
        let row = self.places[step - self.start] + r;
        self.gates.as_slice()[row * width..][..width].as_ptr()
    }
}

/// Copies a slice.
///
/// # Safety
/// `to` has room for it and does not overlap with it.
unsafe fn copy(from: &[f32], to: *mut f32) {
    // SAFETY: as the caller's.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
}
