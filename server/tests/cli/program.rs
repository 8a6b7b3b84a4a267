//! Running the program: to its end, or as a server.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What has not happened after this time never will: only a hang takes as long, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at whether it has.
const PAUSE: Duration = Duration::from_millis(10);

/// The program with nothing of the caller's environment that could set its flags, and with every reason to print a
/// backtrace if it ever did.
pub(crate) fn galley(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_galley"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GALLEY_") {
            command.env_remove(name);
        }
    }
    command.args(args).env("RUST_BACKTRACE", "1");
    command.stdin(Stdio::null());
    command
}

/// What a command left behind.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The lines of stdout, each read as JSON.
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Runs a command to its end, with `stdin` to read.
pub(crate) fn run(mut command: Command, stdin: &str) -> Ended {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let text = stdin.to_owned();
    let writing = thread::spawn(move || {
        // A command that does not read its stdin may be gone already.
        let _ = input.write_all(text.as_bytes());
    });
    let output = ending(child);
    writing.join().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What a command gives when it ends; one that serves where it should have refused is ended by force.
fn ending(child: Child) -> Output {
    let pid = child.id().to_string();
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(child.wait_with_output()));
    end.recv_timeout(PATIENCE).map_or_else(
        |_| {
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
            panic!("it has not ended after {PATIENCE:?}")
        },
        Result::unwrap,
    )
}

/// A file in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// What a server has written to stderr so far. It is read all the time, as a server whose pipe is full would stand still.
#[derive(Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Log {
    fn keep(stderr: impl Read + Send + 'static) -> Self {
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let line = line.unwrap_or_else(|error| format!("not a line of text: {error}"));
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
        Self {
            lines,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.join("\n")
    }

    /// All of it, once the server has ended.
    fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.text()
    }
}

/// A server that has said that it is ready; killed if it is still there when dropped.
pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: Log,
    /// The line that it printed.
    pub(crate) line: String,
    /// `http://ADDRESS`.
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, Stdio::piped())
    }

    /// With another stderr than a pipe of its own, nobody here reads it.
    pub(crate) fn start_with(args: &[&str], stderr: Stdio) -> Self {
        let mut command = galley(&["serve", "--port", "0"]);
        command.args(args);
        Self::spawn_with(command, stderr)
    }

    /// From a command that serves.
    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_with(command, Stdio::piped())
    }

    fn spawn_with(mut command: Command, stderr: Stdio) -> Self {
        command.stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().unwrap();
        let mut log = child.stderr.take().map(Log::keep).unwrap_or_default();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|word| word.contains("://"));
        let Some(url) = url.map(str::to_owned) else {
            // It has ended without a line.
            child.wait().unwrap();
            panic!("{}", log.whole());
        };
        Self {
            child,
            stdout,
            log,
            line,
            url,
        }
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until so many lines of its log have these words.
    pub(crate) fn until_logged(&self, words: &str, times: usize) {
        let start = Instant::now();
        loop {
            let log = self.log.text();
            if log.lines().filter(|line| line.contains(words)).count() >= times {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{words:?} is not {times} times in\n{log}"
            );
            thread::sleep(PAUSE);
        }
    }

    /// Waits for its end: the status, and what stdout had after the first line and stderr in all.
    pub(crate) fn wait(mut self) -> (ExitStatus, String, String) {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(start.elapsed() < PATIENCE, "it does not end"),
            }
            thread::sleep(PAUSE);
        };
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).unwrap();
        (status, stdout, self.log.whole())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "{what}: it has not happened");
        tokio::time::sleep(PAUSE).await;
    }
}
