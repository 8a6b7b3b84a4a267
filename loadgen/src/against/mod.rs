//! Two builds in turn: this one and another, which is known by its command line alone.
//!
//! Each pass is a process of its own, so that neither build has the memory or the caches of the other. Both pass over the same
//! examples, a round of one right after the other, and which goes first alternates.

mod build;

use std::time::Duration;

use galley_core::Entry;

use self::build::{Build, NativePass, served};
use crate::{
    args::{AgainstArgs, FailOn, RecipeArgs},
    error::{Error, Result},
    interrupt,
    output::Output,
    plan::{described, finish, sizes},
    progress::Progress,
    report::{
        AGAINST,
        record::{BuildPass, Record, Round},
        regressions,
    },
    setup::{Context, load, load_options, seconds, set_threads},
};

/// Runs both builds.
///
/// # Errors
/// A build cannot be run or fails, figures cannot be written, or this build is slower and the run was to fail for that.
pub(crate) fn run(args: &AgainstArgs, context: &Context) -> Result<()> {
    set_threads(args.threads);
    let pass = seconds("--seconds", args.seconds)?;
    let new = match &args.new_program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(Error::file("this program"))?,
    };
    let builds = [
        Build::new("this build", &new)?,
        Build::new("old build", &args.old)?,
    ];
    let recipes: Vec<&str> = match args.recipes.as_slice() {
        [] => galley_catalog::entries()
            .filter(|entry| entry.bundled.is_some())
            .map(|entry| entry.name)
            .collect(),
        named => named.iter().map(String::as_str).collect(),
    };
    let mut run = described(AGAINST, context, args.output.machine.as_deref()).bare();
    run.recipe = match recipes.as_slice() {
        [only] => Some((*only).to_owned()),
        _ => None,
    };
    run.weights = args.weights.to_string();
    run.dtype = args.dtype.name().into();
    run.device = args.device.to_string();
    run.repeats = args.rounds as usize;
    run.old = Some(builds[1].identity()?);
    let contests = recipes
        .iter()
        .map(|recipe| Contest::new(args, recipe, &builds, pass))
        .collect::<Result<Vec<_>>>()?;
    let work = contests.iter().map(Contest::work).sum();
    let progress = Progress::new(work, args.output.json);
    let mut output = Output::open(&args.output, &run)?;
    let mut rounds = Vec::new();
    let result = contests.iter().try_for_each(|contest| {
        contest.run(&progress, &mut |round| {
            rounds.push(round.clone());
            output.add(&Record::Round(round))
        })
    });
    progress.clear();
    finish(output, result)?;
    let worse = regressions(&rounds);
    match args.fail_on {
        Some(FailOn::Regression) if !worse.is_empty() => Err(Error::Regression(worse)),
        _ => Ok(()),
    }
}

/// A recipe, run by both builds.
struct Contest<'a> {
    args: &'a AgainstArgs,
    entry: &'static Entry,
    recipe: RecipeArgs,
    /// As the loaded recipe names them.
    weights: String,
    dtype: String,
    /// This one and the other.
    builds: &'a [Build; 2],
    batches: Vec<usize>,
    /// Roughly what a pass over one size takes.
    pass: Duration,
}

/// A pass of a size: of which batch, with how many requests in flight where it was served, and what came of it.
type SizedPass = (usize, Option<usize>, BuildPass);

impl<'a> Contest<'a> {
    fn new(
        args: &'a AgainstArgs,
        recipe: &str,
        builds: &'a [Build; 2],
        pass: Duration,
    ) -> Result<Self> {
        let recipe = RecipeArgs {
            recipe: recipe.to_owned(),
            weights: args.weights.clone(),
            device: args.device,
            dtype: args.dtype,
            options: Vec::new(),
            threads: args.threads,
        };
        // Loaded to learn what it calls its weights, and to refuse what cannot be loaded before anything is measured.
        let (entry, options) = load_options(&recipe)?;
        let loaded = load(entry, &options)?;
        Ok(Self {
            args,
            entry,
            recipe,
            weights: loaded.info().weights.clone(),
            dtype: loaded.info().dtype.into(),
            builds,
            batches: sizes(&args.batch),
            pass,
        })
    }

    /// Seconds that it takes, roughly.
    fn work(&self) -> f64 {
        self.step() * 2.0 * (1 + self.args.rounds) as f64
    }

    /// Seconds that a build's part of a round takes, roughly.
    fn step(&self) -> f64 {
        let modes = if self.args.served { 2 } else { 1 };
        self.pass.as_secs_f64() * (self.batches.len() * modes) as f64
    }

    fn run(&self, progress: &Progress, each: &mut dyn FnMut(Round) -> Result<()>) -> Result<()> {
        let name = self.entry.name;
        progress.label(format!("{name}, warming up"));
        let examples = self.examples()?;
        progress.finish_cell(self.step());
        // What is read from disk for the first time is not to be the old build's disadvantage.
        self.part(&self.builds[1], examples, 0)?;
        progress.finish_cell(self.step());
        for repeat in 0..self.args.rounds as usize {
            let old_first = repeat % 2 == 1;
            let mut passes: [Vec<SizedPass>; 2] = Default::default();
            for of in if old_first { [1, 0] } else { [0, 1] } {
                let build = &self.builds[of];
                progress.label(format!("{name}, {}, round {}", build.what, repeat + 1));
                passes[of] = self.part(build, examples, repeat)?;
                progress.finish_cell(self.step());
            }
            let [new, old] = passes;
            for ((batch, concurrency, new), (_, _, old)) in new.into_iter().zip(old) {
                each(Round {
                    recipe: name.into(),
                    weights: self.weights.clone(),
                    dtype: self.dtype.clone(),
                    batch,
                    concurrency,
                    repeat,
                    old_first,
                    new,
                    old,
                })?;
            }
        }
        Ok(())
    }

    /// So many examples as this build passes over in the time of a pass; both builds are given as many then.
    fn examples(&self) -> Result<usize> {
        let native = self.native(self.args.examples.get());
        let budget = self.pass.as_secs_f64() * self.batches.len() as f64;
        let passes = self.builds[0].native(&native, Some(budget))?;
        Ok(passes[0].examples)
    }

    fn native(&self, examples: usize) -> NativePass<'_> {
        NativePass {
            recipe: &self.recipe,
            batches: &self.batches,
            examples,
        }
    }

    /// A build's part of a round: its passes over all sizes.
    fn part(&self, build: &Build, examples: usize, repeat: usize) -> Result<Vec<SizedPass>> {
        interrupt::check()?;
        let native = build.native(&self.native(examples), None)?;
        let mut passes: Vec<SizedPass> = Vec::new();
        passes.extend(
            self.batches
                .iter()
                .zip(native)
                .map(|(&batch, pass)| (batch, None, pass)),
        );
        if self.args.served {
            let users = self.args.concurrency.get();
            let served = served(build, self.entry, &self.native(examples), users, repeat)?;
            passes.extend(
                self.batches
                    .iter()
                    .zip(served)
                    .map(|(&batch, pass)| (batch, Some(users), pass)),
            );
        }
        Ok(passes)
    }
}
