//! A table in a file. A thread of its own has the connection, for a transaction must not be held over an `await`; what is
//! asked of it is done in turn.

use std::{
    fmt,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::{Table, TableError};
use crate::stream::row::{Row, Scope, Standing, Written};

/// How long another process may hold the file's lock.
const LOCKED: Duration = Duration::from_secs(5);
/// Kinds of file systems whose locks do not hold between machines, or at all.
const REMOTE: [&str; 6] = ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"];

/// Affinities are chosen so that SQLite changes no value: as JSON it would take an answer that is a number for its own.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS galley_answers (
  id TEXT NOT NULL, recipe TEXT NOT NULL, revision TEXT NOT NULL,
  uri TEXT, etag TEXT, status TEXT NOT NULL, answer TEXT, error TEXT,
  bytes INTEGER, deliveries INTEGER, worker TEXT,
  published_at TEXT, fetched_at TEXT, answered_at TEXT, written_at TEXT NOT NULL,
  fetch_ms REAL, infer_ms REAL,
  PRIMARY KEY (id, recipe, revision));
CREATE TABLE IF NOT EXISTS galley_begun (
  id TEXT NOT NULL, recipe TEXT NOT NULL, revision TEXT NOT NULL, attempts INTEGER NOT NULL,
  PRIMARY KEY (id, recipe, revision));";

const INSERT: &str = "INSERT INTO galley_answers (id, recipe, revision, uri, etag, status, answer, error, bytes, deliveries,
    worker, published_at, fetched_at, answered_at, written_at, fetch_ms, infer_ms)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) ON CONFLICT DO NOTHING";
const IS_SAME: &str = "SELECT uri IS ?4 AND (uri IS NOT NULL OR etag IS ?5) FROM galley_answers
    WHERE id = ?1 AND recipe = ?2 AND revision = ?3";
const IS_DONE: &str =
    "SELECT 1 FROM galley_answers WHERE id = ?1 AND recipe = ?2 AND revision = ?3";
const ATTEMPTS: &str =
    "SELECT attempts FROM galley_begun WHERE id = ?1 AND recipe = ?2 AND revision = ?3";
const BEGIN: &str =
    "INSERT INTO galley_begun (id, recipe, revision, attempts) VALUES (?1, ?2, ?3, 1)
    ON CONFLICT DO UPDATE SET attempts = attempts + 1 RETURNING attempts";
const FORGET: &str = "DELETE FROM galley_begun WHERE id = ?1 AND recipe = ?2 AND revision = ?3";

/// A table in a file.
pub struct Sqlite {
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce(&mut Database) + Send>;

struct Database {
    connection: Connection,
    scope: Scope,
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").finish_non_exhaustive()
    }
}

impl Sqlite {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It cannot be written, is no database, or lies on a file system of another machine.
    pub fn open(path: &Path, scope: Scope) -> Result<Self, TableError> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folder = path.parent().filter(|folder| folder.is_dir());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize();
        if let Some(kind) = folder.ok().and_then(|folder| remote(&folder, &mounts)) {
            return Err(TableError::Broken(format!(
                "{} is on a file system of another machine ({kind}), where SQLite's locks do not hold; PostgreSQL is for that",
                path.display()
            )));
        }
        let database = Database::open(path, scope).map_err(|error| {
            TableError::Broken(format!("cannot open {}: {error}", path.display()))
        })?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let run = move || {
            let mut database = database;
            while let Ok(job) = queue.recv() {
                job(&mut database);
            }
        };
        thread::Builder::new()
            .name("table".into())
            .spawn(run)
            .map_err(|error| TableError::Broken(format!("cannot start a thread: {error}")))?;
        Ok(Self { jobs })
    }

    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Database) -> rusqlite::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, TableError>> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |database| {
            // Whoever asked may be gone; what was done stays done.
            let _ = sender.send(job(database).map_err(cause));
        });
        let sent = self.jobs.send(job);
        Box::pin(async move {
            let gone = || TableError::Broken("the table's thread has ended".into());
            sent.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }
}

impl Table for Sqlite {
    fn look_up(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<Standing>, TableError>> {
        self.ask(move |database| database.look_up(&ids))
    }

    fn begin(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<u32>, TableError>> {
        self.ask(move |database| database.begin(&ids))
    }

    fn forget(&self, ids: Vec<String>) -> BoxFuture<'_, Result<(), TableError>> {
        self.ask(move |database| database.forget(&ids))
    }

    fn write(&self, rows: Arc<[Row]>) -> BoxFuture<'_, Result<Vec<Written>, TableError>> {
        self.ask(move |database| database.write(&rows))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), TableError>> {
        self.ask(|database| {
            // What closes a database puts its log into the file, which then may be copied alone.
            database.connection = Connection::open_in_memory()?;
            Ok(())
        })
    }
}

impl Database {
    fn open(path: &Path, scope: Scope) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(LOCKED)?;
        // Readers read while rows are written, and a commit is on the disk before it is said to be one.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SCHEMA)?;
        // What is there may have been made by somebody else.
        for statement in [INSERT, IS_SAME, BEGIN] {
            connection.prepare(statement)?;
        }
        Ok(Self { connection, scope })
    }

    fn look_up(&self, ids: &[String]) -> rusqlite::Result<Vec<Standing>> {
        let mut is_done = self.connection.prepare(IS_DONE)?;
        let mut attempts = self.connection.prepare(ATTEMPTS)?;
        let mut stand = |id: &String| {
            let key = params![id, self.scope.recipe, self.scope.revision];
            if is_done.exists(key)? {
                return Ok(Standing::Done);
            }
            let begun = attempts.query_row(key, |row| row.get(0)).optional()?;
            Ok(begun.map_or(Standing::New, Standing::Begun))
        };
        ids.iter().map(&mut stand).collect()
    }

    fn begin(&mut self, ids: &[String]) -> rusqlite::Result<Vec<u32>> {
        let (recipe, revision) = (&self.scope.recipe, &self.scope.revision);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let attempts = {
            let mut begin = transaction.prepare(BEGIN)?;
            ids.iter()
                .map(|id| begin.query_row(params![id, recipe, revision], |row| row.get(0)))
                .collect::<rusqlite::Result<_>>()?
        };
        transaction.commit()?;
        Ok(attempts)
    }

    fn forget(&mut self, ids: &[String]) -> rusqlite::Result<()> {
        let (recipe, revision) = (&self.scope.recipe, &self.scope.revision);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for id in ids {
            transaction.execute(FORGET, params![id, recipe, revision])?;
        }
        transaction.commit()
    }

    fn write(&mut self, rows: &[Row]) -> rusqlite::Result<Vec<Written>> {
        let Scope {
            recipe,
            revision,
            worker,
        } = &self.scope;
        let now = time(SystemTime::now());
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let written = {
            let mut insert = transaction.prepare(INSERT)?;
            let mut is_same = transaction.prepare(IS_SAME)?;
            let mut forget = transaction.prepare(FORGET)?;
            let write = |row: &Row| {
                let new = insert.execute(params![
                    row.id,
                    recipe,
                    revision,
                    row.uri,
                    row.etag,
                    row.status.name(),
                    row.answer,
                    row.error,
                    row.bytes
                        .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
                    row.deliveries,
                    worker,
                    row.published_at.map(time),
                    row.fetched_at.map(time),
                    row.answered_at.map(time),
                    now,
                    row.fetch_ms,
                    row.infer_ms,
                ])?;
                forget.execute(params![row.id, recipe, revision])?;
                if new == 1 {
                    return Ok(Written::New);
                }
                let key = params![row.id, recipe, revision, row.uri, row.etag];
                Ok(match is_same.query_row(key, |row| row.get(0))? {
                    true => Written::Duplicate,
                    false => Written::Conflict,
                })
            };
            rows.iter().map(write).collect::<rusqlite::Result<_>>()?
        };
        transaction.commit()?;
        Ok(written)
    }
}

/// In UTC, as SQLite's own functions read it.
fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

fn cause(error: rusqlite::Error) -> TableError {
    let message = error.to_string();
    match error.sqlite_error_code() {
        // A disk may be emptied, a lock given back.
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory,
        ) => TableError::Unavailable(message),
        _ => TableError::Broken(message),
    }
}

/// The kind of the file system that a folder is on, if it is of another machine, by the lines of `/proc/self/mounts`.
fn remote(folder: &Path, mounts: &str) -> Option<&'static str> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        let at = Path::new(at);
        folder
            .starts_with(at)
            .then(|| (at.components().count(), kind))
    });
    // The last of those mounted at the same place is the one to be seen.
    let (_, kind) = mounts.max_by_key(|(depth, _)| *depth)?;
    REMOTE.into_iter().find(|&remote| remote == kind)
}

#[cfg(test)]
mod tests;
