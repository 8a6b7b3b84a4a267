//! What a pass depends on, and its input.

use candle_core::Result;

use super::{
    model::Model,
    program::Plan,
    tiles::{self, Tile},
};
use crate::{cuda::Element, text::Packed};

/// Passes of up to this many tokens are recorded: 32 texts of 70 tokens take 1.5 ms otherwise, of which the device computes for 0.9.
const RECORDED_TOKENS: usize = 16 << 10;
/// Tokens of a recorded pass come in multiples of at least this.
const FEWEST_TOKENS: usize = 16;
/// From so many tokens on steps are half as large, for what is beyond a batch's own takes its time.
const FINER_TOKENS: usize = 2048;

/// The sizes that launches depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) tokens: usize,
    pub(super) sequences: usize,
    /// Of attention's queries.
    pub(super) tiles: usize,
}

impl Shape {
    /// The next larger one of a few, so that recorded passes are met again: at most an eighth more tokens, or 15, and of many a
    /// sixteenth. What is beyond a batch's own are tokens, empty sequences and empty tiles that nobody reads.
    fn rounded(self) -> Self {
        let steps = if self.tokens > FINER_TOKENS { 32 } else { 16 };
        let step = self.tokens.next_power_of_two() / steps;
        let tokens = self.tokens.next_multiple_of(step.max(FEWEST_TOKENS));
        let sequences = self.sequences.next_power_of_two();
        Self {
            // There is room for as many first tokens as there are sequences.
            tokens: tokens.max(sequences),
            sequences,
            tiles: self.tiles.next_power_of_two(),
        }
    }
}

/// A batch, ready for the device.
#[derive(Debug)]
pub(super) struct Input<'a> {
    batch: &'a Packed,
    tiles: Vec<Tile>,
    pub(super) shape: Shape,
    /// Rows that come out.
    pub(super) rows: usize,
    /// Whether its launches are worth recording.
    pub(super) recorded: bool,
}

impl<'a> Input<'a> {
    /// # Errors
    /// The batch has an id or a length that the model has not, or a sequence without a token of which to make a row.
    pub(super) fn new(model: &Model, batch: &'a Packed, element: Element) -> Result<Self> {
        batch.check(model.vocabulary, model.max_positions)?;
        let rows = model.pooling.count(batch)?;
        let tiles = match model.shares_tiles(element) {
            true => tiles::shared(batch),
            false => tiles::plain(batch),
        };
        let shape = Shape {
            tokens: batch.ids().len(),
            sequences: batch.lengths().count(),
            tiles: tiles.len(),
        };
        let recorded = shape.tokens <= RECORDED_TOKENS;
        Ok(Self {
            batch,
            tiles,
            shape: if recorded { shape.rounded() } else { shape },
            rows,
            recorded,
        })
    }

    /// Writes it as the device reads it.
    ///
    /// # Panics
    /// `to` is shorter than the plan's input.
    pub(super) fn write(&self, plan: &Plan, to: &mut [u8]) {
        // The id 0 is in every vocabulary.
        to.fill(0);
        let [ids, offsets, tiles] = plan.input_parts(self.shape);
        write(&mut to[ids], self.batch.ids().iter().copied());
        let last = self.batch.ids().len();
        let more = self.shape.sequences + 1 - self.batch.offsets().len();
        let own = self.batch.offsets().iter().copied();
        let own = own.chain(std::iter::repeat_n(last, more));
        write(&mut to[offsets], own.map(|offset| offset as u32));
        let numbers = self.tiles.iter().flatten();
        write(&mut to[tiles], numbers.map(|number| number.cast_unsigned()));
    }
}

/// Numbers as the device reads them.
fn write(to: &mut [u8], numbers: impl Iterator<Item = u32>) {
    let (to, _) = to.as_chunks_mut();
    for (to, number) in to.iter_mut().zip(numbers) {
        *to = number.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_shapes_are_recorded_and_none_is_much_larger() {
        let mut met = std::collections::HashSet::new();
        for tokens in 1..=RECORDED_TOKENS {
            let shape = Shape {
                tokens,
                sequences: 1,
                tiles: tokens.div_ceil(64),
            };
            let rounded = shape.rounded();
            assert!(rounded.tokens >= tokens && rounded.tiles >= shape.tiles);
            let part = if tokens > FINER_TOKENS { 16 } else { 8 };
            assert!(
                rounded.tokens <= (tokens + 15).max(tokens + tokens / part),
                "{tokens}"
            );
            assert_eq!(rounded.rounded(), rounded);
            met.insert(rounded.tokens);
        }
        assert!(met.len() <= 90, "{}", met.len());
        let many = Shape {
            tokens: 33,
            sequences: 33,
            tiles: 9,
        };
        assert_eq!(many.rounded().tokens, 64);
    }
}
