//! Running `galley stream`, and reading the table that it leaves.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};

/// What has not happened after this time never will: only a hang takes as long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at whether it has.
const PAUSE: Duration = Duration::from_millis(5);

/// The program with nothing of the caller's environment that could set its flags.
pub(crate) fn galley(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_galley"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("GALLEY_") || name.starts_with("AWS_") {
            command.env_remove(&*name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// A file in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A folder with a list and the table that its answers go to.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// A row, as far as tests look at it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) uri: Option<String>,
    pub(crate) status: String,
    pub(crate) answer: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) deliveries: u32,
    pub(crate) written_at: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// A stream of the list named `list` into the table.
    pub(crate) fn stream(&self, recipe: &str, args: &[&str]) -> Command {
        let (from, to) = (self.path("list"), self.path("answers.db"));
        let mut command = galley(&["stream", recipe, "--from", &from, "--to", &to]);
        command.args(args);
        command
    }

    /// The rows in the order that they were written in; none where there is no table yet.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let sql = "SELECT id, uri, status, answer, error, deliveries, written_at FROM galley_answers ORDER BY rowid";
        let read = |connection: Connection| -> rusqlite::Result<Vec<Row>> {
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map([], |row| {
                Ok(Row {
                    id: row.get(0)?,
                    uri: row.get(1)?,
                    status: row.get(2)?,
                    answer: row.get(3)?,
                    error: row.get(4)?,
                    deliveries: row.get(5)?,
                    written_at: row.get(6)?,
                })
            })?;
            rows.collect()
        };
        let connection = self.open();
        connection.and_then(read).unwrap_or_default()
    }

    pub(crate) fn row(&self, uri: &str) -> Row {
        let rows = self.rows();
        let found = rows.iter().find(|row| row.uri.as_deref() == Some(uri));
        found
            .unwrap_or_else(|| panic!("{uri} is not in {rows:?}"))
            .clone()
    }

    /// How many messages were begun and have no row.
    pub(crate) fn begun(&self) -> u32 {
        let sql = "SELECT count(*) FROM galley_begun";
        let connection = self.open().unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub(crate) fn open(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(
            self.path("answers.db"),
            OpenFlags::SQLITE_OPEN_READ_WRITE,
        )?;
        connection.busy_timeout(PATIENCE)?;
        Ok(connection)
    }
}

/// A stream that runs.
pub(crate) struct Stream {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

/// What a stream left behind.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// A number of the summary.
    pub(crate) fn count(&self, outcome: &str) -> usize {
        let after = self.stdout.split(&format!("{outcome} ")).nth(1);
        let number = after.and_then(|rest| rest.split(',').next());
        let number = number.and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("{outcome} is not in {}\n{}", self.stdout, self.stderr))
    }
}

impl Stream {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let stdout = thread::spawn(move || std::io::read_to_string(stdout).unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in stderr.lines() {
                kept.lock().unwrap().push(line.unwrap());
            }
        });
        Self {
            child,
            stdout: Some(stdout),
            log,
            reader: Some(reader),
        }
    }

    /// Writes to its stdin, if that is a pipe.
    pub(crate) fn say(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Says no more.
    pub(crate) fn close(&mut self) {
        self.child.stdin = None;
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The first line of its log with these words.
    pub(crate) fn until_logged(&self, words: &str) -> String {
        let mut found = None;
        until(words, || {
            let log = self.log.lock().unwrap();
            found = log.iter().find(|line| line.contains(words)).cloned();
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn wait(mut self) -> Ended {
        until("it ends", || self.has_ended());
        let code = self.child.wait().unwrap().code();
        self.reader.take().unwrap().join().unwrap();
        let stderr = self.log.lock().unwrap().join("\n");
        Ended {
            code,
            stdout: self.stdout.take().unwrap().join().unwrap(),
            stderr,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run(command: Command) -> Ended {
    Stream::start(command).wait()
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}: it has not happened");
        thread::sleep(PAUSE);
    }
}
