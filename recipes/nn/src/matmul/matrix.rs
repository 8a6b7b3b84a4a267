//! A product's right side, as the kernel reads it.

use std::{fmt, sync::Arc};

use candle_core::{Result, Tensor};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::{Gates, kernel};
use crate::{
    aligned::Aligned,
    host,
    simd::{Level, Precision},
};

/// Outputs in a panel: two of the longest vectors.
pub(crate) const PANEL: usize = 32;
/// Rows of a task come in multiples of this where they can, to fill the highest tile.
const TILE_ROWS: usize = 12;

/// A weight `[inputs, outputs]`, packed for the kernel. Clones share it.
#[derive(Clone)]
pub(crate) struct Matrix {
    /// `[panels, strips, words, strip]`, with zeros where the last panel is not full. A word holds one f32, or two bf16 of
    /// neighbouring inputs.
    panels: Arc<Aligned>,
    /// Columns of a strip: those of a tile, so that a tile reads its weights without gaps. Lines that are left out still
    /// take up the nearest cache's sets, and cost a fifth of the speed.
    strip: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) precision: Precision,
}

impl Matrix {
    /// From a weight `[outputs, inputs]` on the CPU, as state dicts have it.
    ///
    /// # Errors
    /// It is no f32 matrix on the CPU.
    pub(crate) fn new(weight: &Tensor, precision: Precision) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        host::with(&weight.contiguous()?, |weight| {
            Ok(Self::pack((inputs, outputs), precision, weight, Some))
        })
    }

    /// From rows of `inputs` weights: output `i` is that of row `row(i)`, or zero.
    pub(crate) fn pack(
        (inputs, outputs): (usize, usize),
        precision: Precision,
        weight: &[f32],
        row: impl Fn(usize) -> Option<usize> + Sync,
    ) -> Self {
        let words = precision.words(inputs);
        let strip = 2 * Level::detect().lanes();
        let mut panels = Aligned::zeros(outputs.div_ceil(PANEL) * words * PANEL);
        panels
            .as_mut_slice()
            .par_chunks_mut((words * PANEL).max(1))
            .enumerate()
            .for_each(|(panel, values)| {
                for lane in 0..PANEL.min(outputs - panel * PANEL) {
                    let Some(row) = row(panel * PANEL + lane) else {
                        continue;
                    };
                    let weight = &weight[row * inputs..][..inputs];
                    let values = &mut values[lane / strip * words * strip..];
                    for (word, values) in values.chunks_exact_mut(strip).take(words).enumerate() {
                        values[lane % strip] = precision.word(weight, word);
                    }
                }
            });
        Self {
            panels: Arc::new(panels),
            strip,
            inputs,
            outputs,
            precision,
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

    /// Whether its products run on tile registers.
    pub(super) fn on_tiles(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return tiles::take(self.precision.kind(), self.inputs);
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// The rows of which a task should have a multiple.
    pub(super) fn row_unit(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.on_tiles() {
            return tiles::ROWS;
        }
        TILE_ROWS
    }

    /// What it computes in.
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// Words of a row that it takes.
    pub(crate) fn words(&self) -> usize {
        self.precision.words(self.inputs)
    }

    /// The weights of a panel, `[strips, words, strip]`.
    pub(crate) fn panel(&self, panel: usize) -> &[f32] {
        let len = self.words() * PANEL;
        &self.panels.as_slice()[panel * len..][..len]
    }

    /// A column's weights and those behind it, up to the end of its panel: the next words' are [`Self::strip`] further on.
    pub(crate) fn column(&self, column: usize) -> &[f32] {
        let strip = column % PANEL / self.strip;
        &self.panel(column / PANEL)[strip * self.words() * self.strip + column % self.strip..]
    }

    /// Columns that lie side by side.
    pub(crate) fn strip(&self) -> usize {
        self.strip
    }

    /// Rows of values as rows of words, made in `memory` on rayon's pool if they are not the same.
    pub(crate) fn as_words<'a>(
        &self,
        level: Level,
        x: &'a [f32],
        memory: &'a mut Aligned,
    ) -> &'a [f32] {
        if self.precision == Precision::F32 {
            return x;
        }
        self.pack_rows(level, x, None, memory)
    }

    /// Rows of values, gated, as rows of words in `memory`, made on rayon's pool.
    pub(super) fn pack_rows<'a>(
        &self,
        level: Level,
        x: &[f32],
        gates: Option<Gates<'_>>,
        memory: &'a mut Aligned,
    ) -> &'a [f32] {
        let (inputs, words) = (self.inputs.max(1), self.words());
        let packed = memory.at_least(x.len() / inputs * words);
        packed
            .par_chunks_mut((TILE_ROWS * words).max(1))
            .zip(x.par_chunks(TILE_ROWS * inputs))
            .enumerate()
            .for_each(|(chunk, (packed, x))| {
                let first = chunk * TILE_ROWS;
                let gates = gates.map(|gates| kernel::RowGates { gates, first });
                // SAFETY: the level is the processor's, a chunk has room for its rows' words, and who has gates has
                // them for all rows.
                unsafe { kernel::pack_rows(level, self.precision, x, inputs, gates, packed) };
            });
        packed
    }
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            inputs,
            outputs,
            precision,
            ..
        } = self;
        write!(f, "Matrix[{inputs}, {outputs}; {precision:?}]")
    }
}
