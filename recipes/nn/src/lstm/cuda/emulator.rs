//! What the kernels of `lstm*.cu` and, in files of their own, `crf.cu` and `lstm_stack.cu` do, on the host: from their heads, value
//! by value.
//!
//! It runs a program as it would be launched, from the packed weights and with the arguments that the kernels get, and holds
//! these against what the heads demand: sizes of blocks and grids, shared memory, and that nobody leaves his span. It is compiled
//! for tests alone, and what is wrong in a program panics here.

mod crf;
mod stack;

use half::f16;

use crate::cuda::{Argument, Element, Grid, Launch, Place, Program, Span, Work};

/// Device memory.
pub(super) struct Memory<'a> {
    pub(super) weights: &'a [u8],
    pub(super) pass: Vec<u8>,
}

impl Memory<'_> {
    /// Runs a program.
    ///
    /// # Panics
    /// A launch is not what its kernel's head demands.
    pub(super) fn run(&mut self, program: &Program) {
        for work in program.work() {
            let launch = match work {
                Work::Launch(launch) => launch,
                Work::Product(product) => {
                    self.multiply(product);
                    continue;
                }
                other => panic!("no LSTM has {other:?}"),
            };
            let mut call = Call {
                memory: self,
                launch,
            };
            match launch.kernel.as_str() {
                "gather_rows" => call.gather(),
                "lstm_project_f16" => call.project(Element::F16),
                "lstm_project_f32" => call.project(Element::F32),
                "lstm_f16_plain" => call.recur_plain(Element::F16),
                "lstm_f32_plain" => call.recur_plain(Element::F32),
                "crf_emissions_f16" => call.score(Element::F16),
                "crf_emissions_f32_plain" => call.score(Element::F32),
                "crf_viterbi_f32" => call.decode(),
                "lstm_unset" => call.unset(),
                "lstm_advance_f16" => call.advance(Element::F16),
                "lstm_advance_f32" => call.advance(Element::F32),
                "lstm_last_f16" => call.last(Element::F16),
                "lstm_last_f32" => call.last(Element::F32),
                name if name.starts_with("lstm_wave") => call.wave(),
                name => call.recur_tensor(name),
            }
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        match span.place {
            Place::Weights(at) => &self.weights[at..at + span.bytes],
            Place::Pass(at) => &self.pass[at..at + span.bytes],
        }
    }

    fn value(&self, span: Span, element: Element, index: usize) -> f32 {
        match element {
            Element::F16 => f16::from_le_bytes(self.word(span, index)).to_f32(),
            Element::F32 => f32::from_le_bytes(self.word(span, index)),
        }
    }

    fn number(&self, span: Span, index: usize) -> i32 {
        i32::from_le_bytes(self.word(span, index))
    }

    fn word<const N: usize>(&self, span: Span, index: usize) -> [u8; N] {
        self.bytes(span)[index * N..][..N]
            .try_into()
            .expect("the slice has N bytes")
    }

    fn put(&mut self, span: Span, index: usize, bytes: &[u8]) {
        let Place::Pass(at) = span.place else {
            panic!("a kernel writes weights")
        };
        self.pass[at..at + span.bytes][index * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
    }

    fn put_value(&mut self, span: Span, element: Element, index: usize, value: f32) {
        let mut bytes = [0; 4];
        element.write(&[value], &mut bytes);
        self.put(span, index, &bytes[..element.size()]);
    }
}

/// A launch at work.
struct Call<'a, 'b> {
    memory: &'a mut Memory<'b>,
    launch: &'a Launch,
}

/// What both recurrences know.
struct Recurrence {
    element: Element,
    gates: Span,
    index: Option<Span>,
    sequences: Span,
    out: Option<Span>,
    hidden: Option<Span>,
    cell: Option<Span>,
    count: usize,
    units: usize,
    strides: [usize; 3],
}

impl Call<'_, '_> {
    fn arguments(&self, count: usize) {
        assert_eq!(self.launch.arguments.len(), count, "{}", self.launch.kernel);
    }

    fn span(&self, argument: usize) -> Span {
        self.maybe(argument)
            .expect("a pointer that must not be null")
    }

    fn maybe(&self, argument: usize) -> Option<Span> {
        match self.launch.arguments[argument] {
            Argument::Null => None,
            Argument::Read(span) | Argument::Write(span) => Some(span),
            other => panic!("expected a pointer, got {other:?}"),
        }
    }

    fn int(&self, argument: usize) -> usize {
        match self.launch.arguments[argument] {
            Argument::Word(word) => word as usize,
            other => panic!("expected an int, got {other:?}"),
        }
    }

    fn expect_grid(&self, [x, y]: [usize; 2], threads: usize, shared: usize) {
        let grid = Grid {
            blocks: [x, y, 1],
            threads: threads as u32,
            shared: shared as u32,
        };
        assert_eq!(self.launch.grid, grid, "{}", self.launch.kernel);
    }

    fn gather(&mut self) {
        self.arguments(6);
        let (table, ids, out) = (self.span(0), self.span(1), self.span(2));
        let (rows, vectors, stride) = (self.int(3), self.int(4), self.int(5));
        self.expect_grid([rows.div_ceil(4), 1], 128, 0);
        for row in 0..rows {
            let id = self.memory.number(ids, row) as usize;
            for vector in 0..vectors {
                let bytes: [u8; 16] = self.memory.word(table, id * vectors + vector);
                self.memory.put(out, row * stride + vector, &bytes);
            }
        }
    }

    fn project(&mut self, element: Element) {
        self.arguments(8);
        let (x, weights, bias, gates) = (self.span(0), self.span(1), self.span(2), self.span(3));
        let (rows, inputs, stride) = (self.int(4), self.int(5), self.int(6));
        let columns = self.int(7);
        assert_eq!(columns % 64, 0);
        let padded = match element {
            Element::F16 => {
                let padded = inputs.next_multiple_of(16);
                let blocks = self.launch.grid.blocks[1];
                assert!((1..=rows.div_ceil(64)).contains(&blocks) && stride % 8 == 0);
                self.expect_grid([columns / 64, blocks], 128, 384 * (padded + 8));
                padded
            }
            Element::F32 => {
                self.expect_grid([columns / 64, rows.div_ceil(64)], 256, 0);
                inputs
            }
        };
        assert_eq!(weights.bytes, columns * padded * element.size());
        for row in 0..rows {
            for column in 0..columns {
                let mut sum = self.memory.value(bias, Element::F32, column);
                for input in 0..inputs {
                    sum += self.memory.value(x, element, row * stride + input)
                        * self.memory.value(weights, element, column * padded + input);
                }
                self.memory
                    .put_value(gates, element, row * columns + column, sum);
            }
        }
    }

    /// The recurrence from fragments, which are found as the head says.
    fn recur_tensor(&mut self, name: &str) {
        self.arguments(13);
        let numbers = name
            .strip_prefix("lstm_f16_k")
            .and_then(|name| name.split_once("_g"));
        let (k_tiles, most) = numbers.unwrap_or_else(|| panic!("there is no kernel {name}"));
        let number = |text: &str| text.parse::<usize>().expect("a kernel's name has numbers");
        let (k_tiles, most) = (number(k_tiles), number(most));
        let (group, units) = (self.int(8), self.int(9));
        let least = [2, 4, 7, 8].into_iter().find(|k| 16 * k >= units);
        assert!(least == Some(k_tiles) && [8, 16].contains(&most) && (1..=most).contains(&group));
        let (count, padded) = (self.int(7), units.next_multiple_of(8));
        self.expect_grid([count.div_ceil(group), 2], 4 * padded, 0);
        let mut matrix = vec![f32::NAN; 2 * 4 * units * units];
        let weights = self.memory.bytes(self.span(0));
        let mut halves = Element::F16.read(weights).into_iter();
        for (d, b) in (0..2).flat_map(|d| (0..padded / 8).map(move |b| (d, b))) {
            for (m, k) in (0..2).flat_map(|m| (0..k_tiles).map(move |k| (m, k))) {
                for (l, half) in (0..32).flat_map(|l| (0..8).map(move |half| (l, half))) {
                    let (r, e) = (half / 2, half % 2);
                    let (gate, unit) = (2 * m + r % 2, 8 * b + l / 4);
                    let column = 16 * k + 8 * (r / 2) + l % 4 * 2 + e;
                    let value = halves.next().expect("a fragment has 8 values a lane");
                    if unit < units && column < units {
                        matrix[((d * 4 + gate) * units + unit) * units + column] = value;
                    } else {
                        assert_eq!(value, 0.0);
                    }
                }
            }
        }
        assert!(halves.next().is_none());
        let of = self.recurrence(Element::F16, 9);
        self.recur(&of, &matrix, |h| f16::from_f32(h).to_f32());
    }

    fn recur_plain(&mut self, element: Element) {
        self.arguments(12);
        let (count, units) = (self.int(7), self.int(8));
        let padded = units.next_multiple_of(8);
        assert!(units <= 256);
        self.expect_grid([count.div_ceil(4), 2], 4 * padded, 0);
        let weights = element.read(self.memory.bytes(self.span(0)));
        assert_eq!(weights.len(), 2 * padded * padded * 4);
        let mut matrix = vec![f32::NAN; 2 * 4 * units * units];
        for (i, value) in weights.into_iter().enumerate() {
            let (gate, column) = (i % 4, i / 4 % 4 + i / (16 * padded) % (padded / 4) * 4);
            let (unit, d) = (i / 16 % padded, i / (4 * padded * padded));
            if unit < units && column < units {
                matrix[((d * 4 + gate) * units + unit) * units + column] = value;
            } else {
                assert_eq!(value, 0.0);
            }
        }
        let of = self.recurrence(element, 8);
        self.recur(&of, &matrix, |h| h);
    }

    fn recurrence(&self, element: Element, units: usize) -> Recurrence {
        Recurrence {
            element,
            gates: self.span(1),
            index: self.maybe(2),
            sequences: self.span(3),
            out: self.maybe(4),
            hidden: self.maybe(5),
            cell: self.maybe(6),
            count: self.int(7),
            units: self.int(units),
            strides: [1, 2, 3].map(|i| self.int(units + i)),
        }
    }

    /// With recurrent weights `[2, gates, units, units]`; `keep` rounds a state as it is fed back.
    fn recur(&mut self, of: &Recurrence, matrix: &[f32], keep: fn(f32) -> f32) {
        let memory = &mut *self.memory;
        let padded = of.units.next_multiple_of(8);
        let mut before = usize::MAX;
        for (sequence, d) in (0..of.count).flat_map(|s| [(s, 0), (s, 1)]) {
            let [first, length, place] =
                [0, 1, 2].map(|i| memory.number(of.sequences, 4 * sequence + i));
            let length = length as usize;
            assert!(length <= before, "the longest come first");
            before = length;
            let (mut h, mut c) = (vec![0.0; of.units], vec![0.0; of.units]);
            for step in 0..length {
                let row = first as usize + if d == 0 { step } else { length - 1 - step };
                let source = of
                    .index
                    .map_or(row, |index| memory.number(index, row) as usize);
                let state: Vec<f32> = h.iter().copied().map(keep).collect();
                for unit in 0..of.units {
                    let [i, f, g, o] = [0, 1, 2, 3].map(|gate| {
                        let at = ((source * 2 + d) * padded + unit) * 4 + gate;
                        let weights = &matrix[((d * 4 + gate) * of.units + unit) * of.units..];
                        let product = weights.iter().zip(&state).map(|(w, h)| w * h);
                        memory.value(of.gates, of.element, at) + product.sum::<f32>()
                    });
                    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
                    c[unit] = sigmoid(f) * c[unit] + sigmoid(i) * g.tanh();
                    h[unit] = sigmoid(o) * c[unit].tanh();
                    if let Some(out) = of.out {
                        let at = row * of.strides[0] + d * of.units + unit;
                        memory.put_value(out, of.element, at, h[unit]);
                    }
                }
            }
            if place < 0 {
                continue;
            }
            for unit in 0..of.units {
                let at = d * of.strides[1] + place as usize * of.strides[2] + unit;
                if let Some(hidden) = of.hidden {
                    memory.put_value(hidden, of.element, at, h[unit]);
                }
                if let Some(cell) = of.cell {
                    memory.put_value(cell, Element::F32, at, c[unit]);
                }
            }
        }
    }
}
