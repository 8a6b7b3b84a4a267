//! What a stream left behind: the rows of `galley_answers`, read as anybody reads them, and what their times say.

mod postgres;
mod sqlite;

use std::time::{Duration, SystemTime};

use super::runtime;
use crate::{
    args::StreamTable,
    error::{Error, Result},
    stats::Latency,
};

/// In what SQL both databases have in common.
const ROWS: &str = "SELECT id, status, CAST(answer AS TEXT), error, bytes,
    published_at, fetched_at, answered_at, written_at, fetch_ms, infer_ms
    FROM galley_answers WHERE substr(id, 1, length($1)) = $1 ORDER BY written_at";

/// A row, as far as it is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    id: String,
    status: String,
    answer: Option<String>,
    error: Option<String>,
    bytes: u64,
    published: Option<SystemTime>,
    /// When work on the message began: that of fetching, or of a text of answering.
    began: SystemTime,
    written: SystemTime,
}

/// A row's times, as they stand there.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    published: Option<SystemTime>,
    fetched: Option<SystemTime>,
    answered: Option<SystemTime>,
    written: Option<SystemTime>,
    fetch_ms: Option<f64>,
    infer_ms: Option<f64>,
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

impl Row {
    /// A row of so many bytes and these times, of which nothing else is known.
    fn of(bytes: Option<i64>, times: Times) -> Self {
        let took = |ms: Option<f64>| {
            let took = Duration::try_from_secs_f64(ms.unwrap_or_default() / 1e3);
            took.unwrap_or_default()
        };
        let written = times.written.unwrap_or(SystemTime::UNIX_EPOCH);
        let began = match (times.fetched, times.answered) {
            (Some(fetched), _) => fetched.checked_sub(took(times.fetch_ms)),
            (None, Some(answered)) => answered.checked_sub(took(times.infer_ms)),
            (None, None) => None,
        };
        Self {
            id: String::new(),
            status: String::new(),
            answer: None,
            error: None,
            bytes: u64::try_from(bytes.unwrap_or_default()).unwrap_or_default(),
            published: times.published,
            began: began.unwrap_or(written),
            written,
        }
    }
}

impl Rows {
    /// The rows whose ids begin so.
    ///
    /// # Errors
    /// The table cannot be read.
    pub(super) fn read(table: &StreamTable, prefix: &str) -> Result<Self> {
        let rows = match table {
            StreamTable::Sqlite(path) => sqlite::read(path, prefix).map_err(unreadable)?,
            StreamTable::Postgres(url) => {
                let rows = runtime()?.block_on(postgres::read(url, prefix));
                rows.map_err(unreadable)?
            }
        };
        Ok(Self(rows))
    }

    /// The answer in the row of an id, if there is one.
    pub(super) fn answer(&self, id: &str) -> Option<&str> {
        let row = self.0.iter().find(|row| row.id == id)?;
        row.answer.as_deref()
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

/// A driver's message may be in the error that it follows from.
fn unreadable(error: impl std::error::Error) -> Error {
    let source = error.source().map(|source| format!(": {source}"));
    Error::Table(format!("{error}{}", source.unwrap_or_default()))
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
            began: at(began),
            ..Row::of(
                Some(10),
                Times {
                    published: published.map(at),
                    written: Some(at(written)),
                    ..Times::default()
                },
            )
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
    fn work_begins_with_fetching_or_else_with_answering() {
        let times = Times {
            fetched: Some(at(2000)),
            answered: Some(at(3000)),
            written: Some(at(4000)),
            fetch_ms: Some(500.0),
            infer_ms: Some(900.0),
            ..Times::default()
        };
        assert_eq!(Row::of(None, times).began, at(1500));
        let inline = Times {
            fetched: None,
            ..times
        };
        assert_eq!(Row::of(None, inline).began, at(2100));
        let refused = Times {
            answered: None,
            ..inline
        };
        assert_eq!(Row::of(None, refused).began, at(4000));
    }

    #[test]
    fn an_answer_is_found_by_its_id() {
        let mut one = row(None, 0, 1);
        (one.id, one.answer) = ("a-2".into(), Some("[2]".into()));
        let rows = Rows(vec![row(None, 0, 1), one]);
        assert_eq!(rows.answer("a-2"), Some("[2]"));
        assert_eq!(rows.answer("a-3"), None);
    }
}
