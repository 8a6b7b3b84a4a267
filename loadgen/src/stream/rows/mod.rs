//! What a stream left behind: the rows of `galley_answers`, read as anybody reads them, and what their times say.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::{
    error::{Error, Result},
    stats::Latency,
};

const ROWS: &str = "SELECT status, error, bytes, published_at, fetched_at, answered_at, written_at, fetch_ms, infer_ms
    FROM galley_answers WHERE substr(id, 1, length(?1)) = ?1";
const ANSWER: &str = "SELECT answer FROM galley_answers WHERE id = ?1";

/// A row, as far as it is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    status: String,
    error: Option<String>,
    bytes: u64,
    published: Option<SystemTime>,
    /// When work on the message began: that of fetching, or of a text of answering.
    began: SystemTime,
    written: SystemTime,
}

/// The rows of one pass.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rows(Vec<Row>);

/// What the rows of a pass say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figures {
    first: SystemTime,
    /// From the first message's beginning to the last row.
    pub(super) seconds: f64,
    pub(super) bytes: u64,
    pub(super) latency: Latency,
}

impl Figures {
    /// From a worker's start to its first message.
    pub(super) fn startup_seconds(&self, started: SystemTime) -> f64 {
        since(self.first, started).as_secs_f64()
    }
}

impl Rows {
    /// The rows whose ids begin so.
    ///
    /// # Errors
    /// The table cannot be read.
    pub(super) fn read(table: &Path, prefix: &str) -> Result<Self> {
        let read = || -> rusqlite::Result<Vec<Row>> {
            let connection = open(table)?;
            let mut statement = connection.prepare(ROWS)?;
            statement.query_map([prefix], row)?.collect()
        };
        read().map(Self).map_err(unreadable)
    }

    /// What so many messages' rows say.
    ///
    /// # Errors
    /// There are more or fewer, or one has no answer.
    pub(super) fn figures(&self, messages: usize) -> Result<Figures> {
        let Self(rows) = self;
        if rows.len() != messages {
            return Err(Error::Rows(format!(
                "expected {messages}, one for each message, got {}",
                rows.len()
            )));
        }
        let mut bad = rows.iter().filter(|row| row.status != "ok");
        if let Some(row) = bad.next() {
            let reason = row.error.as_deref().unwrap_or("for no reason");
            let more = bad.count();
            return Err(Error::Rows(format!(
                "expected answers, got {} ({reason}), and {more} more like it",
                row.status
            )));
        }
        let times = rows
            .iter()
            .map(|row| since(row.written, row.published.unwrap_or(row.began)));
        let first = rows.iter().map(|row| row.began).min();
        let last = rows.iter().map(|row| row.written).max();
        let (Some(first), Some(last), Some(latency)) = (first, last, Latency::of(times.collect()))
        else {
            return Err(Error::Rows("there are none".into()));
        };
        Ok(Figures {
            first,
            seconds: since(last, first).as_secs_f64().max(1e-3),
            bytes: rows.iter().map(|row| row.bytes).sum(),
            latency,
        })
    }
}

/// The answer in the row of an id, if there is one.
///
/// # Errors
/// The table cannot be read.
pub(super) fn answer(table: &Path, id: &str) -> Result<Option<String>> {
    let read = || {
        open(table)?
            .query_row(ANSWER, params![id], |row| row.get(0))
            .optional()
    };
    read().map(Option::flatten).map_err(unreadable)
}

fn open(table: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(table, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::Table(error.to_string())
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let time = |column: usize| -> rusqlite::Result<Option<SystemTime>> {
        let text: Option<String> = row.get(column)?;
        let parsed = text.map(|text| humantime::parse_rfc3339(&text)).transpose();
        parsed.map_err(|error| {
            let kind = rusqlite::types::Type::Text;
            rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
        })
    };
    let took = |column: usize| -> rusqlite::Result<Duration> {
        let ms: Option<f64> = row.get(column)?;
        let took = Duration::try_from_secs_f64(ms.unwrap_or_default() / 1e3);
        Ok(took.unwrap_or_default())
    };
    let written = time(6)?.unwrap_or(SystemTime::UNIX_EPOCH);
    let began = match (time(4)?, time(5)?) {
        (Some(fetched), _) => fetched.checked_sub(took(7)?),
        (None, Some(answered)) => answered.checked_sub(took(8)?),
        (None, None) => None,
    };
    let bytes: Option<i64> = row.get(2)?;
    Ok(Row {
        status: row.get(0)?,
        error: row.get(1)?,
        bytes: u64::try_from(bytes.unwrap_or_default()).unwrap_or_default(),
        published: time(3)?,
        began: began.unwrap_or(written),
        written,
    })
}

fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    // Rows have milliseconds, so that what took less may seem to have taken less than nothing.
    later.duration_since(earlier).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }

    fn row(published: Option<u64>, began: u64, written: u64) -> Row {
        Row {
            status: "ok".into(),
            error: None,
            bytes: 10,
            published: published.map(at),
            began: at(began),
            written: at(written),
        }
    }

    #[test]
    fn time_runs_from_the_first_beginning_to_the_last_row() {
        let rows = Rows(vec![row(None, 1500, 3000), row(None, 1000, 2000)]);
        let figures = rows.figures(2).unwrap();
        assert_eq!((figures.seconds, figures.bytes), (2.0, 20));
        assert_eq!((figures.latency.p50, figures.latency.max), (1000.0, 1500.0));
        assert_eq!(figures.startup_seconds(at(400)), 0.6);
    }

    #[test]
    fn latency_counts_from_publishing_where_that_is_known() {
        let rows = Rows(vec![row(Some(100), 1000, 2000)]);
        assert_eq!(rows.figures(1).unwrap().latency.p50, 1900.0);
    }

    #[test]
    fn a_row_that_is_missing_or_no_answer_is_an_error() {
        let mut refused = row(None, 0, 1);
        refused.status = "refused".into();
        refused.error = Some("no such file".into());
        let rows = Rows(vec![row(None, 0, 1), refused]);
        let error = rows.figures(3).unwrap_err().to_string();
        assert!(error.contains("expected 3"), "{error}");
        let error = rows.figures(2).unwrap_err().to_string();
        assert!(error.contains("refused (no such file)"), "{error}");
    }

    #[test]
    fn rows_are_read_by_the_prefix_of_their_ids() {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("answers.db");
        let connection = Connection::open(&table).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE galley_answers (id, status, answer, error, bytes, published_at, fetched_at, answered_at,
                   written_at, fetch_ms, infer_ms);
                 INSERT INTO galley_answers VALUES
                   ('a-1', 'ok', '[1]', NULL, 7, NULL, '1970-01-01T00:00:02.000Z', '1970-01-01T00:00:03.000Z',
                    '1970-01-01T00:00:04.000Z', 500.0, 900.0),
                   ('a-2', 'ok', '[2]', NULL, 7, '1970-01-01T00:00:01.000Z', NULL, '1970-01-01T00:00:03.000Z',
                    '1970-01-01T00:00:04.500Z', NULL, 250.0),
                   ('b-1', 'refused', NULL, 'x', NULL, NULL, NULL, NULL, '1970-01-01T00:00:04.000Z', NULL, NULL);",
            )
            .unwrap();
        let mut by_fetch = row(None, 1500, 4000);
        let mut by_answer = row(Some(1000), 2750, 4500);
        (by_fetch.bytes, by_answer.bytes) = (7, 7);
        let read = Rows::read(&table, "a-").unwrap();
        assert_eq!(read, Rows(vec![by_fetch, by_answer]));
        assert_eq!(answer(&table, "a-2").unwrap().as_deref(), Some("[2]"));
        assert_eq!(answer(&table, "b-1").unwrap(), None);
        assert_eq!(answer(&table, "c-1").unwrap(), None);
    }
}
