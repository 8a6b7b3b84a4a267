//! A `galley` of the benchmark's own: a process beside this one, as a real server or worker would be.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{
    args::RecipeArgs,
    error::{Error, Result},
};

/// Lines of its log that are kept, to be shown if it fails.
const LOG_LINES: usize = 30;
/// How long it may drain before it is killed.
const DRAIN: Duration = Duration::from_secs(30);

/// A process. It is stopped when this is dropped, whatever happened.
#[derive(Debug)]
pub(crate) struct Process {
    /// What it is, for messages: `server`.
    what: &'static str,
    child: Child,
    address: String,
    log: Log,
    errors: Option<thread::JoinHandle<()>>,
}

/// How a process says where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sign {
    /// By the first URL on its standard output.
    Url,
    /// By the field `address` in its log.
    LoggedAddress,
}

type Log = Arc<Mutex<VecDeque<String>>>;

impl Process {
    /// Starts `program ARGS...` and waits until it says where it is.
    ///
    /// # Errors
    /// It cannot be started, ends, or does not say so in time.
    pub(crate) fn start(
        what: &'static str,
        program: &Path,
        args: &[OsString],
        (sign, timeout): (Sign, Duration),
    ) -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let mut process = Self::spawn(what, program, args, sign, &sender)?;
        drop(sender);
        match receiver.recv_timeout(timeout) {
            Ok(address) => process.address = address,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(process.failed("was not ready in time"));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                process.stop();
                return Err(process.failed("ended before it was ready"));
            }
        }
        Ok(process)
    }

    /// Starts `program ARGS...`, which ends by itself.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn begin(what: &'static str, program: &Path, args: &[OsString]) -> Result<Self> {
        let (sender, _) = mpsc::channel();
        Self::spawn(what, program, args, Sign::Url, &sender)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It fails.
    pub(crate) fn wait(mut self) -> Result<()> {
        // What is wrong with it is said next.
        let _ = self.child.wait();
        self.ended().map(|_| ())
    }

    fn spawn(
        what: &'static str,
        program: &Path,
        args: &[OsString],
        sign: Sign,
        found: &mpsc::Sender<String>,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Error::file(program))?;
        let log = Log::default();
        let (url, address) = match sign {
            Sign::Url => (Some(found.clone()), None),
            Sign::LoggedAddress => (None, Some(found.clone())),
        };
        if let Some(stdout) = child.stdout.take() {
            read(stdout, move |line| say(url_in(line), url.as_ref()));
        }
        let kept = Arc::clone(&log);
        let errors = child.stderr.take().map(|stderr| {
            read(stderr, move |line| {
                say(address_in(line), address.as_ref());
                keep(line, &kept);
            })
        });
        Ok(Self {
            what,
            child,
            address: String::new(),
            log,
            errors,
        })
    }

    /// Where it listens, as it said it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, well.
    ///
    /// # Errors
    /// It has failed.
    pub(crate) fn ended(&mut self) -> Result<bool> {
        match self.child.try_wait() {
            Ok(None) => Ok(false),
            Ok(Some(status)) if status.success() => Ok(true),
            Ok(Some(status)) => Err(self.failed(&end(status))),
            Err(error) => Err(self.failed(&format!("cannot be waited for: {error}"))),
        }
    }

    /// Asks it to drain and end, and kills it if it does not.
    pub(crate) fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if ask_to_end(&self.child) {
            let started = Instant::now();
            while started.elapsed() < DRAIN {
                if matches!(self.child.try_wait(), Ok(Some(_))) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        // Failing to kill means that it has ended just now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What is wrong with it, with the end of its log: all of it, if it has ended.
    fn failed(&mut self, what: &str) -> Error {
        let ended = matches!(self.child.try_wait(), Ok(Some(_)));
        if let Some(errors) = self.errors.take().filter(|_| ended) {
            let _ = errors.join();
        }
        let lines = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reason = what.to_owned();
        for line in lines.iter() {
            reason.push_str("\n  ");
            reason.push_str(line);
        }
        Error::Process {
            what: self.what,
            reason,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn end(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("failed with exit status {code}"),
        None => "was killed".into(),
    }
}

/// The command line's part that says how a recipe is run, as all commands have it that run one.
pub(crate) fn model_arguments(recipe: &RecipeArgs) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![
        "--weights".into(),
        recipe.weights.to_string().into(),
        "--device".into(),
        recipe.device.to_string().into(),
        "--dtype".into(),
        recipe.dtype.name().into(),
    ];
    for option in &recipe.options {
        let name = format!("{}.", recipe.recipe);
        let qualified = if option.starts_with(&name) {
            option.clone()
        } else {
            name + option
        };
        args.extend(["--option".into(), qualified.into()]);
    }
    if let Some(threads) = recipe.threads {
        args.extend(["--threads".into(), threads.to_string().into()]);
    }
    args
}

#[cfg(unix)]
fn ask_to_end(child: &Child) -> bool {
    use nix::{sys::signal, unistd::Pid};
    i32::try_from(child.id())
        .is_ok_and(|pid| signal::kill(Pid::from_raw(pid), signal::Signal::SIGTERM).is_ok())
}

#[cfg(not(unix))]
fn ask_to_end(_: &Child) -> bool {
    false
}

/// Reads a stream to its end, line by line, so that the process never waits for it.
fn read(
    stream: impl Read + Send + 'static,
    mut each: impl FnMut(&str) + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            each(&line);
        }
    })
}

fn say(word: Option<&str>, found: Option<&mpsc::Sender<String>>) {
    if let (Some(word), Some(found)) = (word, found) {
        // Nobody waits for a second one.
        let _ = found.send(word.to_owned());
    }
}

fn keep(line: &str, log: &Log) {
    let mut lines = log.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() == LOG_LINES {
        lines.pop_front();
    }
    lines.push_back(line.to_owned());
}

/// The first URL in a line.
fn url_in(line: &str) -> Option<&str> {
    line.split_whitespace()
        .find(|word| word.starts_with("http://") || word.starts_with("https://"))
        .map(|word| word.trim_end_matches([',', '.', ';', ')']))
}

/// The address that a line of the log names.
fn address_in(line: &str) -> Option<&str> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix("address="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_has_the_url() {
        let line = "galley is ready on http://127.0.0.1:41234 serving echo";
        assert_eq!(url_in(line), Some("http://127.0.0.1:41234"));
        assert_eq!(url_in("starting"), None);
    }

    #[test]
    fn the_log_has_the_address() {
        let line = "2030-01-02T03:04:05Z  INFO galley::stream: serving metrics address=[::1]:41234";
        assert_eq!(address_in(line), Some("[::1]:41234"));
        assert_eq!(address_in("writing rows recipe=\"echo\""), None);
    }

    #[cfg(unix)]
    fn shell(script: &str, sign: Sign) -> Result<Process> {
        let args = ["-c".into(), script.into()];
        let patience = Duration::from_secs(120);
        Process::start("server", Path::new("sh"), &args, (sign, patience))
    }

    #[cfg(unix)]
    #[test]
    fn a_server_is_stopped_when_dropped() {
        let server = shell(
            "echo ready on http://127.0.0.1:1 now; exec sleep 600",
            Sign::Url,
        )
        .unwrap();
        assert_eq!(server.address(), "http://127.0.0.1:1");
        let proc = format!("/proc/{}", server.pid());
        let existed = Path::new(&proc).exists();
        drop(server);
        assert!(!Path::new(&proc).exists() && (existed || cfg!(not(target_os = "linux"))));
    }

    #[cfg(unix)]
    #[test]
    fn a_server_that_fails_shows_its_log() {
        let error = shell("echo no such recipe >&2; exit 2", Sign::Url)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ended before") && error.contains("no such recipe"),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_process_that_fails_later_shows_its_status_and_log() {
        let script = "echo address=127.0.0.1:1 >&2; sleep 0.1; echo gave up >&2; exit 1";
        let mut process = shell(script, Sign::LoggedAddress).unwrap();
        assert_eq!(process.address(), "127.0.0.1:1");
        let error = loop {
            match process.ended() {
                Ok(_) => thread::sleep(Duration::from_millis(5)),
                Err(error) => break error.to_string(),
            }
        };
        assert!(
            error.contains("exit status 1") && error.contains("gave up"),
            "{error}"
        );
    }
}
