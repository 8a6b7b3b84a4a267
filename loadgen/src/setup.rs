//! From arguments as typed to what a run needs: a loaded recipe, its corpus, a description of it all.

use std::{collections::BTreeMap, num::NonZeroUsize, path::Path, time::SystemTime};

use galley_core::{AnyRecipe, DeviceName, Entry, LoadError, LoadOptions, usual_dtype};
use galley_nn::Backend;

use crate::{
    args::{RecipeArgs, SizeArgs},
    corpus::{CALIBRATION_SEED, Corpus, CorpusKind, SEED},
    error::{Error, Result},
    progress::Progress,
    report::{
        Machine,
        record::{Run, SCHEMA},
    },
};

/// Examples beyond those that are measured, for warming up, so that no measured example has been seen before.
pub(crate) const WARMUP_EXAMPLES: usize = 64;

/// What the program that runs the benchmark says of itself.
#[derive(Clone, Debug)]
pub struct Context {
    /// The version of galley.
    pub version: String,
    /// The commit it was built from, if known. Where it is not, and the current folder is a checkout, that one's is taken.
    pub commit: Option<String>,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: None,
        }
    }
}

/// Finds the recipe and turns its arguments into what loading it takes.
pub(crate) fn load_options(args: &RecipeArgs) -> Result<(&'static Entry, LoadOptions)> {
    let entry = galley_catalog::find(&args.recipe)?;
    let device = (args.device.open())
        .map_err(|reason| LoadError::Unsupported(format!("--device {reason}")))?;
    let options = LoadOptions {
        dtype: args.dtype.on(&device),
        device,
        weights: args.weights.clone(),
        options: own_options(entry.name, &args.options)?,
        ..LoadOptions::default()
    };
    Ok((entry, options))
}

/// What operators on a device run for, in its usual dtype.
pub(crate) fn backend(device: DeviceName) -> Result<Backend> {
    let unsupported = |reason| LoadError::Unsupported(format!("--device {reason}"));
    let device = device.open().map_err(unsupported)?;
    Ok(Backend::of(&device, usual_dtype(&device)).map_err(unsupported)?)
}

/// Loads the recipe.
pub(crate) fn load(entry: &Entry, options: &LoadOptions) -> Result<AnyRecipe> {
    Ok(galley_catalog::load(entry.name, options)?)
}

/// `KEY=VALUE` or, as `galley serve` has it, `RECIPE.KEY=VALUE`.
fn own_options(recipe: &str, options: &[String]) -> Result<BTreeMap<String, String>> {
    options
        .iter()
        .map(|option| {
            let (key, value) = option.split_once('=').ok_or_else(|| {
                Error::option("--option", format!("expected KEY=VALUE, got {option:?}"))
            })?;
            let own = key
                .strip_prefix(recipe)
                .and_then(|key| key.strip_prefix('.'));
            Ok((own.unwrap_or(key).to_owned(), value.to_owned()))
        })
        .collect()
}

/// Sizes the CPU pool. Only the first call of a process has an effect.
pub(crate) fn set_threads(threads: Option<NonZeroUsize>) {
    if let Some(threads) = threads {
        // An error means that the pool is there already.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .build_global();
    }
}

/// The recipe's corpus: the examples to measure, and behind them those for warming up.
pub(crate) fn open_corpus(entry: &Entry, examples: usize, quiet: bool) -> Result<Corpus> {
    open_kind(CorpusKind::of(entry), examples, quiet)
}

/// The same of any kind.
pub(crate) fn open_kind(kind: CorpusKind, examples: usize, quiet: bool) -> Result<Corpus> {
    open_seeded(kind, examples + WARMUP_EXAMPLES, SEED, quiet)
}

/// A few examples, other than those to measure, for estimating how long they will take.
pub(crate) fn calibration_corpus(entry: &Entry, quiet: bool) -> Result<Corpus> {
    open_seeded(
        CorpusKind::of(entry),
        WARMUP_EXAMPLES,
        CALIBRATION_SEED,
        quiet,
    )
}

fn open_seeded(kind: CorpusKind, count: usize, seed: u64, quiet: bool) -> Result<Corpus> {
    let bar = Progress::counting("making the corpus", quiet);
    let progress = |done, of| bar.count(done, of);
    let corpus = Corpus::open(kind, count, seed, &progress);
    bar.clear();
    corpus
}

/// A corpus in words, for reports.
pub(crate) fn described_corpus(kind: CorpusKind) -> String {
    format!("{}, seed {SEED}: {}", kind.name(), kind.describe())
}

/// What is common to all runs of a recipe.
pub(crate) struct Described<'a> {
    pub(crate) what: &'a str,
    pub(crate) context: &'a Context,
    pub(crate) machine: Option<&'a str>,
}

impl Described<'_> {
    /// The run's own record, without a recipe.
    pub(crate) fn bare(&self) -> Run {
        Run {
            schema: SCHEMA,
            what: self.what.into(),
            command: command_line(std::env::args()),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            galley: self.context.version.clone(),
            commit: self.context.commit.clone().or_else(checkout),
            recipe: None,
            weights: "random".into(),
            dtype: "f32".into(),
            device: "cpu".into(),
            corpus: None,
            examples: 0,
            examples_wanted: 0,
            length: None,
            repeats: 1,
            threads: rayon::current_num_threads(),
            client_threads: None,
            label: None,
            server: None,
            old: None,
            machine: Machine::here(self.machine),
        }
    }

    /// The run's own record.
    pub(crate) fn recipe(&self, entry: &Entry, size: &SizeArgs) -> Run {
        Run {
            recipe: Some(entry.name.into()),
            corpus: Some(described_corpus(CorpusKind::of(entry))),
            examples: size.examples.get(),
            examples_wanted: size.examples.get(),
            repeats: size.repeats.get(),
            ..self.bare()
        }
    }
}

/// Notes what a loaded recipe says of itself.
pub(crate) fn note_recipe(run: &mut Run, recipe: &AnyRecipe) {
    let info = recipe.info();
    run.weights = info.weights.clone();
    run.dtype = info.dtype.into();
    run.device = info.device.clone();
}

/// Seconds that may be spent, checked.
pub(crate) fn seconds(option: &'static str, value: f64) -> Result<std::time::Duration> {
    std::time::Duration::try_from_secs_f64(value)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| {
            Error::option(
                option,
                format!("expected a number of seconds above 0, got {value}"),
            )
        })
}

/// The command as typed, without what names this machine: folders of absolute paths, and hosts.
fn command_line(args: impl IntoIterator<Item = String>) -> String {
    let words = args.into_iter().skip(1).map(|word| {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (format!("{option}="), value),
            _ => (String::new(), word.as_str()),
        };
        let word = format!("{option}{}", anonymous(value));
        if word.contains([' ', '"', '$', '*']) {
            format!("'{word}'")
        } else {
            word
        }
    });
    std::iter::once("galley".to_owned())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

fn anonymous(value: &str) -> String {
    if let Some((scheme, rest)) = value.split_once("://") {
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let local = ["127.0.0.1", "localhost", "[::1]"]
            .iter()
            .any(|name| host.strip_prefix(name).is_some_and(is_port));
        let host = if local { host } else { "HOST" };
        // What follows may be a password.
        let path = path.split('?').next().unwrap_or_default();
        return format!("{scheme}://{host}{path}");
    }
    let path = Path::new(value);
    match path.file_name() {
        Some(name) if path.is_absolute() => name.to_string_lossy().into_owned(),
        _ => value.to_owned(),
    }
}

fn is_port(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(':')
}

/// The commit of the checkout in the current folder, with `-dirty` if files differ from it.
fn checkout() -> Option<String> {
    let output = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .stderr(std::process::Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let commit = String::from_utf8(output.stdout).ok()?;
    Some(commit.trim().to_owned()).filter(|commit| !commit.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_with_and_without_the_recipe() {
        let read = |text: &str| own_options("echo", &[text.to_owned()]);
        let expected = BTreeMap::from([("sleep".to_owned(), "5ms".to_owned())]);
        assert_eq!(read("sleep=5ms").unwrap(), expected);
        assert_eq!(read("echo.sleep=5ms").unwrap(), expected);
        assert!(read("sleep").is_err());
    }

    #[test]
    fn the_command_line_names_neither_folders_nor_hosts() {
        let line = |text: &str| command_line(text.split(' ').map(str::to_owned));
        assert_eq!(
            line(
                "/opt/bin/galley bench matrix echo --out /home/me/results --url http://box:8080/x"
            ),
            "galley bench matrix echo --out results --url http://HOST/x"
        );
        assert_eq!(
            line(
                "galley bench served echo --out=/home/me/r --url=http://127.0.0.1:80 --weights a/b"
            ),
            "galley bench served echo --out=r --url=http://127.0.0.1:80 --weights a/b"
        );
        assert_eq!(
            line("x --url http://127.0.0.1.evil:80"),
            "galley --url http://HOST"
        );
    }

    #[test]
    fn seconds_are_above_zero() {
        assert!(seconds("--seconds", 0.5).is_ok());
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(seconds("--seconds", bad).is_err(), "{bad}");
        }
    }
}
