//! What a cheaper dtype or another device changes: the same examples run so and in f32 on the CPU, logit by logit.

use galley_core::AnyRecipe;
use rayon::prelude::*;

use crate::{
    corpus::Corpus,
    error::{Error, Result},
    interrupt,
    native::forward,
    report::record::Agreement,
};

/// A recipe in f32 on the CPU, the same otherwise, and what both are run on.
pub(crate) struct Comparison<'a> {
    pub(crate) exact: &'a AnyRecipe,
    pub(crate) other: &'a AnyRecipe,
    pub(crate) corpus: &'a Corpus,
    pub(crate) batch: usize,
    pub(crate) examples: usize,
}

impl Comparison<'_> {
    /// Runs both; `done` is told after each batch how many examples have been.
    pub(crate) fn run(&self, done: &dyn Fn(usize)) -> Result<Agreement> {
        let mut tally = Tally::default();
        let mut agreeing_examples = 0;
        for start in (0..self.examples).step_by(self.batch) {
            interrupt::check()?;
            let end = self.examples.min(start + self.batch);
            let [exact, other] =
                [self.exact, self.other].map(|recipe| self.logits(recipe, start..end));
            for (exact, other) in exact?.iter().zip(&other?) {
                let before = tally.differing();
                for (exact, other) in exact.iter().zip(other) {
                    tally.add(exact, other);
                }
                agreeing_examples += usize::from(tally.differing() == before);
            }
            done(end);
        }
        if tally.labels == 0 {
            return Err(Error::option(
                "RECIPE",
                format!("{} gives no logits to compare", self.exact.info().name),
            ));
        }
        let info = self.other.info();
        Ok(Agreement {
            model: info.name.into(),
            weights: info.weights.clone(),
            dtype: info.dtype.into(),
            examples: self.examples,
            agreeing_examples,
            labels: tally.labels,
            agreeing_labels: tally.agreeing,
            largest_deviation: tally.largest,
            mean_deviation: tally.sum / tally.logits.max(1) as f64,
            logit_spread: tally.spread(),
        })
    }

    /// Each example's rows of logits.
    fn logits(
        &self,
        recipe: &AnyRecipe,
        examples: std::ops::Range<usize>,
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let prepared = examples
            .into_par_iter()
            .map(|index| {
                let input = self.corpus.input(index)?;
                recipe.prepare(input).map_err(|source| Error::Example {
                    corpus: self.corpus.kind().name(),
                    index,
                    source,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let raw = forward(recipe.as_ref(), &prepared)?;
        Ok(raw.iter().map(|raw| recipe.logits(raw)).collect())
    }
}

/// What has been compared so far.
#[derive(Default)]
struct Tally {
    labels: usize,
    agreeing: usize,
    logits: usize,
    largest: f64,
    /// Of the deviations.
    sum: f64,
    /// Of the exact logits' variances, one for each row.
    variance: f64,
}

impl Tally {
    fn differing(&self) -> usize {
        self.labels - self.agreeing
    }

    /// Takes a row of logits: what one label is chosen by.
    fn add(&mut self, exact: &[f32], other: &[f32]) {
        self.labels += 1;
        self.agreeing += usize::from(argmax(exact) == argmax(other));
        self.logits += exact.len();
        let count = exact.len().max(1) as f64;
        let mean = exact.iter().copied().map(f64::from).sum::<f64>() / count;
        for (exact, other) in exact.iter().zip(other) {
            let deviation = f64::from((exact - other).abs());
            self.largest = self.largest.max(deviation);
            self.sum += deviation;
            self.variance += (f64::from(*exact) - mean).powi(2) / count;
        }
    }

    /// The standard deviation of the logits about their row's mean.
    fn spread(&self) -> f64 {
        (self.variance / self.labels.max(1) as f64).sqrt()
    }
}

/// The place of the largest value.
fn argmax(values: &[f32]) -> Option<usize> {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_and_changed_labels_are_counted() {
        let mut tally = Tally::default();
        tally.add(&[1.0, 3.0], &[1.5, 3.0]);
        tally.add(&[1.0, 3.0], &[3.0, 2.0]);
        assert_eq!((tally.labels, tally.agreeing, tally.differing()), (2, 1, 1));
        assert_eq!((tally.largest, tally.sum, tally.logits), (2.0, 3.5, 4));
        assert_eq!(tally.spread(), 1.0);
    }
}
