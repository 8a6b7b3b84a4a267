//! Runs in process: the recipe's three stages without a server, and the model alone.

mod together;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use galley_core::{AnyRecipe, ErasedRecipe, Input, Prepared};
use galley_nn::bench::resident;
use rayon::prelude::*;

use crate::{
    corpus::Corpus,
    error::{Error, Result},
    interrupt,
    report::{
        peak_rss,
        record::{Model, Native, Packed, Samples},
        reset_peak_rss,
    },
    stats::{Latency, milliseconds},
};

/// One pass over a corpus.
pub(crate) struct Pass<'a> {
    pub(crate) recipe: &'a AnyRecipe,
    pub(crate) corpus: &'a Corpus,
    pub(crate) batch: usize,
    pub(crate) repeat: usize,
    pub(crate) examples: usize,
    /// Examples of the corpus that are measured, in turns where the pass has more; the rest are for warming up.
    pub(crate) distinct: usize,
}

/// What a batch took and cost.
#[derive(Clone, Copy, Debug)]
struct BatchTime {
    prepare: Duration,
    forward: Duration,
    finish: Duration,
    /// The sum of its items, in the recipe's unit.
    cost: u64,
}

impl BatchTime {
    fn without_prepare(&self) -> Duration {
        self.forward + self.finish
    }

    fn total(&self) -> Duration {
        self.prepare + self.without_prepare()
    }
}

impl Pass<'_> {
    /// Runs the pass; `done` is told after each batch how many examples have been.
    ///
    /// Stages follow each other without overlap. Only the stages are timed: reading the examples is not, as a server's
    /// clients have theirs at hand too.
    pub(crate) fn run(&self, done: &dyn Fn(usize)) -> Result<Native> {
        self.start();
        let mut times = Vec::with_capacity(self.examples.div_ceil(self.batch));
        for batch in self.batches() {
            interrupt::check()?;
            let end = batch.end;
            times.push(self.batch_of(batch.map(|i| i % self.distinct))?);
            done(end);
        }
        let seconds = times.iter().map(BatchTime::total).sum();
        Ok(self.figures(&times, seconds, 1))
    }

    fn start(&self) {
        reset_peak_rss();
        // What a warm-up has decoded does not count.
        self.recipe.decoded();
    }

    /// The numbers of each batch's examples.
    fn batches(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = (0..self.examples).step_by(self.batch);
        starts.map(|start| start..self.examples.min(start + self.batch))
    }

    /// What batches took, so many of them at a time, and all together.
    fn figures(&self, times: &[BatchTime], all: Duration, in_flight: usize) -> Native {
        let sum = |of: fn(&BatchTime) -> Duration| {
            times.iter().map(of).sum::<Duration>() / u32::try_from(in_flight).unwrap_or(u32::MAX)
        };
        let (prepare, rest) = (sum(|time| time.prepare), sum(BatchTime::without_prepare));
        let latency = |of: fn(&BatchTime) -> Duration| {
            Latency::of(times.iter().map(of).collect()).unwrap_or_default()
        };
        let samples = |of: fn(&BatchTime) -> Duration| {
            Packed(times.iter().map(of).map(milliseconds).collect())
        };
        let decoded = self.recipe.decoded();
        let decoded_on_device = self.recipe.decoder().map(|_| {
            let all = decoded.on_device + decoded.on_cpu;
            decoded.on_device as f64 / all.max(1) as f64
        });
        let cost: u64 = times.iter().map(|time| time.cost).sum();
        Native {
            batch: self.batch,
            batches_in_flight: (in_flight > 1).then_some(in_flight),
            repeat: self.repeat,
            examples: self.examples,
            seconds: all.as_secs_f64(),
            prepare_seconds: prepare.as_secs_f64(),
            items_per_s: rate(self.examples, all),
            items_per_s_without_prepare: rate(self.examples, rest),
            latency_ms: latency(BatchTime::total),
            latency_without_prepare_ms: latency(BatchTime::without_prepare),
            peak_rss_bytes: peak_rss(None),
            finish_seconds: Some(sum(|time| time.finish).as_secs_f64()),
            cost: Some(cost as f64 / self.examples.max(1) as f64),
            decoded_on_device,
            samples: Some(Samples {
                prepare_ms: samples(|time| time.prepare),
                forward_ms: samples(|time| time.forward),
                finish_ms: samples(|time| time.finish),
            }),
            ..Native::default()
        }
    }

    /// Runs a few batches of examples that are not measured, and gives the seconds that an example takes.
    pub(crate) fn warm_up(&self) -> Result<f64> {
        let spare = self.distinct..self.corpus.len();
        let started = Instant::now();
        let (mut batches, mut best) = (0, f64::INFINITY);
        while batches < 3 && (batches == 0 || started.elapsed() < Duration::from_millis(500)) {
            let first = batches * self.batch;
            let examples = (first..first + self.batch).map(|i| spare.start + i % spare.len());
            let time = self.batch_of(examples)?;
            best = best.min(time.total().as_secs_f64() / self.batch as f64);
            batches += 1;
        }
        Ok(best)
    }

    fn batch_of(&self, examples: impl Iterator<Item = usize> + Clone) -> Result<BatchTime> {
        let inputs = examples.clone().map(|index| self.corpus.input(index));
        self.answered(inputs.collect::<Result<_>>()?, examples)
    }

    /// Times a batch whose inputs are at hand.
    fn answered(
        &self,
        inputs: Vec<Input>,
        examples: impl Iterator<Item = usize>,
    ) -> Result<BatchTime> {
        let grain = grain(self.recipe.info().inline_bytes, &inputs);
        let started = Instant::now();
        let prepared = inputs
            .into_par_iter()
            .with_min_len(grain)
            .map(|input| self.recipe.prepare(input))
            .collect::<Vec<_>>()
            .into_iter()
            .zip(examples)
            .map(|(item, index)| {
                item.map_err(|source| Error::Example {
                    corpus: self.corpus.kind().name(),
                    index,
                    source,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let prepare = started.elapsed();
        let cost = prepared.iter().map(|item| u64::from(item.cost())).sum();
        let before = Instant::now();
        let raw = forward(self.recipe.as_ref(), &prepared)?;
        let forward = before.elapsed();
        let answers: Vec<_> = prepared
            .into_par_iter()
            .zip(raw)
            .with_min_len(grain)
            .map(|(item, raw)| self.recipe.finish(item, raw))
            .collect();
        let finish = before.elapsed() - forward;
        drop(answers);
        Ok(BatchTime {
            prepare,
            forward,
            finish,
            cost,
        })
    }
}

/// How many inputs one task of the pool takes at least, so that handing it over costs less than it saves.
///
/// A request's inputs are handed over and waited for; a batch's are divided among threads that wake at the same time and one that is
/// awake, so that a part of what is too little for that is enough.
fn grain(inline_bytes: usize, inputs: &[Input]) -> usize {
    const PART: usize = 8;
    let bytes: usize = inputs.iter().map(Input::size).sum();
    let mean = (bytes / inputs.len().max(1)).max(1);
    (inline_bytes / PART / mean).max(1)
}

pub(crate) fn forward(
    recipe: &dyn ErasedRecipe,
    prepared: &[Prepared],
) -> Result<Vec<galley_core::RawOutput>> {
    let most = recipe.info().max_batch_size.unwrap_or(usize::MAX).max(1);
    let items: Vec<&Prepared> = prepared.iter().collect();
    let mut raw = Vec::with_capacity(items.len());
    for batch in items.chunks(most) {
        raw.extend(recipe.forward(batch)?);
    }
    Ok(raw)
}

fn rate(examples: usize, time: Duration) -> f64 {
    examples as f64 / time.as_secs_f64().max(1e-9)
}

/// Made-up items, which are timed as one batch.
pub(crate) enum Sizes {
    /// So many items of one size, or of the recipe's typical one.
    Alike(usize, Option<usize>),
    /// An item of each size.
    Mixed(Vec<usize>),
}

impl Sizes {
    fn items(&self) -> Vec<Option<usize>> {
        match self {
            Self::Alike(count, size) => vec![*size; *count],
            Self::Mixed(sizes) => sizes.iter().copied().map(Some).collect(),
        }
    }

    /// The shape of the batch as other frameworks' figures write it; of a mixed one, the sizes.
    fn shape(&self, cost_unit: &str) -> Vec<usize> {
        match (self, cost_unit) {
            (Self::Alike(batch, None), _) => vec![*batch],
            (Self::Alike(batch, Some(size)), "images") => vec![*batch, 3, *size, *size],
            (Self::Alike(batch, Some(size)), _) => vec![*batch, *size],
            (Self::Mixed(sizes), _) => sizes.clone(),
        }
    }
}

/// Times the model alone on a batch of made-up items, for about `budget`.
pub(crate) fn model_alone(recipe: &AnyRecipe, sizes: &Sizes, budget: Duration) -> Result<Model> {
    let items: Vec<Prepared> = (sizes.items().into_iter().zip(0..))
        .map(|(size, seed)| recipe.sample(size, seed))
        .collect();
    let batch = items.len();
    let (median, runs) = median_of(budget, || forward(recipe.as_ref(), &items).map(drop))?;
    let (done, repetitions) = resident(runs, || forward(recipe.as_ref(), &items).map(drop));
    done?;
    let info = recipe.info();
    Ok(Model {
        peer: "galley".into(),
        model: info.name.into(),
        batch,
        shape: sizes.shape(info.cost_unit),
        ms: milliseconds(median),
        resident_ms: resident_ms(repetitions, runs),
        items_per_s: rate(batch, median),
        runs,
        dtype: info.dtype.into(),
        weights: info.weights.clone(),
    })
}

/// The milliseconds of one of so many passes on a device, if there were any.
pub(crate) fn resident_ms(repetitions: Duration, runs: usize) -> Option<f64> {
    (!repetitions.is_zero()).then(|| milliseconds(repetitions) / runs as f64)
}

/// The median time of a function and how often it was run: once unmeasured, once to see how long it takes, then 3 to
/// 200 times.
pub(crate) fn median_of(
    budget: Duration,
    mut run: impl FnMut() -> Result<()>,
) -> Result<(Duration, usize)> {
    let mut timed = || {
        let started = Instant::now();
        run().map(|()| started.elapsed())
    };
    timed()?;
    let once = timed()?.as_secs_f64().max(1e-9);
    let runs = ((budget.as_secs_f64() / once) as usize).clamp(3, 200);
    let mut times = (0..runs)
        .map(|_| timed())
        .collect::<Result<Vec<Duration>>>()?;
    times.sort_unstable();
    Ok((times[runs / 2], runs))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use galley_core::LoadOptions;

    use super::*;
    use crate::corpus::{CorpusKind, SEED};

    #[test]
    fn a_pass_counts_each_example_once_and_splits_its_time() {
        let options = LoadOptions {
            options: [("sleep".to_owned(), "4ms".to_owned())].into(),
            ..LoadOptions::default()
        };
        let recipe = galley_catalog::load("echo", &options).unwrap();
        let corpus = Corpus::open(CorpusKind::Ner, 80, SEED, &|_, _| ()).unwrap();
        let pass = Pass {
            recipe: &recipe,
            corpus: &corpus,
            batch: 32,
            repeat: 0,
            examples: 70,
            distinct: 70,
        };
        let seen = RefCell::new(Vec::new());
        let native = pass.run(&|done| seen.borrow_mut().push(done)).unwrap();
        assert_eq!(*seen.borrow(), [32, 64, 70]);
        assert!(native.seconds >= 0.012, "{native:?}");
        assert!(
            native.prepare_seconds < native.seconds - 0.012,
            "{native:?}"
        );
        assert!(native.items_per_s < native.items_per_s_without_prepare);
        assert!(native.latency_ms.p50 >= 4.0);
        let samples = native.samples.unwrap();
        assert_eq!(samples.prepare_ms.0.len(), 3);
        assert!(samples.forward_ms.0.iter().all(|&ms| ms >= 4.0));
        assert_eq!((native.cost, native.batches_in_flight), (Some(1.0), None));
        assert!(pass.warm_up().unwrap() >= 0.004 / 32.0);

        let seen = RefCell::new(Vec::new());
        let together = pass.run_together(2, &|done| seen.borrow_mut().push(done));
        let together = together.unwrap();
        assert_eq!(seen.borrow().len(), 3);
        assert_eq!(seen.borrow().last(), Some(&70));
        assert_eq!(together.batches_in_flight, Some(2));
        // Three batches, two of them at a time: a batch after the other two, and parts of what both threads did.
        assert!(together.seconds >= 0.008, "{together:?}");
        assert!(together.prepare_seconds < together.seconds, "{together:?}");
        assert_eq!(together.samples.unwrap().forward_ms.0.len(), 3);
    }

    #[test]
    fn a_pass_ends_with_the_first_batch_that_fails() {
        let options = LoadOptions::default();
        let recipe = galley_catalog::load("efficientnet_lite0", &options).unwrap();
        let corpus = Corpus::open(CorpusKind::Ner, 8, SEED, &|_, _| ()).unwrap();
        let pass = Pass {
            recipe: &recipe,
            corpus: &corpus,
            batch: 2,
            repeat: 0,
            examples: 8,
            distinct: 8,
        };
        let error = pass.run_together(3, &|_| ()).unwrap_err().to_string();
        assert!(error.contains("an image file"), "{error}");
    }

    #[test]
    fn tasks_are_as_large_as_the_recipe_asks() {
        let inputs: Vec<_> = (0..10).map(|_| Input::text("x".repeat(100))).collect();
        assert_eq!(grain(8000, &inputs), 10);
        assert_eq!(grain(0, &inputs), 1);
        assert_eq!(grain(usize::MAX, &[Input::text("")]), usize::MAX / 8);
    }

    #[test]
    fn shapes_are_those_of_the_model() {
        let alike = |size| Sizes::Alike(8, size);
        assert_eq!(alike(Some(288)).shape("images"), [8, 3, 288, 288]);
        assert_eq!(alike(Some(64)).shape("tokens"), [8, 64]);
        assert_eq!(alike(None).shape("tokens"), [8]);
        let mixed = Sizes::Mixed(vec![5, 9]);
        assert_eq!(mixed.shape("tokens"), [5, 9]);
        assert_eq!(mixed.items(), [Some(5), Some(9)]);
    }

    #[test]
    fn the_median_is_of_at_least_three_runs() {
        let mut runs = 0;
        let (_, counted) = median_of(Duration::ZERO, || {
            runs += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!((runs, counted), (5, 3));
    }
}
