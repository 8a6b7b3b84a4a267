//! A bidirectional layer: its weights in device memory, and its launches.

use candle_core::{Result, bail};
use candle_nn::VarBuilder;

use super::{
    super::weights::DirectionWeights,
    Rows, Sequences,
    layout::{self, DIRECTIONS, GATES, TILE},
    sequences::group,
};
use crate::cuda::{Argument, Element, Grid, Program, Source, Span, Target, Weights};

/// Units up to which the weights of a direction fit into the registers of a block.
const MOST_FRAGMENT_UNITS: usize = 128;
/// Units up to which a block has a thread for each fourth of a unit's product.
const MOST_UNITS: usize = 256;
/// Inputs in f16 up to which a tile of the projection fits into shared memory.
const MOST_INPUTS: usize = 592;

/// A layer's weights in device memory.
#[derive(Debug)]
pub(super) struct Layer {
    element: Element,
    /// Values of an input row, the gaps between its parts among them.
    inputs: usize,
    hidden: usize,
    input: Span,
    bias: Span,
    recurrent: Span,
    cores: Cores,
}

/// What the recurrence runs on.
#[derive(Clone, Copy, Debug)]
enum Cores {
    /// Tensor cores, with so many tiles along the state.
    Tensor {
        k_tiles: usize,
    },
    Cuda,
}

/// What the recurrence reads and writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recurrence {
    /// The table that the gates' part of each row is in.
    pub(super) gates: Span,
    /// For each row where in the table; its own row where this is none.
    pub(super) index: Option<Span>,
    pub(super) sequences: Sequences,
    /// `[rows, 2 * hidden]`.
    pub(super) out: Option<Rows>,
    pub(super) states: Option<States>,
}

/// Where final states go: unit `u` of a direction to value `direction * direction_stride + place * place_stride + u`.
#[derive(Clone, Copy, Debug)]
pub(super) struct States {
    pub(super) hidden: Span,
    /// Of f32 whatever the element.
    pub(super) cell: Option<Span>,
    pub(super) direction_stride: usize,
    pub(super) place_stride: usize,
}

impl Layer {
    /// Reads a layer's tensors, as the CPU's does, for input rows of several parts one after the other. On the device
    /// each part begins at a value whose number is a multiple of 8.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or the layer is too large for the kernels.
    pub(super) fn load(
        weights: &mut Weights,
        vb: &VarBuilder<'_>,
        parts: &[usize],
        hidden: usize,
    ) -> Result<Self> {
        let directions = DirectionWeights::both(vb, 0, (parts.iter().sum(), hidden))?;
        Self::pack(weights, &directions, parts, hidden)
    }

    /// [`Self::load`] for tensors that have been read.
    pub(super) fn pack(
        weights: &mut Weights,
        directions: &[DirectionWeights; DIRECTIONS],
        parts: &[usize],
        hidden: usize,
    ) -> Result<Self> {
        if !(1..=MOST_UNITS).contains(&hidden) {
            bail!("bilstm on CUDA: expected 1 to {MOST_UNITS} units, got {hidden}")
        }
        let mut places = layout::places(parts);
        let inputs = places.len();
        let element = weights.element();
        if element == Element::F16 {
            if inputs > MOST_INPUTS {
                bail!("bilstm on CUDA: expected at most {MOST_INPUTS} inputs in f16, got {inputs}")
            }
            places.resize(inputs.next_multiple_of(TILE), None);
        }
        let cores = match element {
            Element::F16 if hidden <= MOST_FRAGMENT_UNITS => Cores::Tensor {
                k_tiles: k_tiles(hidden),
            },
            _ => Cores::Cuda,
        };
        let recurrent = match cores {
            Cores::Tensor { k_tiles } => layout::fragments(directions, hidden, k_tiles),
            Cores::Cuda => layout::plain(directions, hidden),
        };
        Ok(Self {
            element,
            inputs,
            hidden,
            input: weights.values(&layout::projection(directions, hidden, &places)),
            bias: weights.floats(&layout::bias(directions, hidden)),
            recurrent: weights.values(&recurrent),
            cores,
        })
    }

    /// Values of an input row, the gaps between its parts among them.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes of a row of gates.
    pub(super) fn gates(&self) -> usize {
        layout::columns(self.hidden) * self.element.size()
    }

    /// Makes the gates' part of each row of `x`.
    ///
    /// # Errors
    /// There are more rows than a launch takes.
    pub(super) fn project(
        &self,
        program: &mut Program,
        target: Target,
        x: Rows,
        rows: usize,
        gates: Span,
    ) -> Result<()> {
        const TILE_ROWS: usize = 64;
        const TILE_COLUMNS: usize = 64;
        let columns = layout::columns(self.hidden);
        let tiles = rows.div_ceil(TILE_ROWS);
        let (blocks, threads, shared) = match self.element {
            Element::F16 => {
                // Blocks stride over tiles: no more than the card runs at a time, three on each multiprocessor.
                let fill = (3 * target.processors * TILE_COLUMNS / columns).max(1);
                let pitch = self.inputs.next_multiple_of(TILE) + 8;
                (tiles.min(fill), 128, 384 * pitch as u32)
            }
            Element::F32 => (tiles, 256, 0),
        };
        let kernel = format!("lstm_project_{}", self.element.name());
        let grid = Grid {
            blocks: [columns / TILE_COLUMNS, blocks, 1],
            threads,
            shared,
        };
        // SAFETY: the arguments of `lstm_project_T`; `x` has rows of the stride, and `gates` room for all rows.
        unsafe {
            program.push(
                (Source::LstmInputs, kernel),
                grid,
                [
                    x.span.read(),
                    self.input.read(),
                    self.bias.read(),
                    gates.write(),
                    rows.into(),
                    self.inputs.into(),
                    x.stride.into(),
                    columns.into(),
                ],
            )
        }
    }

    /// Runs sequences.
    ///
    /// # Errors
    /// There are more than a launch takes.
    pub(super) fn recur(
        &self,
        program: &mut Program,
        target: Target,
        of: &Recurrence,
    ) -> Result<()> {
        let count = of.sequences.count;
        let threads = (layout::padded(self.hidden) * GATES) as u32;
        let (group, kernel) = match self.cores {
            Cores::Tensor { k_tiles } => {
                let group = group(count, target.processors);
                let most = group.max(8);
                let kernel = format!("lstm_f16_k{k_tiles}_g{most}");
                (group, (Source::Lstm, kernel))
            }
            Cores::Cuda => {
                let kernel = format!("lstm_{}_plain", self.element.name());
                (4, (Source::LstmPlain, kernel))
            }
        };
        let grid = Grid {
            blocks: [count.div_ceil(group), DIRECTIONS, 1],
            threads,
            shared: 0,
        };
        let states = of.states;
        let write = |span: Option<Span>| span.map_or(Argument::Null, Span::write);
        let stride = |of: fn(States) -> usize| Argument::from(states.map_or(0, of));
        let memory = [
            self.recurrent.read(),
            of.gates.read(),
            of.index.into(),
            of.sequences.span.read(),
            write(of.out.map(|out| out.span)),
            write(states.map(|states| states.hidden)),
            write(states.and_then(|states| states.cell)),
            count.into(),
        ];
        let sizes = [
            self.hidden.into(),
            of.out.map_or(0, |out| out.stride).into(),
            stride(|states| states.direction_stride),
            stride(|states| states.place_stride),
        ];
        let [weights, gates, index, sequences, out, hidden, cell, count] = memory;
        let [units, out_stride, direction_stride, place_stride] = sizes;
        // SAFETY: the arguments of `lstm_f16_kK_gG`, and without the group those of `lstm_T_plain`. Sequences and index
        // come from the host, which has checked that their rows and places exist.
        unsafe {
            match self.cores {
                Cores::Tensor { .. } => program.push(
                    kernel,
                    grid,
                    [
                        weights,
                        gates,
                        index,
                        sequences,
                        out,
                        hidden,
                        cell,
                        count,
                        group.into(),
                        units,
                        out_stride,
                        direction_stride,
                        place_stride,
                    ],
                ),
                Cores::Cuda => program.push(
                    kernel,
                    grid,
                    [
                        weights,
                        gates,
                        index,
                        sequences,
                        out,
                        hidden,
                        cell,
                        count,
                        units,
                        out_stride,
                        direction_stride,
                        place_stride,
                    ],
                ),
            }
        }
    }
}

/// Tiles along the state, of those numbers that there are kernels for.
fn k_tiles(hidden: usize) -> usize {
    let kernels = [2, 4, 7];
    let enough = kernels.into_iter().find(|tiles| TILE * tiles >= hidden);
    enough.unwrap_or(MOST_FRAGMENT_UNITS / TILE)
}
