//! A build of galley, known by its command line: `galley bench native ... --json` for passes in process, `galley serve` for others.

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use galley_core::Entry;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    args::{ProtocolArg, RecipeArgs, TargetArgs},
    error::{Error, Result},
    interrupt,
    process::model_arguments,
    report::record::BuildPass,
    served::{LoadGenerator, Setting},
    setup::open_corpus,
};

/// The end of what a build that failed has said, in lines.
const LAST_WORDS: usize = 10;
/// Digits of a digest that tell builds apart.
const DIGITS: usize = 12;

/// A build.
#[derive(Debug)]
pub(super) struct Build {
    /// What it is, for messages.
    pub(super) what: &'static str,
    program: PathBuf,
}

/// What is run in process.
pub(super) struct NativePass<'a> {
    pub(super) recipe: &'a RecipeArgs,
    pub(super) batches: &'a [usize],
    /// Or fewer, where there is a budget.
    pub(super) examples: usize,
}

/// What is read of a line of `bench native --json`, whatever else a version of galley says there.
#[derive(Deserialize)]
struct Line {
    batch: usize,
    #[serde(flatten)]
    pass: BuildPass,
}

impl Build {
    /// # Errors
    /// There is no such file.
    pub(super) fn new(what: &'static str, program: &Path) -> Result<Self> {
        let program = program.canonicalize().map_err(Error::file(program))?;
        Ok(Self { what, program })
    }

    /// Its version and its digest, by which builds of one version are told apart.
    ///
    /// # Errors
    /// It cannot be read, or does not say its version.
    pub(super) fn identity(&self) -> Result<String> {
        let mut digest = Sha256::new();
        let mut file = File::open(&self.program).map_err(Error::file(&self.program))?;
        io::copy(&mut file, &mut digest).map_err(Error::file(&self.program))?;
        let digest = format!("{:x}", digest.finalize());
        let version = self.output(&["--version".into()])?;
        Ok(format!("{}, sha256 {}", version.trim(), &digest[..DIGITS]))
    }

    /// A pass over each batch size, in their order; with a budget in seconds for all, over as many examples as fit.
    ///
    /// # Errors
    /// It fails, or does not give the figures.
    pub(super) fn native(
        &self,
        pass: &NativePass<'_>,
        budget: Option<f64>,
    ) -> Result<Vec<BuildPass>> {
        let text = self.output(&arguments(pass, budget))?;
        let lines = text
            .lines()
            .map(serde_json::from_str)
            .collect::<serde_json::Result<Vec<Line>>>();
        let lines = lines.map_err(|error| {
            self.failed(
                &format!("does not give its figures as `bench native --json` has them: {error}"),
                "",
            )
        })?;
        let figure = |&batch: &usize| {
            let line = lines.iter().find(|line| line.batch == batch);
            let usable = line.filter(|line| line.pass.items_per_s > 0.0 && line.pass.examples > 0);
            usable
                .map(|line| line.pass)
                .ok_or_else(|| self.failed(&format!("gives no figure for batch {batch}"), &text))
        };
        pass.batches.iter().map(figure).collect()
    }

    /// Runs it and gives what it has printed.
    fn output(&self, args: &[OsString]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null());
        // What the user has set for this benchmark is not meant for those that it runs.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GALLEY_BENCH_") {
                command.env_remove(name);
            }
        }
        let output = command.output().map_err(Error::file(&self.program))?;
        interrupt::check()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(self.failed(&format!("failed with {}", output.status), &words));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn failed(&self, what: &str, words: &str) -> Error {
        let lines: Vec<&str> = words.lines().collect();
        let mut reason = what.to_owned();
        for line in &lines[lines.len().saturating_sub(LAST_WORDS)..] {
            reason.push_str("\n  ");
            reason.push_str(line);
        }
        Error::Process {
            what: self.what,
            reason,
        }
    }
}

fn arguments(pass: &NativePass<'_>, budget: Option<f64>) -> Vec<OsString> {
    let batches: Vec<String> = pass.batches.iter().map(usize::to_string).collect();
    let mut args: Vec<OsString> = vec![
        "bench".into(),
        "native".into(),
        pass.recipe.recipe.clone().into(),
        "--batch".into(),
        batches.join(",").into(),
        "--examples".into(),
        pass.examples.to_string().into(),
        "--repeats".into(),
        "1".into(),
        "--json".into(),
    ];
    args.extend(model_arguments(pass.recipe));
    if let Some(seconds) = budget {
        args.extend(["--seconds".into(), seconds.to_string().into()]);
    }
    args
}

/// A pass through a server of the build over each batch size, as the examples of a request, in their order.
///
/// # Errors
/// The server fails, or any request does.
pub(super) fn served(
    build: &Build,
    entry: &Entry,
    pass: &NativePass<'_>,
    concurrency: usize,
    repeat: usize,
) -> Result<Vec<BuildPass>> {
    let target = TargetArgs {
        url: None,
        protocol: ProtocolArg::Fastdeploy,
        model: None,
        serve_program: Some(build.program.clone()),
        serve_args: Vec::new(),
        ready_timeout: Duration::from_secs(300),
        timeout: None,
        client_threads: None,
    };
    let most = pass.batches.iter().copied().max().unwrap_or(1) * concurrency;
    let load = LoadGenerator::new(entry, pass.recipe, &target, most)?;
    let payloads = load.payloads(&Arc::new(open_corpus(entry, pass.examples, true)?))?;
    let figure = |&batch: &usize| {
        let setting = Setting {
            batch,
            concurrency,
            rate: None,
            repeat,
        };
        let served = load.pass(setting, &payloads, &|_| ())?;
        let failed = |what: String| build.failed(&what, "");
        if served.error_count() > 0 {
            return Err(failed(format!(
                "failed to answer requests: {:?}",
                served.errors
            )));
        }
        Ok(BuildPass {
            examples: served.items_ok,
            seconds: served.seconds,
            items_per_s: served.items_per_s,
            latency_ms: served.latency_ms.unwrap_or_default(),
        })
    };
    pass.batches.iter().map(figure).collect()
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use galley_core::{DeviceName, WeightSource};

    use super::*;
    use crate::args::DtypeArg;

    fn recipe() -> RecipeArgs {
        RecipeArgs {
            recipe: "echo".into(),
            weights: WeightSource::Auto,
            device: DeviceName::Cpu,
            dtype: DtypeArg::Auto,
            options: vec!["sleep=1ms".into()],
            threads: None,
        }
    }

    fn native(script: &str) -> Result<Vec<BuildPass>> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("galley");
        // By another process: what this one holds open for writing, a process that another test starts may hold too, and then it
        // cannot be run.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod +x \"$0\"";
        let written = Command::new("sh")
            .arg("-c")
            .arg(write)
            .arg(&program)
            .arg(script)
            .status();
        assert!(written.unwrap().success());
        let pass = NativePass {
            recipe: &recipe(),
            batches: &[1, 8],
            examples: 64,
        };
        Build::new("old build", &program)?.native(&pass, Some(2.5))
    }

    const LATENCY: &str = r#"{"mean":1,"p50":1,"p90":1,"p95":1,"p99":1,"p99_9":1,"max":1}"#;

    fn line(batch: usize, rate: f64) -> String {
        format!(
            r#"{{"kind":"native","batch":{batch},"examples":64,"seconds":1.0,"items_per_s":{rate},"latency_ms":{LATENCY},"later":[]}}"#
        )
    }

    #[test]
    fn figures_are_those_of_their_batch() {
        let script = format!("echo '{}'; echo '{}'", line(8, 200.0), line(1, 100.0));
        let passes = native(&script).unwrap();
        assert_eq!(
            [passes[0].items_per_s, passes[1].items_per_s],
            [100.0, 200.0]
        );
    }

    #[test]
    fn a_build_is_told_all_that_decides_a_pass() {
        let error = native("echo \"$@\" >&2; exit 1").unwrap_err().to_string();
        let told = "bench native echo --batch 1,8 --examples 64 --repeats 1 --json --weights auto --device cpu --dtype auto \
                    --option echo.sleep=1ms --seconds 2.5";
        assert!(error.contains(told), "{error}");
    }

    #[test]
    fn what_gives_no_figures_is_no_build() {
        for (script, expected) in [
            ("echo hello".to_owned(), "does not give its figures"),
            (
                format!("echo '{}'", line(1, 100.0)),
                "no figure for batch 8",
            ),
            (
                format!("echo '{}'; echo '{}'", line(1, 0.0), line(8, 1.0)),
                "no figure for batch 1",
            ),
            ("echo nothing works >&2; exit 3".to_owned(), "nothing works"),
        ] {
            let error = native(&script).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("old build"),
                "{error}"
            );
        }
        assert!(Build::new("old build", Path::new("/no/such/galley")).is_err());
    }
}
