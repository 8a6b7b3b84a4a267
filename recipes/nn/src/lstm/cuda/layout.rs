//! An LSTM's weights in the order in which the kernels read them; the heads of `lstm*.cu` state it.

use super::super::weights::DirectionWeights;

/// Gates of a unit.
pub(super) const GATES: usize = 4;
/// Ways through a sequence.
pub(super) const DIRECTIONS: usize = 2;
/// Units of a direction come in multiples of this; there are zeros for those that the layer has not.
const WARP_UNITS: usize = 8;
/// The side of a tile of recurrent weights, and what inputs in f16 come in multiples of.
pub(super) const TILE: usize = 16;
/// Parts of an input row begin at multiples of this: every eighth value of f16 is aligned to 16 bytes.
const PART: usize = 8;

/// Units of a direction, with those that are zeros.
pub(super) fn padded(hidden: usize) -> usize {
    hidden.next_multiple_of(WARP_UNITS)
}

/// Values of a row of gates.
pub(super) fn columns(hidden: usize) -> usize {
    DIRECTIONS * padded(hidden) * GATES
}

/// What stands in each place of an input row of several parts that are aligned: a value of the row without gaps, or
/// nothing.
pub(super) fn places(parts: &[usize]) -> Vec<Option<usize>> {
    let mut places = Vec::new();
    let mut next = 0;
    for part in parts {
        places.resize(places.len().next_multiple_of(PART), None);
        places.extend((next..next + part).map(Some));
        next += part;
    }
    places
}

/// The direction of a column of the table of gates, and its row in torch's weights, if its unit exists.
fn gate_row(hidden: usize, column: usize) -> (usize, Option<usize>) {
    let (place, gate) = (column / GATES, column % GATES);
    let (direction, unit) = (place / padded(hidden), place % padded(hidden));
    (direction, (unit < hidden).then_some(gate * hidden + unit))
}

/// The input's weights `[columns, places]`, where `places` says which input stands where.
pub(super) fn projection(
    weights: &[DirectionWeights; DIRECTIONS],
    hidden: usize,
    places: &[Option<usize>],
) -> Vec<f32> {
    let inputs = places.iter().flatten().count();
    let row = |column| match gate_row(hidden, column) {
        (direction, Some(row)) => Some(&weights[direction].input[row * inputs..][..inputs]),
        (_, None) => None,
    };
    (0..columns(hidden))
        .map(row)
        .flat_map(|row| {
            let value = move |place: &Option<usize>| match (row, place) {
                (Some(row), Some(input)) => row[*input],
                _ => 0.0,
            };
            places.iter().map(value)
        })
        .collect()
}

/// The biases `[columns]`.
pub(super) fn bias(weights: &[DirectionWeights; DIRECTIONS], hidden: usize) -> Vec<f32> {
    let value = |column| match gate_row(hidden, column) {
        (direction, Some(row)) => weights[direction].bias[row],
        (_, None) => 0.0,
    };
    (0..columns(hidden)).map(value).collect()
}

/// The recurrent weights as the fragments that threads give to tensor cores, `[2, units / 8, 2, k_tiles, 32, 8]`.
pub(super) fn fragments(
    weights: &[DirectionWeights; DIRECTIONS],
    hidden: usize,
    k_tiles: usize,
) -> Vec<f32> {
    const LANES: usize = 32;
    let blocks = padded(hidden) / WARP_UNITS;
    let mut values = Vec::with_capacity(DIRECTIONS * blocks * 2 * k_tiles * LANES * 8);
    for direction in weights {
        for (block, part, tile, lane) in nested([blocks, 2, k_tiles, LANES]) {
            let unit = WARP_UNITS * block + lane / 4;
            for half in 0..8 {
                let (register, odd) = (half / 2, half % 2);
                let gate = 2 * part + register % 2;
                let column = TILE * tile + 8 * (register / 2) + lane % 4 * 2 + odd;
                values.push(recurrent(direction, hidden, (gate, unit), column));
            }
        }
    }
    values
}

/// The recurrent weights for CUDA cores, `[2, units / 4, units, 4, gates]`.
pub(super) fn plain(weights: &[DirectionWeights; DIRECTIONS], hidden: usize) -> Vec<f32> {
    let units = padded(hidden);
    let mut values = Vec::with_capacity(DIRECTIONS * units * units * GATES);
    for direction in weights {
        for (quarter, unit, column, gate) in nested([units / 4, units, 4, GATES]) {
            values.push(recurrent(
                direction,
                hidden,
                (gate, unit),
                4 * quarter + column,
            ));
        }
    }
    values
}

/// The weight from a state's column to a gate of a unit; zero if either does not exist.
fn recurrent(
    weights: &DirectionWeights,
    hidden: usize,
    (gate, unit): (usize, usize),
    column: usize,
) -> f32 {
    if unit < hidden && column < hidden {
        weights.recurrent[(gate * hidden + unit) * hidden + column]
    } else {
        0.0
    }
}

/// All places of four nested loops, the last of them the innermost.
fn nested([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / (d * c * b), i / (d * c) % b, i / d % c, i % d))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights of which each says where it belongs: `1000 * row + column`, and below 0 in the backward direction.
    fn weights(input: usize, hidden: usize) -> [DirectionWeights; DIRECTIONS] {
        let named = |sign: f32, columns: usize| {
            let value = move |i: usize| sign * (1000 * (1 + i / columns) + 1 + i % columns) as f32;
            (0..4 * hidden * columns).map(value).collect()
        };
        [1.0, -1.0].map(|sign| DirectionWeights {
            input: named(sign, input),
            recurrent: named(sign, hidden),
            bias: named(sign, 1),
        })
    }

    fn name(direction: usize, row: usize, column: usize) -> f32 {
        let name = (1000 * (1 + row) + 1 + column) as f32;
        if direction == 0 { name } else { -name }
    }

    #[test]
    fn fragments_lie_as_the_tensor_cores_read_a_16_by_16_matrix() {
        for (hidden, k_tiles) in [(25, 2), (32, 2), (60, 4), (100, 7), (128, 8), (1, 2)] {
            let units = padded(hidden);
            let packed = fragments(&weights(3, hidden), hidden, k_tiles);
            assert_eq!(packed.len(), 2 * units / 8 * 2 * k_tiles * 32 * 8);
            let mut seen = 0;
            for direction in 0..2 {
                for block in 0..units / 8 {
                    for part in 0..2 {
                        for tile in 0..k_tiles {
                            let start = (((direction * (units / 8) + block) * 2 + part) * k_tiles
                                + tile)
                                * 256;
                            // PTX's table for mma.m16n8k16: where each row and column of A is found.
                            for row in 0..16 {
                                for column in 0..16 {
                                    let lane = row % 8 * 4 + column % 8 / 2;
                                    let register = row / 8 + column / 8 * 2;
                                    let got = packed[start + lane * 8 + register * 2 + column % 2];
                                    // The upper eight rows are one gate of the block's units, the lower the next.
                                    let (gate, unit) = (2 * part + row / 8, 8 * block + row % 8);
                                    let state = 16 * tile + column;
                                    let there = unit < hidden && state < hidden;
                                    let want = if there {
                                        seen += 1;
                                        name(direction, gate * hidden + unit, state)
                                    } else {
                                        0.0
                                    };
                                    assert_eq!(got, want, "{hidden} units");
                                }
                            }
                        }
                    }
                }
            }
            assert_eq!(seen, 2 * 4 * hidden * hidden, "every weight is somewhere");
        }
    }

    #[test]
    fn plain_weights_have_four_columns_of_a_unit_side_by_side() {
        let hidden = 11;
        let units = padded(hidden);
        let packed = plain(&weights(3, hidden), hidden);
        assert_eq!(packed.len(), 2 * units * units * 4);
        let at = |d: usize, column: usize, unit: usize, gate: usize| {
            packed[(((d * units / 4 + column / 4) * units + unit) * 4 + column % 4) * 4 + gate]
        };
        for d in 0..2 {
            for (gate, unit, column) in [(0, 0, 0), (3, 10, 10), (1, 7, 5), (2, 8, 6)] {
                assert_eq!(
                    at(d, column, unit, gate),
                    name(d, gate * hidden + unit, column)
                );
            }
            assert_eq!(at(d, 11, 0, 0), 0.0);
            assert_eq!(at(d, 0, 11, 0), 0.0);
        }
    }

    #[test]
    fn the_inputs_weights_follow_the_table_of_gates_and_the_gaps_of_the_input() {
        let (input, hidden) = (5, 10);
        let places = places(&[3, 2]);
        let expected = [0, 1, 2].map(Some).into_iter().chain([None; 5]);
        assert_eq!(
            places,
            expected.chain([Some(3), Some(4)]).collect::<Vec<_>>()
        );
        let weights = weights(input, hidden);
        let (matrix, bias) = (
            projection(&weights, hidden, &places),
            bias(&weights, hidden),
        );
        assert_eq!((matrix.len(), bias.len()), (2 * 16 * 4 * 10, 2 * 16 * 4));
        for (direction, unit, gate) in [(0, 0, 0), (1, 9, 3), (1, 10, 1), (0, 15, 2), (0, 7, 1)] {
            let column = (direction * 16 + unit) * 4 + gate;
            let row = gate * hidden + unit;
            let there = unit < hidden;
            assert_eq!(
                bias[column],
                if there { name(direction, row, 0) } else { 0.0 }
            );
            for (place, input) in places.iter().enumerate() {
                let want = match input {
                    Some(input) if there => name(direction, row, *input),
                    _ => 0.0,
                };
                assert_eq!(matrix[column * 10 + place], want);
            }
        }
    }
}
