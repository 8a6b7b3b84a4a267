//! `galley stream` against the same recipe in process, passes in turn, so that a machine that slows down does so for both.
//!
//! The worker is a process like anybody's, met by its command line, its metrics, its log and its table. What is timed is what
//! its rows say.

mod answers;
mod feed;
mod rows;
mod scrape;
mod worker;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use galley_core::{AnyRecipe, Entry};
use tokio::runtime::Runtime;

use self::{answers::Sample, feed::Feed, rows::Rows, scrape::Scrape, worker::Worker};
use crate::{
    args::{StreamBenchArgs, StreamSource, StreamTable},
    corpus::Corpus,
    error::{Error, Result},
    native::Pass,
    output::Output,
    plan::{described, finish, native_costs, shrink},
    process::{Process, model_arguments},
    progress::Progress,
    report::record::{Native, Record, Run, Streamed},
    setup::{
        Context, calibration_corpus, load, load_options, note_recipe, open_corpus, set_threads,
    },
};

/// Runs native and streamed passes in turn.
///
/// # Errors
/// A pass fails, or a row is missing or wrong.
pub(crate) fn run(args: &StreamBenchArgs, context: &Context) -> Result<()> {
    if args.rate.is_some() && args.from.contains(&StreamSource::List) {
        return Err(Error::option(
            "--rate",
            "a list is read as fast as it can be; expected --from nats://HOST/STREAM alone",
        ));
    }
    set_threads(args.recipe.threads);
    let (entry, options) = load_options(&args.recipe)?;
    let recipe = load(entry, &options)?;
    let mut run =
        described("stream", context, args.output.machine.as_deref()).recipe(entry, &args.size);
    note_recipe(&mut run, &recipe);
    let batch = args.batch.get();
    let few = calibration_corpus(entry, args.output.json)?;
    // A streamed pass takes about as long as the native one before it.
    let per_example: f64 = native_costs(&recipe, &few, &[batch])?.iter().sum();
    let costs = [per_example, cost(per_example, args.rate)].repeat(args.from.len());
    shrink(&mut run, &args.size, &costs, &[batch])?;
    let corpus = open_corpus(entry, run.examples, args.output.json)?;
    let work = costs.iter().sum::<f64>() * (run.examples * run.repeats) as f64;
    let bench = Bench {
        entry,
        recipe: &recipe,
        corpus: &corpus,
        args,
        run: &run,
        feed: Feed::new(&corpus, run.examples)?,
        program: program(args)?,
        name: name(),
        cost: per_example,
        progress: Progress::new(work, args.output.json),
    };
    let mut output = Output::open(&args.output, &run)?;
    let result = bench.run(&mut |record| output.add(&record));
    bench.progress.clear();
    finish(output, result)
}

fn program(args: &StreamBenchArgs) -> Result<PathBuf> {
    match &args.stream_program {
        Some(program) => Ok(program.clone()),
        None => std::env::current_exe().map_err(Error::file("this program")),
    }
}

/// What the ids of this run begin with, so that a table or stream may have been used before.
fn name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    format!("bench-{:x}", since.unwrap_or_default().as_nanos())
}

struct Bench<'a> {
    entry: &'static Entry,
    recipe: &'a AnyRecipe,
    corpus: &'a Corpus,
    args: &'a StreamBenchArgs,
    run: &'a Run,
    feed: Feed,
    program: PathBuf,
    name: String,
    /// Seconds for an example, roughly.
    cost: f64,
    progress: Progress,
}

impl Bench<'_> {
    fn run(&self, each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        let sample = Sample::new(self.recipe, self.corpus, self.run.examples)?;
        for repeat in 0..self.run.repeats {
            for source in &self.args.from {
                let native = self.native(repeat)?;
                let rate = native.items_per_s;
                each(Record::Native(native))?;
                let streamed = self.streamed(source, repeat, rate, &sample)?;
                each(Record::Streamed(streamed))?;
            }
        }
        Ok(())
    }

    fn native(&self, repeat: usize) -> Result<Native> {
        self.progress.label("native");
        let pass = Pass {
            recipe: self.recipe,
            corpus: self.corpus,
            batch: self.args.batch.get(),
            repeat,
            examples: self.run.examples,
            distinct: self.run.examples,
        };
        pass.warm_up()?;
        let native = pass.run(&|done| self.progress.within(done as f64 * self.cost))?;
        self.finish_pass(None);
        Ok(native)
    }

    fn streamed(
        &self,
        source: &StreamSource,
        repeat: usize,
        native_rate: f64,
        sample: &Sample,
    ) -> Result<Streamed> {
        let (kind, url) = match source {
            StreamSource::List => ("list", None),
            StreamSource::Nats(url) => ("nats", Some(url.as_str())),
        };
        self.progress.label(format!("streamed from {kind}"));
        let prefix = format!("{}-{kind}-{repeat}-", self.name);
        let list = self.feed.list(self.corpus, &prefix)?;
        let own_table = || StreamTable::Sqlite(self.feed.folder().join(format!("{prefix}.db")));
        let table = self.args.to.clone().unwrap_or_else(own_table);
        let rate = self.args.rate;
        if let Some(url) = url {
            self.set_up(url)?;
            if rate.is_none() {
                self.publish(url, &list, None)?.wait()?;
            }
        }
        let from = url.map_or_else(|| list.clone().into(), OsString::from);
        let arguments = self.arguments(from, table.argument());
        let mut worker = Worker::start(&self.program, &arguments, self.args.ready_timeout)?;
        let started = worker.started();
        let mut publishing = match (url, rate) {
            (Some(url), Some(rate)) => {
                worker.wait_until_ready()?;
                Some(self.publish(url, &list, Some(rate))?)
            }
            _ => None,
        };
        let examples = self.run.examples;
        let watched = worker.watch(&mut |scrape: &Scrape| {
            if let Some(publishing) = &mut publishing {
                publishing.ended()?;
            }
            let ended = scrape.ended();
            self.progress.within(ended as f64 * cost(self.cost, rate));
            // A list ends by itself, a broker never.
            Ok(url.is_some() && ended >= examples)
        })?;
        if let Some(publishing) = publishing {
            publishing.wait()?;
        }
        let rows = Rows::read(&table, &prefix)?;
        let figures = rows.figures(examples)?;
        sample.compare(&rows, &prefix)?;
        self.finish_pass(rate);
        let items_per_s = examples as f64 / figures.seconds;
        Ok(Streamed {
            source: kind.into(),
            table: table.kind().into(),
            rate,
            repeat,
            examples,
            compared: sample.len(),
            seconds: figures.seconds,
            startup_seconds: figures.startup_seconds(started),
            items_per_s,
            bytes_per_s: figures.bytes as f64 / figures.seconds,
            native_ratio: items_per_s / native_rate,
            latency_ms: figures.latency,
            stages_ms: watched.scrape.stages_ms(),
            batch_size: watched.scrape.batch_size(),
            resident: watched.resident,
            peak_rss_bytes: watched.peak,
        })
    }

    /// Makes the broker's stream, as a user would.
    fn set_up(&self, url: &str) -> Result<()> {
        let recipe = OsString::from(&self.args.recipe.recipe);
        let setup = [
            "stream".into(),
            "setup".into(),
            recipe,
            "--from".into(),
            url.into(),
        ];
        Process::begin("stream setup", &self.program, &setup)?.wait()
    }

    /// Puts the list into it, at so many messages a second or as fast as the broker takes them.
    fn publish(&self, url: &str, list: &Path, rate: Option<f64>) -> Result<Process> {
        let mut feed: Vec<OsString> = vec!["feed".into(), list.into(), "--to".into(), url.into()];
        if let Some(rate) = rate {
            feed.extend(["--rate".into(), format!("{rate}/s").into()]);
        }
        Process::begin("feed", &self.program, &feed)
    }

    fn arguments(&self, from: OsString, to: OsString) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "stream".into(),
            self.entry.name.into(),
            "--from".into(),
            from,
            "--to".into(),
            to,
            "--allow".into(),
            self.feed.folder().into(),
            "--host".into(),
            "127.0.0.1".into(),
            "--metrics-port".into(),
            "0".into(),
            "--log".into(),
            "info".into(),
            "--log-format".into(),
            "text".into(),
        ];
        arguments.extend(model_arguments(&self.args.recipe));
        arguments.extend(self.args.stream_args.iter().map(OsString::from));
        arguments
    }

    fn finish_pass(&self, rate: Option<f64>) {
        let work = self.run.examples as f64 * cost(self.cost, rate);
        self.progress.finish_cell(work);
    }
}

/// Seconds for an example of a pass that is published at a rate, or of any other.
fn cost(cost: f64, rate: Option<f64>) -> f64 {
    rate.map_or(cost, |rate| cost.max(1.0 / rate))
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Client(error.to_string()))
}
