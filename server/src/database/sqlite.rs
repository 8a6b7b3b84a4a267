//! A database in a file. A thread of its own has the connection, for a transaction must not be held over an `await`; what is
//! asked of it is done in turn.

use std::{fmt, path::Path, sync::mpsc, thread, time::Duration};

use futures::future::BoxFuture;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::TableError;

/// How long another process may hold the file's lock.
const LOCKED: Duration = Duration::from_secs(5);
/// Kinds of file systems whose locks do not hold between machines, or at all.
const REMOTE: [&str; 6] = ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"];

/// A database in a file.
pub(crate) struct Sqlite {
    questions: mpsc::Sender<Question>,
}

type Question = Box<dyn FnOnce(&mut Connection) + Send>;

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").finish_non_exhaustive()
    }
}

impl Sqlite {
    /// Opens the file, or makes it, with what it lacks of a schema. The statements are only tried: what is there may have been
    /// made by somebody else.
    ///
    /// # Errors
    /// It cannot be written, is no database or not as the statements need it, or lies on a file system of another machine.
    pub(crate) fn open(path: &Path, schema: &str, statements: &[&str]) -> Result<Self, TableError> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folder = path.parent().filter(|folder| folder.is_dir());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize();
        if let Some(kind) = folder.ok().and_then(|folder| remote(&folder, &mounts)) {
            return Err(TableError::Broken(format!(
                "{} is on a file system of another machine ({kind}), where SQLite's locks do not hold; PostgreSQL is for that",
                path.display()
            )));
        }
        let mut connection = connect(path, schema, statements).map_err(|error| {
            TableError::Broken(format!("cannot open {}: {error}", path.display()))
        })?;
        let (questions, queue) = mpsc::channel::<Question>();
        let run = move || {
            while let Ok(question) = queue.recv() {
                question(&mut connection);
            }
        };
        thread::Builder::new()
            .name("table".into())
            .spawn(run)
            .map_err(|error| TableError::Broken(format!("cannot start a thread: {error}")))?;
        Ok(Self { questions })
    }

    /// Asks the connection something.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, TableError>> {
        let (sender, answer) = oneshot::channel();
        let question: Question = Box::new(move |connection| {
            // Whoever asked may be gone; what was done stays done.
            let _ = sender.send(question(connection).map_err(cause));
        });
        let sent = self.questions.send(question);
        Box::pin(async move {
            let gone = || TableError::Broken("the table's thread has ended".into());
            sent.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }

    /// Nothing is asked of it any more.
    pub(crate) fn close(&self) -> BoxFuture<'static, Result<(), TableError>> {
        self.ask(|connection| {
            // What closes a database puts its log into the file, which then may be copied alone.
            *connection = Connection::open_in_memory()?;
            Ok(())
        })
    }
}

fn connect(path: &Path, schema: &str, statements: &[&str]) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(LOCKED)?;
    // Readers read while rows are written, and a commit is on the disk before it is said to be one.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(schema)?;
    for statement in statements {
        connection.prepare(statement)?;
    }
    Ok(connection)
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
mod tests {
    use super::*;

    #[test]
    fn many_may_make_a_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.db");
        let open = || Sqlite::open(&path, "CREATE TABLE IF NOT EXISTS made (id TEXT)", &[]);
        thread::scope(|scope| {
            let opening: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            for opened in opening {
                opened.join().unwrap().unwrap();
            }
        });
    }

    #[test]
    fn file_systems_of_other_machines_are_known_by_their_mounts() {
        let mounts =
            "/dev/sda / ext4 rw 0 0\nhost:/x /data nfs4 rw 0 0\ntmpfs /data/local tmpfs rw 0 0\n";
        let kind = |folder| remote(Path::new(folder), mounts);
        assert_eq!(kind("/home"), None);
        assert_eq!(kind("/data/a"), Some("nfs4"));
        assert_eq!(kind("/data/local/a"), None);
        assert_eq!(kind("/database"), None);
    }
}
