//! The tagger as a plan: its weights, what a pass keeps where, and its launches.

use candle_core::Result;
use candle_nn::VarBuilder;

use super::{
    Rows, Sequences,
    crf::{Crf, Sizes},
    layer::{Layer, Recurrence, States},
    layout, sequences, write,
};
use crate::{
    cuda::{Element, Grid, Layout, Program, Source, Span, Target, Weights},
    host,
    lstm::{
        tagger::{TaggerConfig, Words},
        weights::DirectionWeights,
    },
};

/// Bytes that embeddings are copied by, and values that each begins at a multiple of.
const VECTOR: usize = 16;
const ALIGNED: usize = 8;

/// A tagger's weights in device memory.
#[derive(Debug)]
pub(super) struct Network {
    element: Element,
    config: TaggerConfig,
    /// `[words, values up to a multiple of 8]`.
    words: Span,
    /// The characters' part of their LSTM's gates: there are so few that each has been made for good.
    char_gates: Span,
    chars: Layer,
    lstm: Layer,
    crf: Crf,
}

/// What decides on a pass's launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) words: usize,
    pub(super) rows: usize,
    pub(super) sequences: usize,
}

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Scores,
    Tags,
}

/// What a pass keeps where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) layout: Layout,
    /// All that the host fills in.
    pub(super) input: Span,
    /// A word's embedding and its characters' states, in rows of [`Places::x`]'s stride.
    x: Rows,
    gates: Span,
    states: Rows,
    pub(super) scores: Span,
    back: Span,
    pub(super) tags: Span,
    embeddings: Span,
    spellings: Sequences,
    sequences: Sequences,
    rows: Span,
    chars: Span,
}

impl Shape {
    /// That of a batch.
    pub(super) fn of(words: &Words) -> Self {
        Self {
            words: words.embeddings.len(),
            rows: words.rows.len(),
            sequences: words.lengths.len(),
        }
    }

    /// One of few shapes that this one fits into: no number grows by more than a quarter.
    pub(super) fn rounded(self) -> Self {
        let round = |number: usize| match number.checked_ilog2() {
            Some(log @ 3..) => number.next_multiple_of(1 << (log - 2)),
            _ => number,
        };
        Self {
            words: round(self.words),
            rows: round(self.rows),
            sequences: round(self.sequences),
        }
    }
}

impl Network {
    pub(super) fn load(
        weights: &mut Weights,
        vb: &VarBuilder<'_>,
        config: &TaggerConfig,
    ) -> Result<Self> {
        let table = |name: &str, rows, size| -> Result<Vec<f32>> {
            host::to_vec(&vb.pp(name).get((rows, size), "weight")?)
        };
        let words = table("word_embedding", config.words, config.word_size)?;
        let characters = table("char_embedding", config.chars, config.char_size)?;
        let hidden = config.char_hidden;
        let char_weights =
            DirectionWeights::both(&vb.pp("char_lstm"), 0, (config.char_size, hidden))?;
        let sizes = Sizes {
            inputs: 2 * config.word_hidden,
            units: config.dense,
            tags: config.tags,
        };
        Ok(Self {
            element: weights.element(),
            config: *config,
            words: weights.values(&aligned_rows(&words, config.word_size)),
            char_gates: weights.values(&gates_of(&characters, &char_weights, hidden)),
            chars: Layer::pack(weights, &char_weights, &[config.char_size], hidden)?,
            lstm: Layer::load(
                weights,
                &vb.pp("word_lstm"),
                &[config.word_size, 2 * hidden],
                config.word_hidden,
            )?,
            crf: Crf::load(weights, vb, sizes)?,
        })
    }

    pub(super) fn config(&self) -> &TaggerConfig {
        &self.config
    }

    /// Where a pass of a shape, with so many characters, keeps what. All that launches name lies at the same places for
    /// any number of characters.
    pub(super) fn places(&self, shape: Shape, chars: usize) -> Places {
        let mut layout = Layout::default();
        let size = self.element.size();
        let mut rows = |count: usize, width: usize| {
            let stride = width.next_multiple_of(ALIGNED);
            Rows {
                span: layout.place(count * stride * size),
                stride,
            }
        };
        let x = rows(shape.words, self.lstm.inputs());
        let states = rows(shape.rows, 2 * self.config.word_hidden);
        let gates = layout.place(shape.words * self.lstm.gates());
        let scores = layout.place(shape.rows * self.config.tags * size_of::<f32>());
        let back = layout.place(shape.rows * size_of::<[u32; 2]>());
        let tags = layout.place(shape.rows);
        let start = layout;
        let mut numbers = |count: usize| layout.place(count * size_of::<u32>());
        let (embeddings, rows) = (numbers(shape.words), numbers(shape.rows));
        let mut sequences = |count: usize| Sequences {
            span: layout.place(count * sequences::SIZE),
            count,
        };
        let (spellings, sequences) = (sequences(shape.words), sequences(shape.sequences));
        // Last, as their number is not the shape's.
        let chars = layout.place(chars * size_of::<u32>());
        Places {
            layout,
            input: layout.since(start),
            x,
            gates,
            states,
            scores,
            back,
            tags,
            embeddings,
            spellings,
            sequences,
            rows,
            chars,
        }
    }

    /// The launches of a pass.
    ///
    /// # Errors
    /// It is too large for them.
    pub(super) fn program(
        &self,
        target: Target,
        shape: Shape,
        places: &Places,
        wanted: Wanted,
    ) -> Result<Program> {
        let mut program = Program::default();
        let (x, gates) = (places.x, places.gates);
        // The character's states come first: embeddings are said to write all of `x`, and leave these alone.
        self.spell(&mut program, target, places)?;
        self.embed(&mut program, shape, places)?;
        self.lstm
            .project(&mut program, target, x, shape.words, gates)?;
        let recurrence = Recurrence {
            gates,
            index: Some(places.rows),
            sequences: places.sequences,
            out: Some(places.states),
            states: None,
        };
        self.lstm.recur(&mut program, target, &recurrence)?;
        let scores = places.scores;
        self.crf
            .score(&mut program, target, places.states, shape.rows, scores)?;
        if wanted == Wanted::Tags {
            let (back, tags) = (places.back, places.tags);
            self.crf
                .decode(&mut program, scores, places.sequences, back, tags)?;
        }
        Ok(program)
    }

    /// Writes the final states of each word's characters beside where its embedding goes.
    fn spell(&self, program: &mut Program, target: Target, places: &Places) -> Result<()> {
        let (x, size) = (places.x, self.element.size());
        let first = self.config.word_size.next_multiple_of(ALIGNED) * size;
        let recurrence = Recurrence {
            gates: self.char_gates,
            index: Some(places.chars),
            sequences: places.spellings,
            out: None,
            states: Some(States {
                hidden: x
                    .span
                    .part(first.min(x.span.bytes), x.span.bytes.saturating_sub(first)),
                cell: None,
                direction_stride: self.config.char_hidden,
                place_stride: x.stride,
            }),
        };
        self.chars.recur(program, target, &recurrence)
    }

    /// Copies each word's embedding to its row.
    fn embed(&self, program: &mut Program, shape: Shape, places: &Places) -> Result<()> {
        const WARPS: usize = 4;
        let vectors = |values: usize| values * self.element.size() / VECTOR;
        // SAFETY: the arguments of `gather_rows`; the host has checked that there are such embeddings.
        unsafe {
            program.push(
                (Source::LstmInputs, "gather_rows"),
                Grid::row(shape.words.div_ceil(WARPS), 128),
                [
                    self.words.read(),
                    places.embeddings.read(),
                    places.x.span.write(),
                    shape.words.into(),
                    vectors(self.config.word_size.next_multiple_of(ALIGNED)).into(),
                    vectors(places.x.stride).into(),
                ],
            )
        }
    }
}

impl Places {
    /// Writes a batch, which has been checked and fits the shape that the places are for.
    pub(super) fn fill(&self, words: &Words, input: &mut [u8]) {
        let mut put = |span: Span, numbers: &mut dyn Iterator<Item = u32>| {
            let at = self.input.distance(span);
            write(&mut input[at..at + span.bytes], numbers);
        };
        // Words and sequences of the shape that are not there are the first word, and sequences without a row.
        let embeddings = words.embeddings.iter().copied().chain(std::iter::repeat(0));
        put(self.embeddings, &mut embeddings.take(self.spellings.count));
        put(self.rows, &mut words.rows.iter().copied());
        put(self.chars, &mut words.chars.iter().copied());
        for (places, lengths) in [
            (self.spellings, &words.spellings),
            (self.sequences, &words.lengths),
        ] {
            let none = std::iter::repeat(sequences::NONE);
            let list = sequences::sorted(lengths).into_iter().chain(none);
            let numbers = list.take(places.count).flatten().map(i32::cast_unsigned);
            put(places.span, &mut numbers.into_iter());
        }
    }
}

/// Rows of which each begins at a multiple of 8 values, with zeros between.
fn aligned_rows(rows: &[f32], size: usize) -> Vec<f32> {
    let gap = size.next_multiple_of(ALIGNED) - size;
    let zeros = || std::iter::repeat_n(0.0, gap);
    rows.chunks_exact(size)
        .flat_map(|row| row.iter().copied().chain(zeros()))
        .collect()
}

/// The gates' part of each input row, as `lstm_project_T` makes it.
fn gates_of(
    rows: &[f32],
    weights: &[DirectionWeights; layout::DIRECTIONS],
    hidden: usize,
) -> Vec<f32> {
    let inputs = weights[0].input.len() / (layout::GATES * hidden);
    let places: Vec<_> = (0..inputs).map(Some).collect();
    let matrix = layout::projection(weights, hidden, &places);
    let bias = layout::bias(weights, hidden);
    let gate = |row: &[f32], column: usize| {
        let weights = &matrix[column * inputs..][..inputs];
        bias[column] + weights.iter().zip(row).map(|(w, x)| w * x).sum::<f32>()
    };
    rows.chunks_exact(inputs)
        .flat_map(|row| (0..bias.len()).map(move |column| (row, column)))
        .map(|(row, column)| gate(row, column))
        .collect()
}
