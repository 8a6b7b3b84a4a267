//! A `galley serve` of the benchmark's own: a process beside this one, as a real server would be.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// Lines of its log that are kept, to be shown if it fails.
const LOG_LINES: usize = 30;
/// How long it may drain before it is killed.
const DRAIN: Duration = Duration::from_secs(30);

/// A server process. It is stopped when this is dropped, whatever happened.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    url: String,
}

type Log = Arc<Mutex<VecDeque<String>>>;

impl ServerProcess {
    /// Starts `program ARGS...` and waits for the line on its standard output that has its URL.
    ///
    /// # Errors
    /// It cannot be started, ends, or is not ready in time.
    pub(crate) fn start(
        program: &Path,
        args: &[OsString],
        ready_timeout: Duration,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Error::file(program))?;
        let log = Log::default();
        let errors = child.stderr.take().map(|stderr| keep_log(stderr, &log));
        let (sender, receiver) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            watch_for_url(stdout, sender);
        }
        let mut server = Self {
            child,
            url: String::new(),
        };
        match receiver.recv_timeout(ready_timeout) {
            Ok(url) => server.url = url,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(failed("was not ready in time", &log));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                server.stop();
                if let Some(errors) = errors {
                    let _ = errors.join();
                }
                return Err(failed("ended before it was ready", &log));
            }
        }
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to drain and end, and kills it if it does not.
    fn stop(&mut self) {
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
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.stop();
    }
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

fn failed(what: &str, log: &Log) -> Error {
    let lines = log.lock().unwrap_or_else(PoisonError::into_inner);
    let mut reason = what.to_owned();
    for line in lines.iter() {
        reason.push_str("\n  ");
        reason.push_str(line);
    }
    Error::Server { reason }
}

/// Reads a stream to its end, so that the server never waits for it, and keeps the last lines.
fn keep_log(stream: impl Read + Send + 'static, log: &Log) -> thread::JoinHandle<()> {
    let log = log.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut lines = log.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == LOG_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    })
}

fn watch_for_url(stream: impl Read + Send + 'static, found: mpsc::Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Some(url) = url_in(&line) {
                // Nobody waits for a second one.
                let _ = found.send(url.to_owned());
            }
        }
    });
}

/// The first URL in a line.
fn url_in(line: &str) -> Option<&str> {
    line.split_whitespace()
        .find(|word| word.starts_with("http://") || word.starts_with("https://"))
        .map(|word| word.trim_end_matches([',', '.', ';', ')']))
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

    #[cfg(unix)]
    fn shell(script: &str) -> Result<ServerProcess> {
        let args = ["-c".into(), script.into()];
        ServerProcess::start(Path::new("sh"), &args, Duration::from_secs(120))
    }

    #[cfg(unix)]
    #[test]
    fn a_server_is_stopped_when_dropped() {
        let server = shell("echo ready on http://127.0.0.1:1 now; exec sleep 600").unwrap();
        assert_eq!(server.url(), "http://127.0.0.1:1");
        let proc = format!("/proc/{}", server.pid());
        let existed = Path::new(&proc).exists();
        drop(server);
        assert!(!Path::new(&proc).exists() && (existed || cfg!(not(target_os = "linux"))));
    }

    #[cfg(unix)]
    #[test]
    fn a_server_that_fails_shows_its_log() {
        let error = shell("echo no such recipe >&2; exit 2")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ended before") && error.contains("no such recipe"),
            "{error}"
        );
    }
}
