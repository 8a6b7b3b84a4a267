//! A direction's weights in the order in which `lstm_stack.cu` reads them; its head states it.

use super::GATES;
use crate::lstm::weights::DirectionWeights;

/// Units of a group, whose four gates are four tiles of columns.
pub(super) const UNITS: usize = 8;
/// Columns of a piece of the depth.
const PIECE: usize = 32;
/// What the depth is a multiple of: a piece for each warp.
const DEPTH: usize = 8 * PIECE;
const LANES: usize = 32;
/// Values of a lane's access.
const VALUES: usize = 8;

/// Values that a state is multiplied with, with those that are zeros.
pub(super) fn depth(hidden: usize) -> usize {
    hidden.next_multiple_of(DEPTH)
}

/// From torch's gates one after the other, `[4 * hidden, columns]`, to those of a unit side by side, `[hidden, 4, columns]`.
pub(super) fn by_units(rows: &[f32], hidden: usize) -> Vec<f32> {
    let columns = rows.len() / (GATES * hidden);
    let places = (0..hidden).flat_map(|unit| (0..GATES).map(move |gate| gate * hidden + unit));
    places
        .flat_map(|row| &rows[row * columns..][..columns])
        .copied()
        .collect()
}

/// The recurrent weights of `lstm_wave_f16_mM_gG`, for blocks of so many groups.
pub(super) fn fragments(weights: &DirectionWeights, hidden: usize, groups: usize) -> Vec<f32> {
    let value = |unit: usize, gate: usize, column: usize| {
        let there = unit < hidden && column < hidden;
        let place = (gate * hidden + unit) * hidden + column;
        if there { weights.recurrent[place] } else { 0.0 }
    };
    let blocks = hidden.div_ceil(UNITS * groups);
    let mut all = Vec::with_capacity(blocks * groups * UNITS * GATES * depth(hidden));
    for block in 0..blocks {
        for piece in 0..depth(hidden) / PIECE {
            for tile in 0..groups * GATES {
                for lane in 0..LANES {
                    let group = block * groups + tile / GATES;
                    let unit = UNITS * group + 4 * (lane / 4 % 2) + lane / 8;
                    let column = PIECE * piece + VALUES * (lane % 4);
                    all.extend((0..VALUES).map(|i| value(unit, tile % GATES, column + i)));
                }
            }
        }
    }
    all
}
