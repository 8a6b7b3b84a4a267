//! Rows of a table on a CUDA device, and the table's gradient.

use candle_core::Result;

use crate::{
    cuda::{Argument, Draft, Grid, Source, Span},
    graph::Row,
    ops::pixels::cuda::{BLOCK, rows, vector},
};

/// Threads that find a token's place.
const SHARES: usize = 8;
/// Gradients that are summed up at once.
const AT_ONCE: usize = 64;
/// Values of a gradient that a thread has, at most.
const FEW: usize = 4;

/// Tokens that take rows of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup {
    /// i32 `[sequences, tokens]`, below the table's rows.
    pub(crate) ids: Span,
    pub(crate) sequences: usize,
    /// Tokens of a sequence.
    pub(crate) tokens: usize,
    pub(crate) by: Row,
    /// The row that gets no gradient.
    pub(crate) padding: Option<usize>,
    /// Of the table.
    pub(crate) rows: usize,
    /// Values of a row.
    pub(crate) features: usize,
}

impl Lookup {
    /// `y` is `[sequences, tokens, features]`, the table `[rows, features]`, both of the element that is computed in.
    ///
    /// # Errors
    /// They are too large for a launch.
    pub(crate) fn forward(&self, draft: &mut Draft, [table, y]: [Span; 2]) -> Result<()> {
        let element = draft.target.element;
        let length = vector(element, &[self.features]);
        let vectors = self.count() * self.features / length;
        let grid = rows(element, vectors, length);
        let arguments = [
            table.read(),
            self.ids().into(),
            y.write(),
            self.count().into(),
            self.tokens.into(),
            self.features.into(),
            self.by().into(),
            length.into(),
        ];
        // SAFETY: the kernel takes these, the spans are of these shapes, and ids are below the rows.
        unsafe { draft.launch((Source::TrainTables, "lookup"), grid, arguments) }
    }

    /// Writes the table's gradient, f32 `[rows, features]`, that of a row being the sum over its tokens in their order.
    ///
    /// # Errors
    /// As for [`Self::forward`].
    pub(crate) fn backward(&self, draft: &mut Draft, [dy, dtable]: [Span; 2]) -> Result<()> {
        let (count, features) = (self.count(), self.features);
        let length = vector(draft.target.element, &[features]).min(FEW);
        let vectors = features / length;
        let chunks = count.div_ceil(AT_ONCE);
        let is_known = self.ids().is_none();
        let words = |len: usize| if is_known { 0 } else { 4 * len };
        let [order, sorted, starts, parts] = draft.scratch([
            words(count),
            words(count),
            words(self.rows + 1),
            chunks * 2 * features * 4,
        ]);
        let known = |span: Span| (!is_known).then_some(span);
        let parts = (self.most() > AT_ONCE).then_some(parts);
        if let Some(ids) = self.ids() {
            let arguments = [ids.read(), order.write(), sorted.write(), count.into()];
            let grid = threads(count * SHARES);
            // SAFETY: the kernel takes these, and the spans hold so many numbers.
            unsafe { draft.launch((Source::TrainTables, "order"), grid, arguments)? };
            let arguments = [
                sorted.read(),
                starts.write(),
                count.into(),
                self.rows.into(),
            ];
            let grid = threads(self.rows + 1);
            // SAFETY: as above.
            unsafe { draft.launch((Source::TrainTables, "starts"), grid, arguments)? };
        }
        let padding = Argument::Word(self.padding.map_or(u32::MAX, |row| row as u32));
        let numbers = [count, self.tokens, features, self.by()].map(Argument::from);
        if let Some(parts) = parts {
            let spans = [
                dy.read(),
                known(sorted).into(),
                known(order).into(),
                known(starts).into(),
                parts.write(),
            ];
            let arguments = (spans.into_iter())
                .chain(numbers)
                .chain([padding, length.into()]);
            let grid = threads(chunks * vectors);
            // SAFETY: as above; places hold each token once, and starts are among them.
            unsafe { draft.launch((Source::TrainTables, "parts"), grid, arguments)? };
        }
        let spans = [
            dy.read(),
            known(order).into(),
            known(starts).into(),
            parts.into(),
            dtable.write(),
        ];
        let arguments =
            (spans.into_iter())
                .chain(numbers)
                .chain([padding, self.rows.into(), length.into()]);
        let grid = threads(self.rows * vectors);
        // SAFETY: as above.
        unsafe { draft.launch((Source::TrainTables, "table"), grid, arguments) }
    }

    /// Of all sequences.
    fn count(&self) -> usize {
        self.sequences * self.tokens
    }

    /// Of a row, at most.
    fn most(&self) -> usize {
        match self.by {
            Row::Id | Row::First => self.count(),
            Row::Place => self.sequences,
        }
    }

    /// Where rows follow from them.
    fn ids(&self) -> Option<Span> {
        (self.by == Row::Id).then_some(self.ids)
    }

    /// As kernels number it.
    fn by(&self) -> usize {
        match self.by {
            Row::Id => 0,
            Row::Place => 1,
            Row::First => 2,
        }
    }
}

fn threads(count: usize) -> Grid {
    Grid::row(count.div_ceil(BLOCK), BLOCK as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cuda::Element, ops::pixels::cuda::tests::launches};

    #[test]
    fn only_ids_have_to_be_put_in_order() {
        let (sequences, tokens, rows, features) = (3, 50, 1000, 12);
        let count = sequences * tokens;
        for by in [Row::Id, Row::Place, Row::First] {
            let bytes = [
                4 * count,
                2 * rows * features,
                2 * count * features,
                4 * rows * features,
            ];
            let made = launches(Element::F16, bytes, |draft, [ids, table, y, dtable]| {
                let lookup = Lookup {
                    ids,
                    sequences,
                    tokens,
                    by,
                    padding: Some(1),
                    rows,
                    features,
                };
                lookup.forward(draft, [table, y])?;
                lookup.backward(draft, [y, dtable])
            });
            let names: Vec<_> = made.iter().map(|launch| &launch.kernel[..]).collect();
            let expected = [
                "lookup_f16",
                "order_f16",
                "starts_f16",
                "parts_f16",
                "table_f16",
            ];
            match by {
                Row::Id => {
                    assert_eq!(names, expected);
                    assert_eq!(made[1].grid.blocks[0], count.div_ceil(32));
                    assert_eq!(made[2].grid.blocks[0], (rows + 1).div_ceil(256));
                }
                Row::First => assert_eq!(names, [expected[0], expected[3], expected[4]]),
                // No more than are summed up at once.
                Row::Place => assert_eq!(names, [expected[0], expected[4]]),
            }
            assert_eq!(made[0].arguments[1] == Argument::Null, by != Row::Id);
            let table = &made[made.len() - 1];
            assert_eq!(table.grid.blocks[0], (rows * 3).div_ceil(256));
        }
    }
}
