//! A stack of layers with a linear layer on each sequence's last output: its weights in device memory, and its launches.
//!
//! The input's part of all gates is a product. In f16 the steps of some layers run in one launch, a turn of them at a time, each layer
//! one turn behind the layer below it; of a layer in both directions these run beside each other. In f32, and where no such launch
//! fits the card, a step is a product and a launch.

#[cfg(feature = "cuda")]
mod device;
mod launches;
mod layout;
#[cfg(test)]
mod tests;

use candle_core::Result;
use candle_nn::VarBuilder;

#[cfg(feature = "cuda")]
pub(in crate::lstm) use self::device::Classifier;
use self::launches::Making;
use crate::{
    cuda::{Element, Layout, Program, Span, Target, Weights},
    host,
    lstm::{LstmConfig, weights::DirectionWeights},
};

/// Gates of a unit.
const GATES: usize = 4;
/// Streams that a launch takes at most.
const MOST_STREAMS: usize = 4;
/// Steps of a turn. More make the layers above wait longer for their first, fewer are more launches.
const TURN: usize = 32;
/// Sequences of a launch, at most.
const SEQUENCES: usize = 32;
const FLOAT: usize = size_of::<f32>();

/// A network's weights in device memory.
#[derive(Debug)]
struct Stack {
    config: LstmConfig,
    element: Element,
    way: Way,
    rounds: Vec<Round>,
    head: Head,
}

/// How steps are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Those of so many streams in one launch, by blocks of so many groups of units.
    Wave { streams: usize, groups: usize },
    /// Each by itself.
    Steps,
}

/// Layers, or the directions of one, that are computed before the next begin.
#[derive(Debug)]
struct Round {
    /// E `[4 * hidden, inputs]` of each stream.
    inputs: Vec<Span>,
    /// E: all as `lstm_wave` reads them, or `[4 * hidden, hidden]` of each stream.
    recurrent: Vec<Span>,
    /// f32 `[4 * hidden]` of each stream.
    bias: Span,
}

/// The linear layer.
#[derive(Clone, Copy, Debug)]
struct Head {
    classes: usize,
    /// E `[classes, directions * hidden]`.
    weight: Span,
    /// E `[classes]`.
    bias: Span,
}

/// Steps and sequences of a pass; there may be fewer of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    steps: usize,
    sequences: usize,
}

/// What a pass keeps where. Rows are step by step.
#[derive(Clone, Debug)]
struct Places {
    layout: Layout,
    /// All that the host fills in.
    input: Span,
    /// E `[steps, sequences, inputs]`.
    x: Span,
    /// `int` `[sequences]`.
    lengths: Span,
    /// Of each stream of a round, for a turn or for all steps.
    gates: Vec<Span>,
    /// E `[steps, sequences, hidden]`, of layers in the middle of a round.
    between: Vec<Span>,
    /// E `[steps, sequences, directions * hidden]`, of a round's last layer: one is written while the other is read.
    ends: [Span; 2],
    /// f32 `[streams, sequences, hidden]`.
    cells: Span,
    /// E `[sequences, hidden]`, and f32 `[sequences, 4 * hidden]`, where each step is taken by itself.
    states: Span,
    product: Span,
    /// E `[sequences, directions * hidden]`.
    last: Span,
    /// E `[sequences, classes]`.
    logits: Span,
}

impl Shape {
    /// That of a pass over sequences of these lengths: a little more of both, so that few shapes come.
    fn of(lengths: &[usize]) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let count = lengths.len();
        Self {
            steps: longest.max(1).next_multiple_of(TURN),
            sequences: if count < SEQUENCES {
                count.next_power_of_two()
            } else {
                count.next_multiple_of(SEQUENCES)
            },
        }
    }
}

impl Way {
    /// The one that is best on a card.
    fn of(target: Target, config: LstmConfig) -> Self {
        let hidden = config.hidden;
        if target.element != Element::F16 || !hidden.is_multiple_of(layout::UNITS) {
            return Self::Steps;
        }
        // What a block may have of shared memory.
        let room = match target.capability {
            (9 | 10, _) => 227 << 10,
            (8, 0 | 7) => 163 << 10,
            _ => 99 << 10,
        };
        let most = if config.bidirectional {
            2
        } else {
            config.layers.min(MOST_STREAMS)
        };
        let fits = |groups: &usize| launches::shared(hidden, *groups, SEQUENCES) <= room;
        let ways = (1..=3).filter(fits).map(|groups| {
            let blocks = hidden.div_ceil(layout::UNITS * groups);
            (most.min(target.processors / blocks), groups)
        });
        // Of those with as many streams, the one with the fewest units a block.
        let best = ways.max_by_key(|&(streams, groups)| (streams, std::cmp::Reverse(groups)));
        match best {
            Some((streams, groups)) if streams > usize::from(config.bidirectional) => {
                Self::Wave { streams, groups }
            }
            _ => Self::Steps,
        }
    }
}

impl Stack {
    /// Reads torch's tensors: of the stack as [`Lstm::load`](crate::lstm::Lstm::load), and `weight` and `bias` of the linear layer.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    fn load(
        weights: &mut Weights,
        target: Target,
        (vb, config): (&VarBuilder<'_>, LstmConfig),
        (head, classes): (&VarBuilder<'_>, usize),
    ) -> Result<Self> {
        config.check()?;
        let way = Way::of(target, config);
        let layers = match way {
            Way::Wave { streams, .. } if !config.bidirectional => streams,
            _ => 1,
        };
        let all: Vec<_> = (0..config.layers).collect();
        let rounds = all.chunks(layers).map(|layers| {
            let streams =
                (layers.iter()).map(|&layer| DirectionWeights::of_layer(vb, layer, config));
            let streams = streams.collect::<Result<Vec<_>>>()?.into_iter().flatten();
            Ok(Round::new(
                weights,
                way,
                config.hidden,
                &streams.collect::<Vec<_>>(),
            ))
        });
        let rounds = rounds.collect::<Result<_>>()?;
        let read = |shape: &[usize], name| host::to_vec(&head.get(shape, name)?);
        let head = Head {
            classes,
            weight: weights.values(&read(&[classes, config.outputs()], "weight")?),
            bias: weights.values(&read(&[classes], "bias")?),
        };
        Ok(Self {
            config,
            element: target.element,
            way,
            rounds,
            head,
        })
    }

    /// The shape that a pass over sequences of these lengths has: a little more of both, so that few shapes come.
    /// Steps that the gates of a stream are kept for.
    fn turn(&self, shape: Shape) -> usize {
        match self.way {
            Way::Wave { .. } if !self.config.bidirectional => TURN,
            _ => shape.steps,
        }
    }

    fn places(&self, shape: Shape) -> Places {
        let LstmConfig { input, hidden, .. } = self.config;
        let Shape { steps, sequences } = shape;
        let (size, rows) = (self.element.size(), steps * sequences);
        let streams = self.rounds.iter().map(|round| round.inputs.len()).max();
        let streams = streams.unwrap_or(1);
        let (outputs, width) = (self.config.outputs(), GATES * hidden);
        let mut layout = Layout::default();
        let x = layout.place(rows * input * size);
        let lengths = layout.place(sequences * FLOAT);
        let all = layout.since(Layout::default());
        let kept = self.turn(shape) * sequences * width;
        let (gates, states, product, between) = match self.way {
            // Rounded as what goes into a product.
            Way::Wave { .. } if self.config.bidirectional => ((streams, size), 0, 0, 0),
            Way::Wave { .. } => ((streams, size), 0, 0, streams - 1),
            Way::Steps => ((1, FLOAT), sequences * hidden, sequences * width, 0),
        };
        let mut place = |bytes| layout.place(bytes);
        Places {
            input: all,
            x,
            lengths,
            gates: (0..gates.0).map(|_| place(kept * gates.1)).collect(),
            between: (0..between).map(|_| place(rows * hidden * size)).collect(),
            ends: [(); 2].map(|()| place(rows * outputs * size)),
            cells: place(streams * sequences * hidden * FLOAT),
            states: place(states * size),
            product: place(product * FLOAT),
            last: place(sequences * outputs * size),
            logits: place(sequences * self.head.classes * size),
            layout,
        }
    }

    /// The launches of a pass.
    ///
    /// # Errors
    /// It is too large for them.
    fn program(&self, target: Target, shape: Shape, places: &Places) -> Result<Program> {
        let mut making = Making {
            stack: self,
            shape,
            places,
            target,
            program: Program::default(),
        };
        let mut from = places.x;
        for (number, round) in self.rounds.iter().enumerate() {
            let end = places.ends[number % 2];
            match self.way {
                Way::Wave { groups, .. } => making.waves(round, groups, [from, end])?,
                Way::Steps => making.steps(round, [from, end])?,
            }
            from = end;
        }
        making.head(from)?;
        Ok(making.program)
    }

    /// Writes rows of sequences, which lie end to end in `x`, step by step, and their lengths.
    fn fill(&self, shape: Shape, places: &Places, x: &[f32], lengths: &[usize], to: &mut [u8]) {
        use rayon::prelude::*;
        let width = self.config.input;
        let element = self.element;
        let starts: Vec<usize> = lengths
            .iter()
            .scan(0, |next, length| {
                Some(std::mem::replace(next, *next + length))
            })
            .collect();
        let row = width * element.size();
        let (rows, rest) = to.split_at_mut(places.x.bytes);
        let steps = rows.par_chunks_mut(shape.sequences * row).enumerate();
        steps.for_each(|(step, to)| {
            let mut to = to.chunks_exact_mut(row);
            for ((start, length), to) in starts.iter().zip(lengths).zip(to.by_ref()) {
                if step < *length {
                    element.write(&x[(start + step) * width..][..width], to);
                } else {
                    to.fill(0);
                }
            }
            to.for_each(|to| to.fill(0));
        });
        let none = std::iter::repeat_n(0, shape.sequences - lengths.len());
        let lengths = lengths.iter().map(|&length| length as u32).chain(none);
        super::write(
            &mut rest[places.x.distance(places.lengths) - rows.len()..],
            lengths,
        );
    }
}

impl Round {
    fn new(weights: &mut Weights, way: Way, hidden: usize, streams: &[DirectionWeights]) -> Self {
        let by_units = |rows: &[f32]| layout::by_units(rows, hidden);
        let streams = streams.iter();
        let inputs = streams
            .clone()
            .map(|stream| weights.values(&by_units(&stream.input)))
            .collect();
        let recurrent = match way {
            Way::Wave { groups, .. } => {
                let fragments = |stream| layout::fragments(stream, hidden, groups);
                let all: Vec<f32> = streams.clone().flat_map(fragments).collect();
                vec![weights.values(&all)]
            }
            Way::Steps => streams
                .clone()
                .map(|stream| weights.values(&by_units(&stream.recurrent)))
                .collect(),
        };
        let bias: Vec<f32> = streams.flat_map(|stream| by_units(&stream.bias)).collect();
        Self {
            inputs,
            recurrent,
            bias: weights.floats(&bias),
        }
    }
}
