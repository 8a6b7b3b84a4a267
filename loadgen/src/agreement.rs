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

/// An example's rows of logits, each of which chooses a label.
pub(crate) type Logits = Vec<Vec<f32>>;

impl Comparison<'_> {
    /// Runs both; `done` is told after each batch how many examples have been.
    pub(crate) fn run(&self, done: &dyn Fn(usize)) -> Result<Agreement> {
        let mut tally = Tally::default();
        for start in (0..self.examples).step_by(self.batch) {
            let end = self.examples.min(start + self.batch);
            let [exact, other] =
                [self.exact, self.other].map(|recipe| logits(recipe, self.corpus, start..end));
            tally.compare(&exact?, &other?);
            done(end);
        }
        tally.agreement(self.other).ok_or_else(|| {
            let reason = format!("{} gives no logits to compare", self.exact.info().name);
            Error::option("RECIPE", reason)
        })
    }
}

/// The logits of examples that are run as one batch.
pub(crate) fn logits(
    recipe: &AnyRecipe,
    corpus: &Corpus,
    examples: std::ops::Range<usize>,
) -> Result<Vec<Logits>> {
    interrupt::check()?;
    let prepared = examples
        .into_par_iter()
        .map(|index| {
            let input = corpus.input(index)?;
            recipe.prepare(input).map_err(|source| Error::Example {
                corpus: corpus.kind().name(),
                index,
                source,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let raw = forward(recipe.as_ref(), &prepared)?;
    Ok(raw.iter().map(|raw| recipe.logits(raw)).collect())
}

/// What has been compared so far.
#[derive(Default)]
pub(crate) struct Tally {
    examples: usize,
    agreeing_examples: usize,
    labels: usize,
    agreeing: usize,
    logits: usize,
    largest: f64,
    /// The largest difference of a score, which is what a softmax makes of logits.
    largest_score: f64,
    /// Of the deviations.
    sum: f64,
    /// Of the exact logits' variances, one for each row.
    variance: f64,
}

impl Tally {
    /// Takes examples as both have answered them.
    pub(crate) fn compare(&mut self, exact: &[Logits], other: &[Logits]) {
        for (exact, other) in exact.iter().zip(other) {
            let before = self.differing();
            for (exact, other) in exact.iter().zip(other) {
                self.add(exact, other);
            }
            self.examples += 1;
            self.agreeing_examples += usize::from(self.differing() == before);
        }
    }

    /// The figure, of the recipe that was compared; none where there was nothing to compare.
    pub(crate) fn agreement(&self, other: &AnyRecipe) -> Option<Agreement> {
        let info = other.info();
        (self.labels > 0).then(|| Agreement {
            model: info.name.into(),
            weights: info.weights.clone(),
            dtype: info.dtype.into(),
            device: Some(info.device.clone()),
            examples: self.examples,
            agreeing_examples: self.agreeing_examples,
            labels: self.labels,
            agreeing_labels: self.agreeing,
            largest_deviation: self.largest,
            largest_score_difference: Some(self.largest_score),
            mean_deviation: self.sum / self.logits.max(1) as f64,
            logit_spread: self.spread(),
        })
    }

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
        for (exact, other) in softmax(exact).zip(softmax(other)) {
            self.largest_score = self.largest_score.max((exact - other).abs());
        }
    }

    /// The standard deviation of the logits about their row's mean.
    fn spread(&self) -> f64 {
        (self.variance / self.labels.max(1) as f64).sqrt()
    }
}

/// The scores of a row of logits.
fn softmax(logits: &[f32]) -> impl Iterator<Item = f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let power = move |&logit: &f32| f64::from(logit - most).exp();
    let sum: f64 = logits.iter().map(power).sum();
    logits.iter().map(move |logit| power(logit) / sum)
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
        // A difference of 2 between two logits is a score of 0.88, and one of -1 a score of 0.27.
        assert!(
            (tally.largest_score - 0.61186).abs() < 1e-4,
            "{}",
            tally.largest_score
        );
    }

    #[test]
    fn an_example_agrees_if_all_its_labels_do() {
        let mut tally = Tally::default();
        let [a, b] = [vec![1.0, 0.0], vec![0.0, 1.0]];
        tally.compare(
            &[vec![a.clone(), b.clone()], vec![a.clone()]],
            &[vec![a.clone(), a.clone()], vec![a]],
        );
        assert_eq!(
            (
                tally.examples,
                tally.agreeing_examples,
                tally.labels,
                tally.agreeing
            ),
            (2, 1, 3, 2)
        );
    }
}
