//! The launches of a pass.

use candle_core::Result;

use super::{FLOAT, GATES, Places, Round, SEQUENCES, Shape, Stack, layout};
use crate::{
    cuda::{Argument, Element, Grid, Matrix, Product, Program, Source, Span, Target},
    ops::Onto,
};

/// Threads of a block.
const THREADS: usize = 256;
/// Sequences of a tile.
const TILE: usize = 16;
/// Bytes of a vector of `lstm_unset`.
const VECTOR: usize = 16;

/// Bytes of shared memory of a block of `lstm_wave`, with so many groups of units and for so many sequences.
pub(super) fn shared(hidden: usize, groups: usize, sequences: usize) -> usize {
    64 * groups * layout::depth(hidden) + 16_384 * sequences.div_ceil(TILE)
}

/// A pass in the making.
pub(super) struct Making<'a> {
    pub(super) stack: &'a Stack,
    pub(super) shape: Shape,
    pub(super) places: &'a Places,
    pub(super) target: Target,
    pub(super) program: Program,
}

impl Making<'_> {
    /// All steps of a round's streams, some streams in each launch.
    ///
    /// # Errors
    /// There are more values than a launch takes.
    pub(super) fn waves(
        &mut self,
        round: &Round,
        groups: usize,
        [from, end]: [Span; 2],
    ) -> Result<()> {
        let config = self.stack.config;
        let streams = round.inputs.len();
        let size = self.target.element.size();
        let turn = self.stack.turn(self.shape);
        // What each stream reads and writes.
        let ys: Vec<Span> = if config.bidirectional {
            vec![end; streams]
        } else {
            (self.places.between[..streams - 1].iter().copied())
                .chain([end])
                .collect()
        };
        let unset = if config.bidirectional {
            &ys[..1]
        } else {
            &ys[..]
        };
        for span in unset {
            self.unset(*span)?;
        }
        let turns = self.shape.steps / turn;
        let waves = if config.bidirectional {
            1
        } else {
            turns + streams - 1
        };
        for wave in 0..waves {
            let (first, active) = if config.bidirectional {
                (0, streams)
            } else {
                let first = (wave + 1).saturating_sub(turns);
                (first, streams.min(wave + 1) - first)
            };
            for stream in first..first + active {
                let x = match stream {
                    0 => from,
                    _ if config.bidirectional => from,
                    _ => ys[stream - 1],
                };
                let rows = turn * self.shape.sequences;
                let begin = if config.bidirectional {
                    0
                } else {
                    (wave - stream) * rows
                };
                let width = x.bytes / (self.shape.steps * self.shape.sequences * size);
                let part = x.part(begin * width * size, rows * width * size);
                let gates = self.places.gates[stream];
                self.gates(
                    (part, width),
                    round.inputs[stream],
                    (gates, self.target.element),
                );
            }
            for start in (0..self.shape.sequences).step_by(SEQUENCES) {
                self.wave(round, groups, [first, active, wave], &ys, start)?;
            }
        }
        Ok(())
    }

    /// The input's part of gates.
    fn gates(&mut self, (x, width): (Span, usize), weight: Span, (gates, to): (Span, Element)) {
        let element = self.target.element;
        let columns = GATES * self.stack.config.hidden;
        self.program.multiply(Product {
            sizes: [x.bytes / (width * element.size()), columns, width],
            a: Matrix::rows(x, element, width),
            b: Matrix::rows(weight, element, width).turned(),
            c: Matrix::rows(gates, to, columns),
            bias: None,
            onto: Onto::Write,
        });
    }

    /// A turn of streams from `first` on, of sequences from `start` on.
    fn wave(
        &mut self,
        round: &Round,
        groups: usize,
        [first, active, wave]: [usize; 3],
        ys: &[Span],
        start: usize,
    ) -> Result<()> {
        let config = self.stack.config;
        let (hidden, sequences) = (config.hidden, self.shape.sequences);
        let together = SEQUENCES.min(sequences - start);
        let grid = Grid {
            blocks: [hidden.div_ceil(layout::UNITS * groups), active, 1],
            threads: THREADS as u32,
            shared: shared(hidden, groups, together) as u32,
        };
        let is_active = |stream: &usize| (first..first + active).contains(stream);
        let gates = (0..super::MOST_STREAMS).map(|stream| {
            Argument::from(
                Some(stream)
                    .filter(is_active)
                    .map(|stream| self.places.gates[stream]),
            )
        });
        let ys = (0..super::MOST_STREAMS).map(|stream| {
            let y = Some(stream).filter(is_active).map(|stream| ys[stream]);
            y.map_or(Argument::Null, Span::write)
        });
        let spans = [
            round.recurrent[0].read(),
            round.bias.read(),
            self.places.cells.write(),
            self.places.lengths.read(),
        ];
        let both = usize::from(config.bidirectional);
        let turn = self.stack.turn(self.shape);
        let numbers = [
            first,
            wave,
            turn,
            both,
            start,
            sequences,
            hidden,
            config.outputs(),
        ];
        let arguments =
            (spans.into_iter().chain(gates).chain(ys)).chain(numbers.map(Argument::from));
        let tiles = together.div_ceil(TILE);
        let kernel = format!("lstm_wave_f16_m{tiles}_g{groups}");
        // SAFETY: the arguments that the head of `lstm_stack.cu` lists, of the shapes that it states. Lengths are of sequences that
        // the host has checked.
        unsafe {
            self.program
                .push_together((Source::LstmStack, kernel), grid, arguments)
        }
    }

    /// All steps of a layer, direction by direction, each step a launch.
    ///
    /// # Errors
    /// As [`Self::waves`].
    pub(super) fn steps(&mut self, round: &Round, [from, end]: [Span; 2]) -> Result<()> {
        let config = self.stack.config;
        let element = self.target.element;
        let Shape { steps, sequences } = self.shape;
        let (hidden, size) = (config.hidden, element.size());
        let columns = GATES * hidden;
        let width = from.bytes / (steps * sequences * size);
        let Places {
            gates,
            cells,
            states,
            product,
            lengths,
            ..
        } = self.places;
        for (stream, weight) in round.inputs.iter().enumerate() {
            self.gates((from, width), *weight, (gates[0], Element::F32));
            let bias = round.bias.part(stream * columns * FLOAT, columns * FLOAT);
            for step in 0..steps {
                let before = (step > 0).then_some(*product);
                if step > 0 {
                    self.program.multiply(Product {
                        sizes: [sequences, columns, hidden],
                        a: Matrix::rows(*states, element, hidden),
                        b: Matrix::rows(round.recurrent[stream], element, hidden).turned(),
                        c: Matrix::rows(*product, Element::F32, columns),
                        bias: None,
                        onto: Onto::Write,
                    });
                }
                let arguments = [
                    before.into(),
                    gates[0].read(),
                    bias.read(),
                    cells.write(),
                    states.write(),
                    end.write(),
                    lengths.read(),
                    step.into(),
                    stream.into(),
                    sequences.into(),
                    hidden.into(),
                    config.outputs().into(),
                ];
                self.launch("lstm_advance", sequences * hidden, arguments)?;
            }
        }
        Ok(())
    }

    /// From the top layer's rows to logits.
    ///
    /// # Errors
    /// As [`Self::waves`].
    pub(super) fn head(&mut self, top: Span) -> Result<()> {
        let Places {
            last,
            logits,
            lengths,
            ..
        } = self.places;
        let (width, sequences) = (self.stack.config.outputs(), self.shape.sequences);
        let arguments = [
            top.read(),
            lengths.read(),
            last.write(),
            sequences.into(),
            width.into(),
        ];
        self.launch("lstm_last", sequences * width, arguments)?;
        let (head, element) = (self.stack.head, self.target.element);
        self.program.multiply(Product {
            sizes: [sequences, head.classes, width],
            a: Matrix::rows(*last, element, width),
            b: Matrix::rows(head.weight, element, width).turned(),
            c: Matrix::rows(*logits, element, head.classes),
            bias: Some(head.bias),
            onto: Onto::Write,
        });
        Ok(())
    }

    /// Makes a span of what no state is.
    fn unset(&mut self, span: Span) -> Result<()> {
        let vectors = span.bytes.div_ceil(VECTOR);
        let grid = Grid::row(vectors.div_ceil(THREADS), THREADS as u32);
        let arguments = [span.write(), vectors.into()];
        // SAFETY: as in `wave`; places are multiples of 256 bytes, so that the last vector is within the span's.
        unsafe {
            self.program
                .push((Source::LstmStack, "lstm_unset"), grid, arguments)
        }
    }

    /// A kernel with a thread for each value.
    fn launch<const N: usize>(
        &mut self,
        name: &str,
        values: usize,
        arguments: [Argument; N],
    ) -> Result<()> {
        let kernel = format!("{name}_{}", self.target.element.name());
        let grid = Grid::row(values.div_ceil(THREADS), THREADS as u32);
        // SAFETY: as in `wave`.
        unsafe {
            self.program
                .push((Source::LstmStack, kernel), grid, arguments)
        }
    }
}
