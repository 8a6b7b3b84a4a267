//! Rows of a file.

use std::{path::Path, time::SystemTime};

use rusqlite::{Connection, OpenFlags, types::Type};

use super::{ROWS, Row, Times};

/// The rows whose ids begin so.
pub(super) fn read(path: &Path, prefix: &str) -> rusqlite::Result<Vec<Row>> {
    // Whoever reads a log that was left behind puts it into the file.
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mut statement = connection.prepare(ROWS)?;
    statement.query_map([prefix], row)?.collect()
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let time = |column: usize| -> rusqlite::Result<Option<SystemTime>> {
        let text: Option<String> = row.get(column)?;
        let parsed = text.map(|text| humantime::parse_rfc3339(&text)).transpose();
        parsed.map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
        })
    };
    let times = Times {
        published: time(5)?,
        fetched: time(6)?,
        answered: time(7)?,
        written: time(8)?,
        fetch_ms: row.get(9)?,
        infer_ms: row.get(10)?,
    };
    let bytes: Option<i64> = row.get(4)?;
    Ok(Row {
        id: row.get(0)?,
        status: row.get(1)?,
        answer: row.get(2)?,
        error: row.get(3)?,
        ..Row::of(bytes, times)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

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
                   ('a-2', 'refused', NULL, 'x', NULL, '1970-01-01T00:00:01.000Z', NULL, '1970-01-01T00:00:03.000Z',
                    '1970-01-01T00:00:04.500Z', NULL, 250.0),
                   ('b-1', 'ok', '[2]', NULL, 7, NULL, NULL, NULL, '1970-01-01T00:00:04.000Z', NULL, NULL);",
            )
            .unwrap();
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let expected = [
            Row {
                id: "a-1".into(),
                status: "ok".into(),
                answer: Some("[1]".into()),
                error: None,
                bytes: 7,
                published: None,
                began: at(1500),
                written: at(4000),
            },
            Row {
                id: "a-2".into(),
                status: "refused".into(),
                answer: None,
                error: Some("x".into()),
                bytes: 0,
                published: Some(at(1000)),
                began: at(2750),
                written: at(4500),
            },
        ];
        assert_eq!(read(&table, "a-").unwrap(), expected);
        assert_eq!(read(&table, "c-").unwrap(), []);
    }
}
