//! The subcommands: each loads what it needs, runs its passes and hands the figures to the output.

use std::{num::NonZeroUsize, sync::Arc};

use candle_core::{DType, Device};
use galley_core::LoadOptions;

use crate::{
    against,
    agreement::Comparison,
    args::{
        AgreementArgs, BenchCommand, MatrixArgs, NativeArgs, OperatorsArgs, ReportArgs, ServedArgs,
        SizeArgs,
    },
    compare,
    error::{Error, Result},
    history, interrupt,
    load::run as load_test,
    matrix::Matrix,
    models,
    native::{Pass, Sizes, model_alone},
    operators,
    output::{Output, print_line},
    plan::{described, finish, native_costs, note_server, shrink, sizes},
    progress::Progress,
    report::{
        merge,
        record::{Record, Run, ServerInfo},
        rewrite,
    },
    served::{LoadGenerator, Setting},
    setup::{
        Context, backend, calibration_corpus, load, load_options, note_recipe, open_corpus,
        seconds, set_threads,
    },
    stream,
};

/// Time for one figure of the model alone.
const MODEL_SECONDS: f64 = 4.0;

/// Runs a subcommand: figures go to a folder and to standard output, progress to standard error.
///
/// # Errors
/// See [`Error`]. Failed requests are figures, not errors, as long as any request was answered well.
pub fn run(command: &BenchCommand, context: &Context) -> anyhow::Result<()> {
    interrupt::install();
    match command {
        BenchCommand::Native(args) if args.no_prepare => model(args, context)?,
        BenchCommand::Native(args) => native(args, context)?,
        BenchCommand::Served(args) => served(args, context)?,
        BenchCommand::Matrix(args) => matrix(args, context)?,
        BenchCommand::Operators(args) => operators(args, context)?,
        BenchCommand::Agreement(args) => agreement(args, context)?,
        BenchCommand::Stream(args) => stream::run(args, context)?,
        BenchCommand::Compare(args) => compare::run(args, context)?,
        BenchCommand::Models(args) => models::run(args, context)?,
        BenchCommand::Load(args) => load_test(args, context)?,
        BenchCommand::Report(args) => report(args)?,
        BenchCommand::History(args) => history::run(args)?,
        BenchCommand::Against(args) => against::run(args, context)?,
    }
    Ok(())
}

fn native(args: &NativeArgs, context: &Context) -> Result<()> {
    set_threads(args.recipe.threads);
    let (entry, options) = load_options(&args.recipe)?;
    let recipe = load(entry, &options)?;
    let mut run =
        described("native", context, args.output.machine.as_deref()).recipe(entry, &args.size);
    note_recipe(&mut run, &recipe);
    let batches = sizes(&args.batch);
    let few = calibration_corpus(entry, args.output.json)?;
    let costs = native_costs(&recipe, &few, &batches)?;
    shrink(&mut run, &args.size, &costs, &batches)?;
    let corpus = open_corpus(entry, run.examples, args.output.json)?;
    let per_example: f64 = costs.iter().sum();
    let work = per_example * (run.examples * run.repeats) as f64;
    let progress = Progress::new(work, args.output.json);
    let mut output = Output::open(&args.output, &run)?;
    let result = (|| {
        for repeat in 0..run.repeats {
            for (&batch, &cost) in batches.iter().zip(&costs) {
                progress.label(format!("native, batch {batch}"));
                let pass = Pass {
                    recipe: &recipe,
                    corpus: &corpus,
                    batch,
                    repeat,
                    examples: run.examples,
                    distinct: run.examples,
                };
                pass.warm_up()?;
                let done = |done: usize| progress.within(done as f64 * cost);
                let native = match args.batches_in_flight.get() {
                    1 => pass.run(&done)?,
                    in_flight => pass.run_together(in_flight, &done)?,
                };
                output.add(&Record::Native(native))?;
                progress.finish_cell(run.examples as f64 * cost);
            }
        }
        Ok(())
    })();
    progress.clear();
    finish(output, result)
}

fn model(args: &NativeArgs, context: &Context) -> Result<()> {
    set_threads(args.recipe.threads);
    let (entry, options) = load_options(&args.recipe)?;
    let budget = seconds("--seconds", args.size.seconds.unwrap_or(MODEL_SECONDS))?;
    let recipe = load(entry, &options)?;
    let mut run = described("model", context, args.output.machine.as_deref()).bare();
    run.recipe = Some(entry.name.into());
    note_recipe(&mut run, &recipe);
    let shapes: Vec<Option<usize>> = match args.shape.as_slice() {
        [] => vec![None],
        shapes => shapes.iter().map(|shape| Some(shape.get())).collect(),
    };
    let batches = if args.mixed.is_empty() {
        let of_shape = |shape| {
            let batches = sizes(&args.batch).into_iter();
            batches.map(move |batch| Sizes::Alike(batch, shape))
        };
        shapes.into_iter().flat_map(of_shape).collect()
    } else {
        vec![Sizes::Mixed(sizes(&args.mixed))]
    };
    let mut output = Output::open(&args.output, &run)?;
    let result = (|| {
        for batch in &batches {
            interrupt::check()?;
            output.add(&Record::Model(model_alone(&recipe, batch, budget)?))?;
        }
        Ok(())
    })();
    finish(output, result)
}

/// The most items that the clients of any of these settings have under way.
fn items_in_flight(batches: &[NonZeroUsize], concurrencies: &[NonZeroUsize]) -> usize {
    let largest = |sizes: &[NonZeroUsize]| sizes.iter().map(|size| size.get()).max().unwrap_or(1);
    largest(batches) * largest(concurrencies)
}

fn served(args: &ServedArgs, context: &Context) -> Result<()> {
    if let Some(rate) = args.rate {
        seconds("--rate", rate)
            .map_err(|_| Error::option("--rate", format!("expected a rate above 0, got {rate}")))?;
    }
    let (entry, _) = load_options(&args.recipe)?;
    let mut run =
        described("served", context, args.output.machine.as_deref()).recipe(entry, &args.size);
    let load = LoadGenerator::new(
        entry,
        &args.recipe,
        &args.target,
        items_in_flight(&args.batch, &args.concurrency),
    )?;
    note_server(&mut run, load.info());
    run.client_threads = Some(args.target.client_threads());
    let few = load.payloads(&Arc::new(calibration_corpus(entry, args.output.json)?))?;
    let settings = settings(&args.batch, &args.concurrency, args.rate);
    let costs = settings
        .iter()
        .map(|&setting| load.calibrate(setting, &few))
        .collect::<Result<Vec<_>>>()?;
    shrink(&mut run, &args.size, &costs, &sizes(&args.batch))?;
    let corpus = Arc::new(open_corpus(entry, run.examples, args.output.json)?);
    let payloads = load.payloads(&corpus)?;
    let per_example: f64 = costs.iter().sum();
    let work = per_example * (run.examples * run.repeats) as f64;
    let progress = Progress::new(work, args.output.json);
    let mut output = Output::open(&args.output, &run)?;
    let result = (|| {
        for repeat in 0..run.repeats {
            for (&setting, &cost) in settings.iter().zip(&costs) {
                let Setting {
                    batch, concurrency, ..
                } = setting;
                progress.label(format!("served, batch {batch} x {concurrency}"));
                let setting = Setting { repeat, ..setting };
                let done = |done| progress.within(done as f64 * cost);
                output.add(&Record::Served(load.pass(setting, &payloads, &done)?))?;
                progress.finish_cell(run.examples as f64 * cost);
            }
        }
        Ok(())
    })();
    progress.clear();
    finish(output, result)
}

fn matrix(args: &MatrixArgs, context: &Context) -> Result<()> {
    set_threads(args.recipe.threads);
    let (entry, options) = load_options(&args.recipe)?;
    let recipe = load(entry, &options)?;
    let mut run =
        described("matrix", context, args.output.machine.as_deref()).recipe(entry, &args.size);
    note_recipe(&mut run, &recipe);
    let load = LoadGenerator::new(
        entry,
        &args.recipe,
        &args.target,
        items_in_flight(&args.batch, &args.concurrency),
    )?;
    same_model(&run, load.info(), args.target.url.as_deref())?;
    run.server = Some(load.info().clone());
    run.client_threads = Some(args.target.client_threads());
    let few = Arc::new(calibration_corpus(entry, args.output.json)?);
    let batches = sizes(&args.batch);
    let concurrencies = sizes(&args.concurrency);
    let native = native_costs(&recipe, &few, &batches)?;
    let few = load.payloads(&few)?;
    let served = batches
        .iter()
        .map(|&batch| {
            let setting = Setting {
                batch,
                concurrency: concurrencies[concurrencies.len() / 2],
                rate: None,
                repeat: 0,
            };
            load.calibrate(setting, &few)
        })
        .collect::<Result<Vec<_>>>()?;
    let rows: Vec<f64> = native
        .iter()
        .zip(&served)
        .map(|(native, served)| native + served * concurrencies.len() as f64)
        .collect();
    shrink(&mut run, &args.size, &rows, &batches)?;
    let corpus = Arc::new(open_corpus(entry, run.examples, args.output.json)?);
    let mut output = Output::open(&args.output, &run)?;
    let result = Matrix {
        recipe: &recipe,
        corpus: &corpus,
        load: &load,
        payloads: &load.payloads(&corpus)?,
        batches: &batches,
        concurrencies: &concurrencies,
        native_costs: &native,
        served_costs: &served,
        run: &run,
    }
    .run(args.output.json, &mut |record| output.add(&record));
    finish(output, result)
}

fn operators(args: &OperatorsArgs, context: &Context) -> Result<()> {
    set_threads(args.threads);
    let budget = seconds("--seconds", args.seconds)?;
    let backend = backend(args.device)?;
    let run = described("operators", context, args.output.machine.as_deref()).bare();
    let mut output = Output::open(&args.output, &run)?;
    let result = operators::run(&backend, args.only.as_deref(), budget, |figure| {
        output.add(&Record::Model(figure))
    });
    finish(output, result)
}

fn agreement(args: &AgreementArgs, context: &Context) -> Result<()> {
    set_threads(args.recipe.threads);
    let (entry, options) = load_options(&args.recipe)?;
    let other = load(entry, &options)?;
    let exact = load(
        entry,
        &LoadOptions {
            dtype: DType::F32,
            device: Device::Cpu,
            ..options
        },
    )?;
    let size = SizeArgs {
        examples: args.examples,
        repeats: NonZeroUsize::MIN,
        seconds: None,
    };
    let mut run =
        described("agreement", context, args.output.machine.as_deref()).recipe(entry, &size);
    note_recipe(&mut run, &other);
    let corpus = open_corpus(entry, run.examples, args.output.json)?;
    let progress = Progress::counting("comparing", args.output.json);
    let mut output = Output::open(&args.output, &run)?;
    let comparison = Comparison {
        exact: &exact,
        other: &other,
        corpus: &corpus,
        batch: args.batch.get(),
        examples: run.examples,
    };
    let result = comparison
        .run(&|done| progress.count(done, run.examples))
        .and_then(|figure| output.add(&Record::Agreement(figure)));
    progress.clear();
    finish(output, result)
}

fn report(args: &ReportArgs) -> Result<()> {
    if let Some(out) = &args.out {
        merge(&args.dirs, out)?;
        return print_line(&rewrite(out)?);
    }
    for dir in &args.dirs {
        print_line(&rewrite(dir)?)?;
    }
    Ok(())
}

fn settings(
    batches: &[NonZeroUsize],
    concurrencies: &[NonZeroUsize],
    rate: Option<f64>,
) -> Vec<Setting> {
    let cells = batches
        .iter()
        .flat_map(|batch| concurrencies.iter().map(move |users| (batch, users)));
    cells
        .map(|(batch, concurrency)| Setting {
            batch: batch.get(),
            concurrency: concurrency.get(),
            rate,
            repeat: 0,
        })
        .collect()
}

/// A ratio between two different models would say nothing.
fn same_model(run: &Run, server: &ServerInfo, url: Option<&str>) -> Result<()> {
    let pairs = [
        ("weights", &run.weights, &server.weights),
        ("dtype", &run.dtype, &server.dtype),
        ("device", &run.device, &server.device),
    ];
    for (what, native, served) in pairs {
        if let Some(served) = served.as_ref().filter(|served| *served != native) {
            return Err(Error::Target {
                url: url.unwrap_or("the server that was started").into(),
                reason: format!("expected {what} {native} as in process, got {served}"),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::run as example;

    #[test]
    fn a_server_of_other_weights_is_not_compared_with() {
        let run = example("matrix");
        let mut info = ServerInfo::default();
        assert!(same_model(&run, &info, None).is_ok());
        info.weights = Some("synthetic:1".into());
        let error = same_model(&run, &info, Some("http://x"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("weights none") && error.contains("synthetic:1"),
            "{error}"
        );
    }
}
