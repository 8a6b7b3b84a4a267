//! How much traffic a server bears: an open loop of requests at times that no answer changes.
//!
//! `arrivals` and `replay` say when requests are due, `search` which rate to try next, `stopping` and `course` what is known of one;
//! all of these are plain data. `point` runs one rate, `session` one after the other.

mod arrivals;
mod course;
mod point;
mod replay;
mod search;
mod session;
mod stopping;

use std::{sync::Arc, time::Duration};

use self::session::Session;
use crate::{
    args::{LoadArgs, Objective, SizeArgs},
    error::{Error, Result},
    output::Output,
    plan::{described, finish, note_server},
    progress::Progress,
    report::LOAD,
    served::{LoadGenerator, Setting},
    setup::{Context, calibration_corpus, open_corpus},
};

/// Requests in flight of the closed loop that says where to begin.
const CLOSED: usize = 16;
/// How long a caller waits, in limits, and at least.
const PATIENCE_LIMITS: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs a load test.
///
/// # Errors
/// The server cannot be started or found, a file cannot be read or written, or it was interrupted.
pub(crate) fn run(args: &LoadArgs, context: &Context) -> Result<()> {
    if let Some(rate) = args
        .rates
        .iter()
        .find(|rate| !(rate.is_finite() && **rate > 0.0))
    {
        let reason = format!("expected rates above 0, got {rate}");
        return Err(Error::option("--rates", reason));
    }
    let times = args.replay.as_deref().map(replay::read).transpose()?;
    let entry = galley_catalog::find(&args.recipe.recipe)?;
    let size = SizeArgs {
        examples: args.examples.max(args.batch),
        repeats: args.repeats,
        seconds: None,
    };
    let mut run = described(LOAD, context, args.output.machine.as_deref()).recipe(entry, &size);
    let mut target = args.target.clone();
    target.timeout = Some(args.target.timeout.unwrap_or_else(|| patience(&args.slo)));
    let items = point::most_in_flight() * args.batch.get();
    let load = LoadGenerator::new(entry, &args.recipe, &target, items)?;
    note_server(&mut run, load.info());
    run.client_threads = Some(target.client_threads());
    run.label = Some(args.label.clone().unwrap_or_else(|| {
        let label = if target.url.is_some() {
            "server"
        } else {
            "galley"
        };
        label.to_owned()
    }));
    let few = load.payloads(&Arc::new(calibration_corpus(entry, args.output.json)?))?;
    let setting = Setting {
        batch: args.batch.get(),
        concurrency: CLOSED,
        rate: None,
        repeat: 0,
    };
    let start = 1.0 / (load.calibrate(setting, &few)? * args.batch.get() as f64);
    let corpus = Arc::new(open_corpus(entry, run.examples, args.output.json)?);
    let payloads = load.payloads(&corpus)?;
    let points = match &times {
        Some(_) => 1.0,
        None => session::points(args),
    };
    let mut session = Session {
        args,
        load: &load,
        payloads,
        progress: Progress::new(points, args.output.json),
        output: Output::open(&args.output, &run)?,
        points: 0,
    };
    let result = match &times {
        Some(times) => session.replay(times),
        None if args.rates.is_empty() => session.search(start),
        None => session.rates(),
    };
    session.progress.clear();
    finish(session.output, result)
}

/// How long a request may take where nothing is said: beyond saturation answers come later and later, and callers go away.
fn patience(objectives: &[Objective]) -> Duration {
    let longest = objectives.iter().map(|objective| objective.limit).max();
    (longest.unwrap_or_default() * PATIENCE_LIMITS).max(PATIENCE)
}
