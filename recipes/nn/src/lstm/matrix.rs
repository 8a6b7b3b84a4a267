//! A recurrent matrix laid out for the kernel.

use crate::{
    aligned::Aligned,
    simd::{Level, MAX_LEN},
};

/// How many of a block's vectors a tile sums at once: with their weights they fill the registers, of which AVX-512 has
/// twice as many.
pub(super) const fn group(lanes: usize) -> usize {
    if lanes == MAX_LEN { 4 } else { 2 }
}

/// The columns of a direction's gates, `[block][gate][unit]`: a block is a vector of hidden units.
///
/// The last block has the units that are left; its gates lie side by side too, so that they fill fewer vectors and hardly
/// anything is computed for nobody. A column is gate row `gate * hidden + unit` of torch's weights, or nothing.
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

    /// How many columns there are, a multiple of the lanes.
    pub(super) fn width(self) -> usize {
        (4 * self.hidden).next_multiple_of(self.lanes)
    }

    pub(super) fn gate_row(self, column: usize) -> Option<usize> {
        let (block, place) = self.block(column);
        let first = block * self.lanes;
        let units = self.lanes.min(self.hidden - first);
        let (gate, unit) = (place / units, first + place % units);
        (gate < 4).then_some(gate * self.hidden + unit)
    }

    /// A column's block and its place in that.
    fn block(self, column: usize) -> (usize, usize) {
        (column / (4 * self.lanes), column % (4 * self.lanes))
    }

    /// How many columns a block has.
    fn block_width(self, block: usize) -> usize {
        (self.width() - block * 4 * self.lanes).min(4 * self.lanes)
    }
}

/// A matrix `[hidden, columns]` by blocks and their groups of vectors, `[block][group][hidden][columns of the group]`.
pub(super) struct Recurrent {
    pub(super) level: Level,
    pub(super) hidden: usize,
    pub(super) weight: Aligned,
}

impl Recurrent {
    /// Packs torch's `weight_hh`, `[4 * hidden, hidden]`.
    pub(super) fn pack(level: Level, hidden: usize, weight: &[f32]) -> Self {
        let columns = Columns::new(level, hidden);
        let mut packed = Aligned::zeros(hidden * columns.width());
        let values = packed.as_mut_slice();
        for column in 0..columns.width() {
            let Some(row) = columns.gate_row(column) else {
                continue;
            };
            let (block, place) = columns.block(column);
            let group = group(level.lanes()) * level.lanes();
            let first = place / group * group;
            let width = group.min(columns.block_width(block) - first);
            let values = &mut values[(block * 4 * level.lanes() + first) * hidden..];
            for (k, weight) in weight[row * hidden..][..hidden].iter().enumerate() {
                values[k * width + place % group] = *weight;
            }
        }
        Self {
            level,
            hidden,
            weight: packed,
        }
    }

    /// Values of a row of states, padded to whole vectors.
    pub(super) fn units(&self) -> usize {
        self.hidden.next_multiple_of(self.level.lanes())
    }
}
