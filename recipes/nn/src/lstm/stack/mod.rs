//! An LSTM of any number of layers, in one direction or both, on the CPU.
//!
//! A layer of both directions has to end before the next begins. Layers of one direction run as a wavefront: they take turns
//! of some steps, and while one is at its next turn, the layer above it is at that which has just ended. A layer hands on what
//! a turn gave, step by step and within a step sequence by sequence, the longest first.

#[cfg(test)]
mod tests;

use std::ops::Range;

use candle_core::{Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::{
    BiLstm, LstmTensors,
    direction::{Direction, Sequence, State},
    sort,
    weights::DirectionWeights,
};
use crate::{aligned::Aligned, host, pool, simd::Level};

/// The rows of a turn, about: one product makes the input's part of their gates.
const TURN_ROWS: usize = 256;

/// More sequences than this make two groups: with more, what a step has beside its weights leaves the near caches.
const GROUP: usize = 64;

/// The sizes of an LSTM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LstmConfig {
    /// Values of an input row.
    pub input: usize,
    /// Values of a direction's output row.
    pub hidden: usize,
    /// Layers, each of which reads what the one before gives.
    pub layers: usize,
    /// Whether a layer goes through sequences in both directions, and gives the one's output beside the other's.
    pub bidirectional: bool,
}

impl LstmConfig {
    /// Directions of a layer.
    pub(super) fn directions(&self) -> usize {
        1 + usize::from(self.bidirectional)
    }

    /// Values of an output row.
    pub fn outputs(&self) -> usize {
        self.directions() * self.hidden
    }

    /// That there is something to compute.
    ///
    /// # Errors
    /// There is no layer, or no unit.
    pub(super) fn check(&self) -> Result<()> {
        if self.layers == 0 || self.hidden == 0 {
            bail!("lstm: expected at least one layer of at least one unit")
        }
        Ok(())
    }

    /// Multiplications, each with an addition, that the gates of all layers take for a sequence of so many steps.
    pub fn multiply_adds(&self, steps: usize) -> u64 {
        let layer = |layer: usize| {
            let input = if layer == 0 {
                self.input
            } else {
                self.outputs()
            };
            4 * self.outputs() * (input + self.hidden)
        };
        (steps * (0..self.layers).map(layer).sum::<usize>()) as u64
    }
}

/// An LSTM with its weights.
pub struct Lstm {
    config: LstmConfig,
    layers: Layers,
}

enum Layers {
    Both(Vec<BiLstm>),
    Forward(Vec<Direction>),
}

impl Lstm {
    /// Reads torch's tensors: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, each with its layer's number, and
    /// again with `_reverse` where there are both directions.
    ///
    /// # Errors
    /// There is no layer, or a tensor is missing or has another shape.
    pub fn load(vb: &VarBuilder<'_>, config: LstmConfig) -> Result<Self> {
        Self::load_at(Level::detect(), vb, config)
    }

    pub(super) fn load_at(level: Level, vb: &VarBuilder<'_>, config: LstmConfig) -> Result<Self> {
        let hidden = config.hidden;
        config.check()?;
        let layers = if config.bidirectional {
            let input = |layer| if layer == 0 { config.input } else { 2 * hidden };
            let load = |layer| BiLstm::load_at(level, vb, layer, input(layer), hidden);
            Layers::Both((0..config.layers).map(load).collect::<Result<_>>()?)
        } else {
            let load = |layer| {
                let size = (if layer == 0 { config.input } else { hidden }, hidden);
                let weights = DirectionWeights::load(vb, layer, "", size)?;
                Ok(Direction::pack(level, size, false, &weights))
            };
            Layers::Forward((0..config.layers).map(load).collect::<Result<_>>()?)
        };
        Ok(Self { config, layers })
    }

    /// Runs sequences packed end to end: `x` is `[rows, input]`, and the lengths add up to `rows`. The last states are those
    /// of all layers, of each forward and then backward. A pass runs in the CPU pool.
    ///
    /// A sequence of length 0 has no rows, and zeros for final states.
    ///
    /// # Errors
    /// The shapes do not fit, or `x` is not f32 on the CPU.
    pub fn forward(&self, x: &Tensor, lengths: &[usize]) -> Result<LstmTensors> {
        pool::run(|| match &self.layers {
            Layers::Both(layers) => both(layers, x, lengths),
            Layers::Forward(layers) => self.wavefront(layers, x, lengths),
        })
    }

    fn wavefront(
        &self,
        layers: &[Direction],
        x: &Tensor,
        lengths: &[usize],
    ) -> Result<LstmTensors> {
        let LstmConfig { input, hidden, .. } = self.config;
        let rows = lengths.iter().sum();
        host::expect_shape("lstm: an input", x, &[rows, input])?;
        let sequences = sort(lengths);
        let count = (rayon::current_num_threads().div_ceil(layers.len()))
            .max(sequences.len().div_ceil(GROUP))
            .min(sequences.len());
        let mut groups: Vec<Group<'_>> = host::split(sequences.len(), 1, count)
            .into_iter()
            .map(|group| Group::new(layers, &sequences[group]))
            .collect();
        host::with(&x.contiguous()?, |x| {
            groups
                .par_iter_mut()
                .with_max_len(1)
                .for_each(|group| group.run(x));
            Ok(())
        })?;
        let states = layers.len() * lengths.len() * hidden;
        let mut output = vec![0.0; rows * hidden];
        let [mut h, mut c] = [vec![0.0; states], vec![0.0; states]];
        for group in &groups {
            let copy = |from: &[f32], to: &mut [f32], place: usize| {
                to[place * hidden..][..hidden].copy_from_slice(from);
            };
            let mut outputs = group.output.chunks_exact(hidden);
            for step in 0..group.counts.len() {
                for (sequence, from) in group.at(step).iter().zip(&mut outputs) {
                    copy(from, &mut output, sequence.first + step);
                }
            }
            for (layer, stage) in group.stages.iter().enumerate() {
                for (row, sequence) in group.sequences.iter().enumerate() {
                    let place = layer * lengths.len() + sequence.index;
                    copy(&stage.last[row * hidden..][..hidden], &mut h, place);
                    copy(stage.state.cell(row, hidden), &mut c, place);
                }
            }
        }
        let shape = (layers.len(), lengths.len(), hidden);
        Ok(LstmTensors {
            output: Tensor::from_vec(output, (rows, hidden), &Device::Cpu)?,
            hidden: Tensor::from_vec(h, shape, &Device::Cpu)?,
            cell: Tensor::from_vec(c, shape, &Device::Cpu)?,
        })
    }
}

/// Layer after layer.
fn both(layers: &[BiLstm], x: &Tensor, lengths: &[usize]) -> Result<LstmTensors> {
    let mut output = x.clone();
    let (mut hidden, mut cell) = (Vec::new(), Vec::new());
    for layer in layers {
        let layer = layer.forward(&output, lengths)?;
        output = layer.output;
        hidden.push(layer.hidden);
        cell.push(layer.cell);
    }
    Ok(LstmTensors {
        output,
        hidden: Tensor::cat(&hidden, 0)?,
        cell: Tensor::cat(&cell, 0)?,
    })
}

/// Sequences that go through all layers together.
struct Group<'a> {
    /// The longest first.
    sequences: &'a [Sequence],
    /// How many of them have each step.
    counts: Vec<usize>,
    /// A turn's steps.
    turn: usize,
    stages: Vec<Stage<'a>>,
    /// What the last layer gave, step by step.
    output: Vec<f32>,
}

/// A layer on its way.
struct Stage<'a> {
    direction: &'a Direction,
    state: State,
    /// What its next turn reads and what its last one gave, a row for each step of each sequence that has it.
    input: Vec<f32>,
    output: Vec<f32>,
    gates: Aligned,
    /// The last state of each sequence that has ended.
    last: Vec<f32>,
}

impl<'a> Group<'a> {
    fn new(layers: &'a [Direction], sequences: &'a [Sequence]) -> Self {
        let steps = sequences.first().map_or(0, |longest| longest.length);
        let having = |step| sequences.partition_point(|sequence| sequence.length > step);
        let stage = |direction: &'a Direction| Stage {
            direction,
            state: direction.state(sequences.len()),
            input: Vec::new(),
            output: Vec::new(),
            gates: Aligned::default(),
            last: vec![0.0; sequences.len() * direction.hidden()],
        };
        Self {
            sequences,
            counts: (0..steps).map(having).collect(),
            turn: (TURN_ROWS / sequences.len().max(1)).max(1),
            stages: layers.iter().map(stage).collect(),
            output: Vec::new(),
        }
    }

    /// The sequences that have a step.
    fn at(&self, step: usize) -> &'a [Sequence] {
        &self.sequences[..self.counts[step]]
    }

    fn steps(&self, turn: usize) -> Range<usize> {
        let end = self.counts.len();
        (turn * self.turn).min(end)..((turn + 1) * self.turn).min(end)
    }

    /// All turns of all layers; `x` is `[rows, input]`.
    fn run(&mut self, x: &[f32]) {
        let turns = self.counts.len().div_ceil(self.turn);
        let Some(width) = self.stages.first().map(|stage| stage.direction.input()) else {
            return;
        };
        for wave in 0..turns + self.stages.len() - 1 {
            let mut handed = Vec::new();
            for step in self.steps(wave) {
                for sequence in self.at(step) {
                    handed.extend_from_slice(&x[(sequence.first + step) * width..][..width]);
                }
            }
            for stage in &mut self.stages {
                std::mem::swap(&mut stage.input, &mut handed);
                std::mem::swap(&mut stage.output, &mut handed);
            }
            let steps: Vec<_> = (0..self.stages.len())
                .map(|layer| {
                    wave.checked_sub(layer)
                        .map_or(0..0, |turn| self.steps(turn))
                })
                .collect();
            let counts = &self.counts;
            self.stages
                .par_iter_mut()
                .zip(steps)
                .with_max_len(1)
                .for_each(|(stage, steps)| stage.run(&counts[steps.start..], steps.len()));
            if let Some(top) = self.stages.last() {
                self.output.extend_from_slice(&top.output);
            }
        }
    }
}

impl Stage<'_> {
    /// A turn of so many steps, of which so many sequences have each.
    fn run(&mut self, counts: &[usize], steps: usize) {
        let rows = counts[..steps].iter().sum();
        let (width, hidden) = (self.direction.width(), self.direction.hidden());
        let gates = self.gates.at_least(rows * width);
        self.direction.project(&self.input, rows, gates);
        self.output.clear();
        let mut rows = gates.chunks_exact(width).map(<[f32]>::as_ptr);
        for step in 0..steps {
            let gates: Vec<_> = rows.by_ref().take(counts[step]).collect();
            // SAFETY: the rows were cut to the width.
            unsafe { self.direction.step(&gates, &mut self.state) };
            self.state.advance();
            let left = counts.get(step + 1).copied().unwrap_or(0);
            for row in 0..counts[step] {
                let h = self.state.hidden(row, hidden);
                self.output.extend_from_slice(h);
                if row >= left {
                    self.last[row * hidden..][..hidden].copy_from_slice(h);
                }
            }
        }
    }
}
