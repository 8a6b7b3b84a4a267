//! Rows of a table, one for each token, and the table's gradient.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use rayon::prelude::*;

use crate::graph::Row;

/// Values of a task.
const TASK: usize = 1 << 14;

/// Rows of the table of a task of the gradient: a vocabulary's frequent words lie together, and are not to be one thread's.
const ROWS: usize = 4;

/// Gradients that are summed up before they join the others: many small ones on a large sum would be lost.
const AT_ONCE: usize = 64;

/// Tokens that take rows of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup<'a> {
    /// `[sequences, tokens]`, whole numbers.
    pub(crate) ids: &'a [f32],
    /// Tokens of a sequence.
    pub(crate) tokens: usize,
    pub(crate) by: Row,
    /// The row that gets no gradient.
    pub(crate) padding: Option<usize>,
    /// Values of a row.
    pub(crate) features: usize,
}

impl Lookup<'_> {
    /// The row of a token.
    fn row(&self, token: usize) -> usize {
        match self.by {
            Row::Id => self.ids[token] as usize,
            Row::Place => token % self.tokens,
            Row::First => 0,
        }
    }

    /// `y` is `[sequences, tokens, features]`, the table `[rows, features]`.
    ///
    /// # Panics
    /// The table lacks a row, or `y` has another length.
    pub(crate) fn forward(&self, table: &[f32], y: &mut [f32]) {
        let features = self.features;
        assert_eq!(y.len(), self.ids.len() * features, "tokens");
        let each = (TASK / features).max(1);
        y.par_chunks_mut(each * features)
            .enumerate()
            .for_each(|(task, y)| {
                for (i, y) in y.chunks_exact_mut(features).enumerate() {
                    let row = self.row(task * each + i);
                    y.copy_from_slice(&table[row * features..][..features]);
                }
            });
    }

    /// Writes the table's gradient, that of a row being the sum over its tokens in their order.
    ///
    /// # Panics
    /// As [`Self::forward`].
    pub(crate) fn backward(&self, dy: &[f32], dtable: &mut [f32]) {
        let features = self.features;
        assert_eq!(dy.len(), self.ids.len() * features, "tokens");
        let mut order: Vec<(usize, usize)> = (0..self.ids.len())
            .map(|token| (self.row(token), token))
            .filter(|(row, _)| Some(*row) != self.padding)
            .collect();
        order.sort_unstable();
        assert!(
            order
                .last()
                .is_none_or(|(row, _)| (row + 1) * features <= dtable.len()),
            "rows of the table"
        );
        let gradient = |token: usize| &dy[token * features..][..features];
        dtable
            .par_chunks_mut(ROWS * features)
            .enumerate()
            .for_each(|(task, rows)| {
                let mut sum = Vec::new();
                for (i, to) in rows.chunks_exact_mut(features).enumerate() {
                    let row = task * ROWS + i;
                    let place = |row| order.partition_point(|(other, _)| *other < row);
                    to.fill(0.0);
                    for tokens in order[place(row)..place(row + 1)].chunks(AT_ONCE) {
                        sum.clear();
                        sum.resize(features, 0.0);
                        for (_, token) in tokens {
                            add(&mut sum, gradient(*token));
                        }
                        add(to, &sum);
                    }
                }
            });
    }
}

fn add(to: &mut [f32], values: &[f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{flat, random};

    #[test]
    fn rows_are_looked_up_and_get_what_their_tokens_get() {
        let (sequences, tokens, features, rows) = (40, 7, 19, 30);
        let ids: Vec<f32> = (0..sequences * tokens)
            .map(|i| (i * i % 23) as f32)
            .collect();
        let table = flat(&random(&[rows * features], 1));
        let dy = flat(&random(&[ids.len() * features], 2));
        for by in [Row::Id, Row::Place, Row::First] {
            let lookup = Lookup {
                ids: &ids,
                tokens,
                by,
                padding: Some(5),
                features,
            };
            let row = |token: usize| match by {
                Row::Id => ids[token] as usize,
                Row::Place => token % tokens,
                Row::First => 0,
            };
            let mut y = vec![f32::NAN; dy.len()];
            lookup.forward(&table, &mut y);
            let mut expected = vec![0.0; table.len()];
            for token in 0..ids.len() {
                for i in 0..features {
                    let at = token * features + i;
                    assert_eq!(y[at], table[row(token) * features + i]);
                    if row(token) != 5 {
                        expected[row(token) * features + i] += f64::from(dy[at]);
                    }
                }
            }
            let mut dtable = vec![f32::NAN; table.len()];
            lookup.backward(&dy, &mut dtable);
            for (got, expected) in dtable.iter().zip(expected) {
                let error = (f64::from(*got) - expected).abs();
                assert!(error < 1e-4, "{by:?}: {got}, expected {expected}");
            }
        }
    }
}
