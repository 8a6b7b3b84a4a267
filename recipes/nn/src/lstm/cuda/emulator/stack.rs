//! The kernels of `lstm_stack.cu`, and the products between them.

use super::{Call, Memory};
use crate::{
    cuda::{Element, Matrix, Product, Span},
    ops::Onto,
};

/// A unit's step.
fn advance(gates: [f32; 4], cell: &mut f32) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let [i, f, g, o] = gates;
    *cell = sigmoid(f) * *cell + sigmoid(i) * g.tanh();
    sigmoid(o) * cell.tanh()
}

impl Memory<'_> {
    pub(super) fn multiply(&mut self, product: &Product) {
        let [rows, columns, depth] = product.sizes;
        let Product { a, b, c, .. } = product;
        assert_eq!(product.onto, Onto::Write);
        let place = |matrix: &Matrix, row: usize, column: usize| match matrix.turned {
            true => column * matrix.pitch + row,
            false => row * matrix.pitch + column,
        };
        let read = |matrix: &Matrix| matrix.element.read(self.bytes(matrix.span));
        let (left, right) = (read(a), read(b));
        let bias = product.bias.map(|bias| c.element.read(self.bytes(bias)));
        for row in 0..rows {
            for column in 0..columns {
                let mut sum = bias.as_ref().map_or(0.0, |bias| bias[column]);
                for k in 0..depth {
                    sum += left[place(a, row, k)] * right[place(b, k, column)];
                }
                self.put_value(c.span, c.element, row * c.pitch + column, sum);
            }
        }
    }
}

impl Call<'_, '_> {
    pub(super) fn unset(&mut self) {
        self.arguments(2);
        let (to, vectors) = (self.span(0), self.int(1));
        self.expect_grid([vectors.div_ceil(256), 1], 256, 0);
        assert_eq!(to.bytes.div_ceil(16), vectors);
        for byte in 0..to.bytes {
            self.memory.put(to, byte, &[0xff]);
        }
    }

    pub(super) fn last(&mut self, element: Element) {
        self.arguments(5);
        let (y, lengths, to) = (self.span(0), self.span(1), self.span(2));
        let (sequences, width) = (self.int(3), self.int(4));
        self.expect_grid([(sequences * width).div_ceil(256), 1], 256, 0);
        for (sequence, column) in (0..sequences).flat_map(|s| (0..width).map(move |i| (s, i))) {
            let value = match self.memory.number(lengths, sequence) as usize {
                0 => 0.0,
                length => {
                    let row = (length - 1) * sequences + sequence;
                    self.memory.value(y, element, row * width + column)
                }
            };
            let place = sequence * width + column;
            self.memory.put_value(to, element, place, value);
        }
    }

    pub(super) fn advance(&mut self, element: Element) {
        self.arguments(12);
        let (product, gates, bias) = (self.maybe(0), self.span(1), self.span(2));
        let (cells, states, y) = (self.span(3), self.span(4), self.span(5));
        let (lengths, step, backward) = (self.span(6), self.int(7), self.int(8));
        let (sequences, hidden, pitch) = (self.int(9), self.int(10), self.int(11));
        self.expect_grid([(sequences * hidden).div_ceil(256), 1], 256, 0);
        assert_eq!(product.is_none(), step == 0);
        let memory = &mut *self.memory;
        for (sequence, unit) in (0..sequences).flat_map(|s| (0..hidden).map(move |u| (s, u))) {
            let length = memory.number(lengths, sequence) as usize;
            if step >= length {
                continue;
            }
            let time = if backward == 1 {
                length - 1 - step
            } else {
                step
            };
            let (row, place) = (time * sequences + sequence, sequence * hidden + unit);
            let sums = [0, 1, 2, 3].map(|gate| {
                let of = |span, place: usize| memory.value(span, Element::F32, 4 * place + gate);
                of(gates, row * hidden + unit)
                    + of(bias, unit)
                    + product.map_or(0.0, |product| of(product, place))
            });
            let mut cell = match step {
                0 => 0.0,
                _ => memory.value(cells, Element::F32, place),
            };
            let h = advance(sums, &mut cell);
            memory.put_value(cells, Element::F32, place, cell);
            memory.put_value(states, element, place, h);
            memory.put_value(y, element, row * pitch + backward * hidden + unit, h);
        }
    }

    /// The recurrence of some streams, one after the other.
    pub(super) fn wave(&mut self) {
        self.arguments(20);
        assert!(self.launch.together, "blocks wait for each other");
        let numbers = self.launch.kernel.strip_prefix("lstm_wave_f16_m");
        let (tiles, groups) = numbers
            .and_then(|numbers| numbers.split_once("_g"))
            .unwrap_or_else(|| panic!("there is no kernel {}", self.launch.kernel));
        let number = |text: &str| text.parse::<usize>().expect("a kernel's name has numbers");
        let (tiles, groups) = (number(tiles), number(groups));
        assert!((1..=2).contains(&tiles) && (1..=3).contains(&groups));
        let (recurrent, bias, cells, lengths) =
            (self.span(0), self.span(1), self.span(2), self.span(3));
        let numbers: [usize; 8] = std::array::from_fn(|i| self.int(12 + i));
        let [first, wave, turn, both, from, sequences, hidden, pitch] = numbers;
        let depth = hidden.next_multiple_of(256);
        let blocks = hidden.div_ceil(8 * groups);
        let streams = self.launch.grid.blocks[1];
        let shared = 64 * groups * depth + 16_384 * tiles;
        self.expect_grid([blocks, streams], 256, shared);
        assert!(hidden.is_multiple_of(8) && pitch.is_multiple_of(8) && shared <= 227 << 10);
        let each = blocks * groups * 32 * depth;
        let packed = Element::F16.read(self.memory.bytes(recurrent));
        for stream in first..first + streams {
            let matrix = unpack(&packed[stream * each..][..each], hidden, groups);
            let (gates, y) = (self.span(4 + stream), self.span(8 + stream));
            let begin = if both == 1 { 0 } else { (wave - stream) * turn };
            for sequence in from..sequences.min(from + 16 * tiles) {
                let length = self.memory.number(lengths, sequence) as usize;
                let steps = begin..(begin + turn).min(length);
                let row = |step: usize| {
                    let backwards = both == 1 && stream == 1;
                    let time = if backwards { length - 1 - step } else { step };
                    time * sequences + sequence
                };
                let state = |step| row(step) * pitch + both * stream * hidden;
                let kept = (stream * sequences + sequence) * hidden;
                let memory = &mut *self.memory;
                for step in steps {
                    let before: Vec<f32> = match step {
                        0 => vec![0.0; hidden],
                        _ => (0..hidden)
                            .map(|unit| memory.value(y, Element::F16, state(step - 1) + unit))
                            .collect(),
                    };
                    for unit in 0..hidden {
                        let sums = [0, 1, 2, 3].map(|gate| {
                            let row = (row(step) - begin * sequences) * hidden + unit;
                            let weights = &matrix[(4 * unit + gate) * hidden..][..hidden];
                            let product = weights.iter().zip(&before).map(|(w, h)| w * h);
                            memory.value(gates, Element::F16, 4 * row + gate)
                                + memory.value(
                                    bias,
                                    Element::F32,
                                    4 * (stream * hidden + unit) + gate,
                                )
                                + product.sum::<f32>()
                        });
                        let mut cell = match step {
                            0 => 0.0,
                            _ => memory.value(cells, Element::F32, kept + unit),
                        };
                        let h = advance(sums, &mut cell);
                        memory.put_value(cells, Element::F32, kept + unit, cell);
                        expect_unset(memory, y, state(step) + unit);
                        memory.put_value(y, Element::F16, state(step) + unit, h);
                    }
                }
            }
        }
    }
}

/// Whoever reads a state waits for it to be set.
fn expect_unset(memory: &Memory<'_>, y: Span, place: usize) {
    let bits: [u8; 2] = memory.word(y, place);
    assert_eq!(bits, [0xff; 2], "a state is there before its step");
}

/// Weights `[hidden, 4, hidden]` from fragments, which are found as the head says.
fn unpack(packed: &[f32], hidden: usize, groups: usize) -> Vec<f32> {
    let mut matrix = vec![f32::NAN; 4 * hidden * hidden];
    let pieces = hidden.next_multiple_of(256) / 32;
    for (i, value) in packed.iter().enumerate() {
        let (l, rest) = (i / 8 % 32, i / 256);
        let (tile, rest) = (rest % (4 * groups), rest / (4 * groups));
        let (piece, block) = (rest % pieces, rest / pieces);
        let unit = 8 * (groups * block + tile / 4) + 4 * (l / 4 % 2) + l / 8;
        let column = 32 * piece + 8 * (l % 4) + i % 8;
        if unit < hidden && column < hidden {
            matrix[(4 * unit + tile % 4) * hidden + column] = *value;
        } else {
            assert_eq!(*value, 0.0);
        }
    }
    matrix
}
