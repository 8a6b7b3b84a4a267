//! What follows the tagger's LSTM: scores of each row's tags, and the best path through each sequence's.

use candle_core::{Result, bail};
use candle_nn::VarBuilder;

use super::{Rows, Sequences};
use crate::{
    cuda::{Element, Grid, Program, Source, Span, Target, Weights},
    host,
};

/// Tags that the kernels have room for.
const MOST_TAGS: usize = 16;
/// Shared memory that a block may have.
const MOST_SHARED: usize = 227 << 10;
/// What inputs in f16 come in multiples of, and units.
const DEPTH: usize = 32;
const UNITS: usize = 8;

/// How many there are of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) inputs: usize,
    /// Of the dense layer, as the matrices have them.
    pub(super) units: usize,
    pub(super) tags: usize,
}

/// A dense layer, the layer that gives the scores, and a conditional random field.
#[derive(Debug)]
pub(super) struct Crf {
    element: Element,
    sizes: Sizes,
    dense: Span,
    dense_bias: Span,
    weight: Span,
    bias: Span,
    start: Span,
    end: Span,
    transitions: Span,
}

impl Crf {
    /// Reads `dense` and `emission` with `weight` and `bias` each, and `crf` with `start`, `end` and `transitions`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or there is more of something than the kernels take.
    pub(super) fn load(weights: &mut Weights, vb: &VarBuilder<'_>, sizes: Sizes) -> Result<Self> {
        let Sizes {
            inputs,
            units,
            tags,
        } = sizes;
        if !(1..=MOST_TAGS).contains(&tags) {
            bail!("tagger on CUDA: expected 1 to {MOST_TAGS} tags, got {tags}")
        }
        let get = |layer: &str, name: &str, shape: &[usize]| {
            host::to_vec(&vb.pp(layer).get(shape, name)?)
        };
        let dense = get("dense", "weight", &[units, inputs])?;
        let mut dense_bias = get("dense", "bias", &[units])?;
        let weight = get("emission", "weight", &[tags, units])?;
        let element = weights.element();
        let sizes = match element {
            Element::F16 => Sizes {
                units: units.next_multiple_of(UNITS),
                ..sizes
            },
            Element::F32 => sizes,
        };
        if sizes.shared(element) > MOST_SHARED {
            bail!("tagger on CUDA: expected layers that shared memory has room for, got {sizes:?}")
        }
        dense_bias.resize(sizes.units, 0.0);
        let dense = match element {
            Element::F16 => {
                let width = inputs.next_multiple_of(DEPTH);
                weights.halves(&spread(&dense, (units, inputs), (sizes.units, width)))
            }
            Element::F32 => weights.floats(&transpose(&dense, (units, inputs))),
        };
        Ok(Self {
            element,
            sizes,
            dense,
            dense_bias: weights.floats(&dense_bias),
            weight: weights.floats(&spread(&weight, (tags, units), (tags, sizes.units))),
            bias: weights.floats(&get("emission", "bias", &[tags])?),
            start: weights.floats(&get("crf", "start", &[tags])?),
            end: weights.floats(&get("crf", "end", &[tags])?),
            transitions: weights.floats(&get("crf", "transitions", &[tags, tags])?),
        })
    }

    /// Scores rows of `x`, `[rows, tags]` in f32.
    ///
    /// # Errors
    /// There are more rows than a launch takes.
    pub(super) fn score(
        &self,
        program: &mut Program,
        target: Target,
        x: Rows,
        rows: usize,
        scores: Span,
    ) -> Result<()> {
        let (kernel, blocks, threads) = match self.element {
            // Blocks stride over tiles of 64 rows; two of them fill a multiprocessor.
            Element::F16 => (
                "crf_emissions_f16",
                rows.div_ceil(64).min(2 * target.processors),
                256,
            ),
            Element::F32 => ("crf_emissions_f32_plain", rows.div_ceil(16), 128),
        };
        let grid = Grid {
            shared: self.sizes.shared(self.element) as u32,
            ..Grid::row(blocks, threads)
        };
        // SAFETY: the arguments of `crf_emissions_T`; `x` has rows of the stride, and `scores` room for all rows.
        unsafe {
            program.push(
                (Source::Crf, kernel),
                grid,
                [
                    x.span.read(),
                    self.dense.read(),
                    self.dense_bias.read(),
                    self.weight.read(),
                    self.bias.read(),
                    scores.write(),
                    rows.into(),
                    self.sizes.inputs.into(),
                    x.stride.into(),
                    self.sizes.units.into(),
                    self.sizes.tags.into(),
                ],
            )
        }
    }

    /// Finds the best tags of each row, bytes, from scores; `back` has 8 bytes for each row.
    ///
    /// # Errors
    /// There are more sequences than a launch takes.
    pub(super) fn decode(
        &self,
        program: &mut Program,
        scores: Span,
        sequences: Sequences,
        back: Span,
        tags: Span,
    ) -> Result<()> {
        const WARPS: usize = 4;
        // SAFETY: the arguments of `crf_viterbi_f32`; the host has checked that the sequences' rows exist.
        unsafe {
            program.push(
                (Source::Crf, "crf_viterbi_f32"),
                Grid::row(sequences.count.div_ceil(WARPS), 128),
                [
                    scores.read(),
                    sequences.span.read(),
                    self.start.read(),
                    self.end.read(),
                    self.transitions.read(),
                    back.write(),
                    tags.write(),
                    sequences.count.into(),
                    self.sizes.tags.into(),
                ],
            )
        }
    }
}

impl Sizes {
    /// Bytes of dynamic shared memory that the scores' kernel wants.
    fn shared(self, element: Element) -> usize {
        let Self {
            inputs,
            units,
            tags,
        } = self;
        match element {
            Element::F16 => {
                let pitch = inputs.next_multiple_of(DEPTH) + 8;
                (units + 64) * pitch * 2 + 4 * tags * (units + 256)
            }
            Element::F32 => 64 * (inputs + units + 2),
        }
    }
}

/// A matrix within a larger one of zeros, both by their rows and columns.
fn spread(values: &[f32], (rows, columns): (usize, usize), to: (usize, usize)) -> Vec<f32> {
    let mut larger = vec![0.0; to.0 * to.1];
    for row in 0..rows {
        larger[row * to.1..][..columns].copy_from_slice(&values[row * columns..][..columns]);
    }
    larger
}

fn transpose(values: &[f32], (rows, columns): (usize, usize)) -> Vec<f32> {
    let value = |i| values[i % rows * columns + i / rows];
    (0..rows * columns).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_spread_and_transposed() {
        let matrix = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let want = [1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(spread(&matrix, (3, 2), (4, 3)), want);
        assert_eq!(transpose(&matrix, (2, 3)), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
