//! A recipe on each device, in each dtype, in batches of each size: what each takes, holds and consumes, and what it answers.
//!
//! The recipe is loaded for one device and dtype at a time, so that what the process holds is that one's. What cannot run is a
//! record too, and the rest goes on.

mod length;

use std::time::{Duration, Instant};

use candle_core::Device;
use galley_core::{AnyRecipe, DeviceName, Entry, ForwardError, LoadOptions};

use crate::{
    agreement::{Logits, Tally, logits},
    args::{CompareArgs, DtypeArg, Length, RecipeArgs, SizeArgs},
    corpus::{Corpus, CorpusKind},
    error::{Error, Result},
    interrupt,
    meter::{Facts, Meter},
    native::Pass,
    output::Output,
    plan::{described, finish, sizes},
    progress::Progress,
    report::{
        COMPARE,
        record::{Loaded, Missing, Record},
        resident,
    },
    setup::{Context, described_corpus, load, load_options, open_kind, seconds, set_threads},
};

/// Batches of a pass: few enough to end, and enough to be more than one.
const FEWEST: usize = 3;
const MOST: usize = 2000;
/// The largest batch that answers are compared in.
const COMPARED_BATCH: usize = 32;

/// Runs a comparison.
///
/// # Errors
/// The recipe cannot be loaded on the CPU in f32, or figures cannot be written.
pub(crate) fn run(args: &CompareArgs, context: &Context) -> Result<()> {
    set_threads(args.threads);
    let pass = seconds("--seconds", args.seconds)?;
    let (entry, options) = load_options(&first(args))?;
    let exact = load(entry, &options)?;
    let size = SizeArgs {
        examples: args.examples,
        repeats: args.repeats,
        seconds: Some(args.seconds),
    };
    let mut run = described(COMPARE, context, args.output.machine.as_deref()).recipe(entry, &size);
    run.weights = exact.info().weights.clone();
    run.device = list(&args.devices);
    run.dtype = list(
        &args
            .dtypes
            .iter()
            .map(|dtype| dtype.name())
            .collect::<Vec<_>>(),
    );
    let kind = args.corpus.unwrap_or_else(|| CorpusKind::of(entry));
    if !kind.suits(entry) {
        let reason = format!("{} does not take the corpus {}", entry.name, kind.name());
        return Err(Error::option("--corpus", reason));
    }
    run.corpus = Some(described_corpus(kind));
    let mut corpus = open_kind(kind, run.examples, args.output.json)?;
    if let Length::Exactly(length) = args.length {
        run.length = Some(length.get());
        corpus = Corpus::of_texts(corpus.kind(), length::texts(&exact, &corpus, length.get())?);
    }
    let mut batches = sizes(&args.batch);
    batches.sort_unstable();
    batches.dedup();
    let compared = args.compared.get().min(run.examples);
    let progress = Progress::counting("answers in f32", args.output.json);
    let expected = answers(&exact, &corpus, compared, COMPARED_BATCH, &|done| {
        progress.count(done, compared)
    });
    progress.clear();
    let expected = expected?;
    drop(exact);
    let cells = args.devices.len() * args.dtypes.len() * batches.len() * args.repeats.get();
    let output = Output::open(&args.output, &run)?;
    let mut comparison = Comparison {
        entry,
        options,
        corpus: &corpus,
        examples: run.examples,
        repeats: args.repeats.get(),
        pass,
        expected,
        done: Vec::new(),
        progress: Progress::new(cells as f64 * args.seconds, args.output.json),
        output,
    };
    let result = args
        .devices
        .iter()
        .try_for_each(|&device| comparison.device(device, &args.dtypes, &batches));
    comparison.progress.clear();
    finish(comparison.output, result)
}

/// The recipe in f32 on the CPU, which answers are compared with.
fn first(args: &CompareArgs) -> RecipeArgs {
    RecipeArgs {
        recipe: args.recipe.clone(),
        weights: args.weights.clone(),
        device: DeviceName::Cpu,
        dtype: DtypeArg::F32,
        options: args.options.clone(),
        threads: args.threads,
    }
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(",")
}

/// The logits of the first inputs.
fn answers(
    recipe: &AnyRecipe,
    corpus: &Corpus,
    inputs: usize,
    batch: usize,
    done: &dyn Fn(usize),
) -> Result<Vec<Logits>> {
    let mut all = Vec::with_capacity(inputs);
    for start in (0..inputs).step_by(batch) {
        let end = inputs.min(start + batch);
        all.extend(logits(recipe, corpus, start..end)?);
        done(end);
    }
    Ok(all)
}

/// What is the same for all devices and dtypes, and where figures go.
struct Comparison<'a> {
    entry: &'static Entry,
    /// In f32 on the CPU.
    options: LoadOptions,
    corpus: &'a Corpus,
    /// Inputs that are measured; the corpus has more, to warm up with.
    examples: usize,
    repeats: usize,
    /// Roughly what a pass takes.
    pass: Duration,
    /// The first inputs' logits in f32 on the CPU.
    expected: Vec<Logits>,
    /// Devices and dtypes that have been measured.
    done: Vec<(String, String)>,
    progress: Progress,
    output: Output,
}

impl Comparison<'_> {
    fn device(&mut self, name: DeviceName, dtypes: &[DtypeArg], batches: &[usize]) -> Result<()> {
        let cells = batches.len() * self.repeats;
        let device = match name.open() {
            Ok(device) => device,
            Err(reason) => {
                let name = name.to_string();
                let reason = reason
                    .strip_prefix(&format!("{name}: "))
                    .unwrap_or(&reason)
                    .to_owned();
                self.missing(name, None, None, reason)?;
                self.skip(cells * dtypes.len());
                return Ok(());
            }
        };
        let meter = Meter::of(&device);
        for dtype in dtypes {
            interrupt::check()?;
            if let Some(recipe) = self.load(&device, *dtype, &meter)? {
                self.measure(&recipe, batches, &meter)?;
                self.compare(&recipe, batches)?;
            } else {
                self.skip(cells);
            }
        }
        Ok(())
    }

    /// Loads the recipe on a device in a dtype; none where that cannot be or has been.
    fn load(
        &mut self,
        device: &Device,
        dtype: DtypeArg,
        meter: &Meter,
    ) -> Result<Option<AnyRecipe>> {
        let options = LoadOptions {
            device: device.clone(),
            dtype: dtype.on(device),
            ..self.options.clone()
        };
        let (name, asked) = (options.device_name(), dtype.name());
        self.progress.label(format!("loading, {name}, {asked}"));
        let started = Instant::now();
        let recipe = match load(self.entry, &options) {
            Ok(recipe) => recipe,
            Err(error) => {
                self.missing(name, Some(asked.into()), None, error.to_string())?;
                return Ok(None);
            }
        };
        let info = recipe.info();
        let computed = (info.device.clone(), info.dtype.to_owned());
        if self.done.contains(&computed) {
            let reason = format!(
                "it is computed in {} on {}, which was measured",
                info.dtype, info.device
            );
            self.missing(name, Some(asked.into()), None, reason)?;
            return Ok(None);
        }
        let Facts {
            name: device_name,
            memory_bytes,
            driver,
        } = meter.facts();
        let loaded = Loaded {
            device: info.device.clone(),
            dtype: info.dtype.into(),
            seconds: started.elapsed().as_secs_f64(),
            weights: info.weights.clone(),
            cost_unit: info.cost_unit.into(),
            architecture: recipe.architecture(),
            device_name,
            device_memory_bytes: memory_bytes,
            driver,
            resident_bytes: resident(std::process::id()),
        };
        self.done.push(computed);
        self.output.add(&Record::Loaded(loaded))?;
        Ok(Some(recipe))
    }

    /// Passes over all sizes, which take turns; sizes grow, so that what the first passes hold is not what larger ones left.
    fn measure(&mut self, recipe: &AnyRecipe, batches: &[usize], meter: &Meter) -> Result<()> {
        let mut left = batches.to_vec();
        for repeat in 0..self.repeats {
            for batch in left.clone() {
                if !left.contains(&batch) {
                    continue;
                }
                let (device, dtype) =
                    (recipe.info().device.clone(), recipe.info().dtype.to_owned());
                self.progress
                    .label(format!("{device}, {dtype}, batch {batch}"));
                match self.pass(recipe, batch, repeat, meter) {
                    Ok(record) => self.output.add(&record)?,
                    Err(Error::Forward(error)) => {
                        // What is too large for the memory is so for all larger sizes.
                        let full = matches!(error, ForwardError::OutOfMemory);
                        let fails = |size: usize| size == batch || full && size > batch;
                        for &size in left.iter().filter(|size| fails(**size)) {
                            let reason = error.to_string();
                            self.missing(device.clone(), Some(dtype.clone()), Some(size), reason)?;
                        }
                        left.retain(|&size| !fails(size));
                    }
                    Err(error) => return Err(error),
                }
                self.skip(1);
            }
        }
        Ok(())
    }

    fn pass(
        &self,
        recipe: &AnyRecipe,
        batch: usize,
        repeat: usize,
        meter: &Meter,
    ) -> Result<Record> {
        let mut pass = Pass {
            recipe,
            corpus: self.corpus,
            batch,
            repeat,
            examples: 0,
            distinct: self.examples,
        };
        let cost = pass.warm_up()?;
        pass.examples = batch * batches_within(self.pass, cost * batch as f64);
        let of = self.pass.as_secs_f64() / pass.examples as f64;
        let progress = |done: usize| self.progress.within(done as f64 * of);
        let (native, readings) = meter.during(|| pass.run(&progress));
        let mut native = native?;
        native.device = Some(recipe.info().device.clone());
        native.dtype = Some(recipe.info().dtype.into());
        native.energy = readings.energy;
        native.device_peak_bytes = readings.device_peak_bytes;
        Ok(Record::Native(native))
    }

    /// Compares the first inputs' answers with those of f32 on the CPU.
    fn compare(&mut self, recipe: &AnyRecipe, batches: &[usize]) -> Result<()> {
        let (device, dtype) = (recipe.info().device.clone(), recipe.info().dtype.to_owned());
        self.progress.label(format!("{device}, {dtype}, answers"));
        let sizes = batches
            .iter()
            .copied()
            .filter(|&size| size <= COMPARED_BATCH);
        let batch = sizes.max().unwrap_or(1);
        let mut tally = Tally::default();
        let reason = match answers(recipe, self.corpus, self.expected.len(), batch, &|_| ()) {
            Ok(got) => {
                tally.compare(&self.expected, &got);
                "the recipe gives no logits".to_owned()
            }
            Err(Error::Forward(error)) => error.to_string(),
            Err(error) => return Err(error),
        };
        match tally.agreement(recipe) {
            Some(figure) => self.output.add(&Record::Agreement(figure)),
            None => {
                let reason = format!("answers are not compared with f32: {reason}");
                self.missing(device, Some(dtype), None, reason)
            }
        }
    }

    fn missing(
        &mut self,
        device: String,
        dtype: Option<String>,
        batch: Option<usize>,
        reason: String,
    ) -> Result<()> {
        self.output.add(&Record::Missing(Missing {
            device,
            dtype,
            batch,
            reason,
        }))
    }

    /// So many passes are done, or will not be.
    fn skip(&self, passes: usize) {
        self.progress
            .finish_cell(passes as f64 * self.pass.as_secs_f64());
    }
}

/// Batches of a pass, when one takes so many seconds.
fn batches_within(pass: Duration, batch_seconds: f64) -> usize {
    ((pass.as_secs_f64() / batch_seconds.max(1e-9)) as usize).clamp(FEWEST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_has_a_few_batches_at_least() {
        let within = |seconds| batches_within(Duration::from_secs(4), seconds);
        assert_eq!([within(0.1), within(3.0), within(0.0)], [40, FEWEST, MOST]);
    }
}
