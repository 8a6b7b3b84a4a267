//! One direction of an LSTM, and the loop over its steps for a group of sequences.

use super::{
    kernel::{self, Step},
    matrix::{Aligned, Matrix},
};
use crate::simd::Level;

/// The input's part of the gates is made for about this many rows at once: they stay in the second-level cache until
/// the recurrence reads them, and the matrix is read once for all of them.
const ROWS_AT_ONCE: usize = 256;

/// The weights of one direction, as torch lays them out: gates in the order input, forget, cell, output.
pub struct DirectionWeights<'a> {
    /// `[4 * hidden, input]`.
    pub weight_ih: &'a [f32],
    /// `[4 * hidden, hidden]`.
    pub weight_hh: &'a [f32],
    /// `[4 * hidden]`.
    pub bias_ih: &'a [f32],
    /// `[4 * hidden]`.
    pub bias_hh: &'a [f32],
}

/// The packed weights of one direction.
pub(super) struct Direction {
    /// Input to gates, with the sum of both biases.
    pub(super) input: Matrix,
    recurrent: Matrix,
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
        weights: &DirectionWeights<'_>,
    ) -> Self {
        let lanes = kernel::lanes(level);
        let columns: Vec<Option<usize>> = (0..hidden.div_ceil(lanes) * 4 * lanes)
            .map(|p| {
                let (block, gate, lane) = (p / (4 * lanes), p / lanes % 4, p % lanes);
                let unit = block * lanes + lane;
                (unit < hidden).then_some(gate * hidden + unit)
            })
            .collect();
        let bias: Vec<f32> = weights
            .bias_ih
            .iter()
            .zip(weights.bias_hh)
            .map(|(a, b)| a + b)
            .collect();
        let none = vec![0.0; 4 * hidden];
        Self {
            input: Matrix::pack(level, input, &columns, weights.weight_ih, &bias),
            recurrent: Matrix::pack(level, hidden, &columns, weights.weight_hh, &none),
            reverse,
        }
    }

    fn hidden(&self) -> usize {
        self.recurrent.inputs
    }

    /// Runs sequences, which are sorted, the longest first.
    ///
    /// # Safety
    /// `sink` has places for every row and every index of `sequences`, and nobody else uses those meanwhile.
    pub(super) unsafe fn run(&self, sequences: &[Sequence], source: Source<'_>, sink: Sink) {
        let Some(longest) = sequences.first().map(|sequence| sequence.length) else {
            return;
        };
        let units = self.recurrent.width() / 4;
        let mut state = State {
            h: Aligned::zeros(sequences.len() * units),
            next: Aligned::zeros(sequences.len() * units),
            c: Aligned::zeros(sequences.len() * units),
            units,
        };
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
                    table[row * self.input.width()..][..self.input.width()].as_ptr()
                })),
                Source::Input(x) => {
                    if step == window.end {
                        self.advance(&mut window, now, x);
                    }
                    gates.extend((0..active).map(|r| window.row(step, r, self.input.width())));
                }
            }
            self.step(&gates, &mut state);
            // SAFETY: as the caller's.
            unsafe { self.put(now, step, &state, sink) };
            std::mem::swap(&mut state.h, &mut state.next);
        }
    }

    fn step(&self, gates: &[*const f32], state: &mut State) {
        let matrix = &self.recurrent;
        let len = gates.len() * state.units;
        let step = Step {
            gates,
            weight: matrix.weight.as_slice().as_ptr(),
            hidden: matrix.inputs,
            blocks: matrix.blocks,
            h: state.h.as_slice()[..len].as_ptr(),
            next: state.next.as_mut_slice()[..len].as_mut_ptr(),
            c: state.c.as_mut_slice()[..len].as_mut_ptr(),
        };
        // SAFETY: the states were checked to have a row for each row of gates; each of these has the width of
        // `input`, which was packed with the same columns as `recurrent`.
        unsafe { step.run(matrix.level) }
    }

    /// Makes the input's part of the gates for the next steps of the sequences that are active now.
    fn advance(&self, window: &mut Window, now: &[Sequence], x: &[f32]) {
        let steps = (ROWS_AT_ONCE / now.len()).clamp(1, now[0].length - window.end);
        window.start = window.end;
        window.end += steps;
        window.places.clear();
        let mut rows: Vec<&[f32]> = Vec::with_capacity(steps * now.len());
        for step in window.start..window.end {
            window.places.push(rows.len());
            rows.extend(
                now.iter()
                    .take_while(|sequence| sequence.length > step)
                    .map(|sequence| {
                        let row = sequence.row(step, self.reverse);
                        &x[row * self.input.inputs..][..self.input.inputs]
                    }),
            );
        }
        let len = rows.len() * self.input.width();
        if window.gates.as_slice().len() < len {
            window.gates.resize(len);
        }
        self.input
            .product(&rows, &mut window.gates.as_mut_slice()[..len]);
    }

    /// Copies a step's states to where they belong.
    ///
    /// # Safety
    /// As [`Direction::run`].
    unsafe fn put(&self, now: &[Sequence], step: usize, state: &State, sink: Sink) {
        let hidden = self.hidden();
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
struct State {
    h: Aligned,
    next: Aligned,
    c: Aligned,
    units: usize,
}

/// Gates of some steps, computed ahead.
#[derive(Default)]
struct Window {
    start: usize,
    end: usize,
    /// The first row of each step.
    places: Vec<usize>,
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
