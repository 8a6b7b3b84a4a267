//! A recurrent matrix laid out for the kernel.

use crate::{aligned::Aligned, simd::Level};

/// The columns of a direction's gates, `[block][gate][lane]`: a block is a vector of hidden units.
///
/// Padded column `p` is gate row `gate * hidden + unit` of torch's weights, or nothing.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    lanes: usize,
    hidden: usize,
}

impl Columns {
    pub(super) fn new(level: Level, hidden: usize) -> Self {
        Self {
            lanes: level.lanes(),
            hidden,
        }
    }

    pub(super) fn blocks(self) -> usize {
        self.hidden.div_ceil(self.lanes)
    }

    /// How many columns there are.
    pub(super) fn width(self) -> usize {
        self.blocks() * 4 * self.lanes
    }

    pub(super) fn gate_row(self, column: usize) -> Option<usize> {
        let (block, gate) = (column / (4 * self.lanes), column / self.lanes % 4);
        let unit = block * self.lanes + column % self.lanes;
        (unit < self.hidden).then_some(gate * self.hidden + unit)
    }
}

/// A matrix `[hidden, columns]` in blocks of four vectors, `[block][hidden][4 * lanes]`.
pub(super) struct Recurrent {
    pub(super) level: Level,
    pub(super) hidden: usize,
    pub(super) blocks: usize,
    pub(super) weight: Aligned,
}

impl Recurrent {
    /// Packs torch's `weight_hh`, `[4 * hidden, hidden]`.
    pub(super) fn pack(level: Level, hidden: usize, weight: &[f32]) -> Self {
        let columns = Columns::new(level, hidden);
        let block_width = 4 * level.lanes();
        let mut packed = Aligned::zeros(hidden * columns.width());
        let values = packed.as_mut_slice();
        for column in 0..columns.width() {
            let Some(row) = columns.gate_row(column) else {
                continue;
            };
            let (block, lane) = (column / block_width, column % block_width);
            for (k, weight) in weight[row * hidden..][..hidden].iter().enumerate() {
                values[(block * hidden + k) * block_width + lane] = *weight;
            }
        }
        Self {
            level,
            hidden,
            blocks: columns.blocks(),
            weight: packed,
        }
    }

    /// Values of a row of states, padded to whole vectors.
    pub(super) fn units(&self) -> usize {
        self.blocks * self.level.lanes()
    }
}
