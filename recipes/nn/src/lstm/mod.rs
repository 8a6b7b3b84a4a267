//! LSTMs over sequences of unlike lengths: of any size, any number of layers and one direction or two in f32 on the CPU
//! ([`Lstm`]), and with a linear layer on the last output ([`LstmClassifier`]) also in f16 or f32 on CUDA; there a layer of both
//! directions and the tagger of words that is made of two of them are each a pass by themselves too (`cuda`).
//!
//! Sequences are *packed*: their rows stand end to end with no padding, and a step runs over those that still have one,
//! the longest first. The product with the input does not depend on the recurrence, so it is made for many steps at
//! once; what is left for each step, the product with the state and the cell, is one fused loop. Two things run in
//! parallel: the directions, and groups of sequences. A sequence's result does not depend, to the bit, on the others.
//!
//! Where the same inputs come again and again (characters, the words of a text), [`BiLstm::project`] makes their
//! part of the gates once, and [`BiLstm::run`] takes it from there.
//!
//! Gates, names and shapes are torch's: `i, f, g, o`, both biases added.

mod classifier;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
mod direction;
mod kernel;
mod linear;
mod matrix;
mod stack;
mod tagger;
#[cfg(test)]
mod tests;
mod weights;

use std::ops::Range;

use candle_core::{Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;

pub use classifier::LstmClassifier;
#[cfg(feature = "cuda")]
pub use cuda::CudaBiLstm;
use direction::{Direction, Sequence, Sink, Source};
pub use linear::Dense;
pub use stack::{Lstm, LstmConfig};
pub use tagger::{Tagger, TaggerConfig, Words};
use weights::DirectionWeights;

use crate::{aligned::Aligned, bench::OperatorCase, simd::Level};

/// More sequences than this make two groups: their states and the matrix's block share the first-level cache.
const GROUP: usize = 18;

/// A bidirectional LSTM layer.
pub struct BiLstm {
    input: usize,
    hidden: usize,
    directions: [Direction; 2],
}

/// The input's part of the gates, for rows that sequences then refer to. Opaque: its layout is that of the kernels.
#[derive(Default)]
pub struct Gates {
    rows: usize,
    directions: [Aligned; 2],
}

/// What a BiLSTM gives, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct BiLstmOutput {
    /// `[rows, 2 * hidden]`, forward then backward, packed as the input was; empty if not asked for.
    pub output: Vec<f32>,
    /// The last state of each direction, `[2, sequences, hidden]`.
    pub hidden: Vec<f32>,
    /// The last cell of each direction, `[2, sequences, hidden]`.
    pub cell: Vec<f32>,
}

/// What an LSTM gives. There is one direction or two, forward before backward.
#[derive(Clone, Debug)]
pub struct LstmTensors {
    /// `[rows, directions * hidden]`, packed as the input was.
    pub output: Tensor,
    /// The last state of each layer's directions, `[layers * directions, sequences, hidden]`.
    pub hidden: Tensor,
    /// The last cell of each, of the same shape.
    pub cell: Tensor,
}

impl Gates {
    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Drops all rows, and keeps the memory for those to come.
    pub fn clear(&mut self) {
        self.rows = 0;
    }
}

impl BiLstm {
    /// Reads torch's tensors: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, and each with `_reverse`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(vb: &VarBuilder<'_>, input: usize, hidden: usize) -> Result<Self> {
        Self::load_at(Level::detect(), vb, 0, input, hidden)
    }

    fn load_at(
        level: Level,
        vb: &VarBuilder<'_>,
        layer: usize,
        input: usize,
        hidden: usize,
    ) -> Result<Self> {
        let [forward, backward] = DirectionWeights::both(vb, layer, (input, hidden))?;
        let pack = |reverse, weights| Direction::pack(level, (input, hidden), reverse, weights);
        Ok(Self {
            input,
            hidden,
            directions: [pack(false, &forward), pack(true, &backward)],
        })
    }

    /// Values of an input row.
    pub fn input(&self) -> usize {
        self.input
    }

    /// Values of a direction's output row.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Runs sequences packed end to end: `x` is `[rows, input]`, and the lengths add up to `rows`.
    ///
    /// A sequence of length 0 has no rows, and zeros for final states.
    ///
    /// # Errors
    /// The shapes do not fit, or `x` is not f32 on the CPU.
    pub fn forward(&self, x: &Tensor, lengths: &[usize]) -> Result<LstmTensors> {
        let (rows, input) = x.dims2()?;
        if !matches!(x.device(), Device::Cpu) {
            bail!(
                "bilstm: expected a tensor on the cpu, got {:?}",
                x.device().location()
            )
        }
        if input != self.input || lengths.iter().sum::<usize>() != rows {
            bail!(
                "bilstm: expected [{}, {}], got {:?}",
                lengths.iter().sum::<usize>(),
                self.input,
                x.dims()
            )
        }
        let x = x.contiguous()?;
        let (storage, layout) = x.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            bail!("bilstm: expected a tensor on the cpu")
        };
        let x = &storage.as_slice::<f32>()?[layout.start_offset()..][..rows * input];
        let out = self.run_sources([Source::Input(x); 2], lengths, rows, true);
        let states = (2, lengths.len(), self.hidden);
        Ok(LstmTensors {
            output: Tensor::from_vec(out.output, (rows, 2 * self.hidden), &Device::Cpu)?,
            hidden: Tensor::from_vec(out.hidden, states, &Device::Cpu)?,
            cell: Tensor::from_vec(out.cell, states, &Device::Cpu)?,
        })
    }

    /// Appends the gates' part of each input row, in both directions.
    ///
    /// # Panics
    /// A row does not have [`BiLstm::input`] values, or `gates` was filled by a layer of another size.
    pub fn project(&self, rows: &[&[f32]], gates: &mut Gates) {
        let total = gates.rows + rows.len();
        let start = gates.rows;
        assert!(rows.iter().all(|row| row.len() == self.input), "row length");
        let x = rows.concat();
        self.directions
            .par_iter()
            .zip(&mut gates.directions)
            .for_each(|(direction, table)| {
                let width = direction.width();
                if table.as_slice().len() < total * width {
                    table.resize(total * width);
                }
                let new = &mut table.as_mut_slice()[start * width..total * width];
                direction.project(&x, rows.len(), new);
            });
        gates.rows = total;
    }

    /// Runs sequences packed end to end, whose row `r` has the inputs that row `index[r]` of `gates` was made of.
    ///
    /// # Panics
    /// The lengths do not add up to the rows of `index`, or an index is not in `gates`.
    pub fn run(
        &self,
        gates: &Gates,
        index: &[u32],
        lengths: &[usize],
        with_output: bool,
    ) -> BiLstmOutput {
        assert_eq!(lengths.iter().sum::<usize>(), index.len(), "rows");
        assert!(
            index.iter().all(|&row| (row as usize) < gates.rows),
            "index into {} rows",
            gates.rows
        );
        let sources = gates
            .directions
            .each_ref()
            .map(|table| Source::Table(table.as_slice(), index));
        self.run_sources(sources, lengths, index.len(), with_output)
    }

    fn run_sources(
        &self,
        sources: [Source<'_>; 2],
        lengths: &[usize],
        rows: usize,
        with_output: bool,
    ) -> BiLstmOutput {
        let states = lengths.len() * self.hidden;
        let outputs = if with_output {
            rows * 2 * self.hidden
        } else {
            0
        };
        let mut out = BiLstmOutput {
            output: vec![0.0; outputs],
            hidden: vec![0.0; 2 * states],
            cell: vec![0.0; 2 * states],
        };
        let output = out.output.as_mut_ptr();
        let mut states_of = out
            .hidden
            .chunks_mut(states.max(1))
            .zip(out.cell.chunks_mut(states.max(1)));
        let sinks = std::array::from_fn::<_, 2, _>(|d| {
            let (hidden, cell) = states_of.next().map_or(
                (std::ptr::null_mut(), std::ptr::null_mut()),
                |(hidden, cell)| (hidden.as_mut_ptr(), cell.as_mut_ptr()),
            );
            Sink {
                output: if with_output {
                    output.wrapping_add(d * self.hidden)
                } else {
                    std::ptr::null_mut()
                },
                stride: 2 * self.hidden,
                hidden,
                cell,
            }
        });
        let sequences = sort(lengths);
        let tasks: Vec<(usize, Range<usize>)> = groups(sequences.len())
            .flat_map(|group| [(0, group.clone()), (1, group)])
            .collect();
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(d, group)| {
                run_group(&self.directions[d], &sequences[group], sources[d], sinks[d]);
            });
        out
    }
}

fn run_group(direction: &Direction, group: &[Sequence], source: Source<'_>, sink: Sink) {
    // SAFETY: the sink's arrays have room for all rows and all sequences; groups share no sequence, so no rows and no
    // index, and directions share neither columns nor states.
    unsafe { direction.run(group, source, sink) }
}

/// The sequences that have a step, the longest first.
fn sort(lengths: &[usize]) -> Vec<Sequence> {
    let mut first = 0;
    let mut sequences = Vec::with_capacity(lengths.len());
    for (index, &length) in lengths.iter().enumerate() {
        if length > 0 {
            sequences.push(Sequence {
                index,
                first,
                length,
            });
        }
        first += length;
    }
    sequences.sort_by_key(|sequence| std::cmp::Reverse(sequence.length));
    sequences
}

/// Even groups: enough for every thread with both directions, and none too large.
fn groups(sequences: usize) -> impl Iterator<Item = Range<usize>> {
    let wanted = rayon::current_num_threads().div_ceil(2);
    let count = sequences.div_ceil(GROUP).max(wanted).min(sequences).max(1);
    (0..count).map(move |g| sequences * g / count..sequences * (g + 1) / count)
}

/// The layer that other frameworks are compared at: 150 values to 100 states both ways, over this many steps.
const BENCH_STEPS: usize = 40;
const BENCH_SIZE: (usize, usize) = (150, 100);

/// Cases for [`crate::bench::operator_cases`]: the word layer of the sentence segmenter.
pub(crate) fn bench_cases() -> Result<Vec<OperatorCase>> {
    let case = |batch: usize| {
        let (vb, x, lengths) = bench_input(batch)?;
        let lstm = BiLstm::load(&vb, BENCH_SIZE.0, BENCH_SIZE.1)?;
        let run = move || lstm.forward(&x, &lengths).map(drop);
        Ok(bench_case(batch, "f32", Box::new(run)))
    };
    [1, 32, 128].into_iter().map(case).collect()
}

#[cfg(feature = "cuda")]
pub(crate) fn cuda_bench_cases(backend: &crate::Backend) -> Result<Vec<OperatorCase>> {
    let case = |batch: usize| {
        let (vb, x, lengths) = bench_input(batch)?;
        let lstm = CudaBiLstm::load(backend, &vb, BENCH_SIZE.0, BENCH_SIZE.1)?;
        let dtype = lstm.dtype();
        let run = move || lstm.forward(&x, &lengths).map(drop);
        Ok(bench_case(batch, dtype, Box::new(run)))
    };
    [1, 32, 128, 1024].into_iter().map(case).collect()
}

/// Random weights, and a batch of sequences.
fn bench_input(batch: usize) -> Result<(VarBuilder<'static>, Tensor, Vec<usize>)> {
    let values = candle_nn::VarMap::new();
    let vb = VarBuilder::from_varmap(&values, candle_core::DType::F32, &Device::Cpu);
    let shape = (batch * BENCH_STEPS, BENCH_SIZE.0);
    let x = Tensor::randn(0.0_f32, 1.0, shape, &Device::Cpu)?;
    Ok((vb, x, vec![BENCH_STEPS; batch]))
}

fn bench_case(
    batch: usize,
    dtype: &'static str,
    run: Box<dyn FnMut() -> Result<()>>,
) -> OperatorCase {
    OperatorCase {
        operator: "bilstm_150_100",
        shape: vec![BENCH_STEPS, BENCH_SIZE.0],
        batch,
        dtype,
        run,
    }
}
