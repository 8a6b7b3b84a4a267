//! One statement for either database, in what SQL they have in common. Where they differ it says `{now}`, the database's own
//! time in milliseconds since 1970; `{each}`, the texts of a list in JSON that is the first value; and `{skip locked}`.
//! Values stand there as `?1`, `?2`. Each statement is a transaction.

use std::{path::Path, time::Duration};

use rusqlite::{
    Connection, ToSql, params_from_iter,
    types::{ToSqlOutput, ValueRef},
};
use tokio_postgres::types::Type;

use super::{
    Address, TableError,
    postgres::{self, get},
    sqlite::Sqlite,
};

/// How long PostgreSQL may take: somebody waits for a request.
const PATIENCE: Duration = Duration::from_secs(10);

const OF_SQLITE: [(&str, &str); 3] = [
    ("{now}", "CAST(unixepoch('subsec') * 1000 AS INTEGER)"),
    ("{each}", "SELECT value FROM json_each(?1)"),
    // It has one writer.
    ("{skip locked}", ""),
];
const OF_POSTGRES: [(&str, &str); 4] = [
    (
        "{now}",
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    ),
    ("{each}", "SELECT json_array_elements_text(?1::json)"),
    ("{skip locked}", "FOR UPDATE SKIP LOCKED"),
    ("?", "$"),
];

/// A database of either kind.
#[derive(Debug)]
pub(crate) enum Either {
    Sqlite(Sqlite),
    Postgres(Box<postgres::Database>),
}

/// What is in a column, or handed to a statement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Either {
    /// Opens a database, or makes a file, with the tables that it lacks: each by its name and how it is made. A server that
    /// cannot be reached now is connected to later.
    pub(crate) fn open(
        address: Address,
        schema: &'static [(&'static str, &'static str)],
    ) -> Result<Self, TableError> {
        match address {
            Address::Sqlite(path) => Self::file(&path, schema),
            Address::Postgres(config) => {
                let server = postgres::Database::new(*config, schema, PATIENCE)?;
                Ok(Self::Postgres(Box::new(server)))
            }
        }
    }

    fn file(path: &Path, schema: &[(&str, &str)]) -> Result<Self, TableError> {
        let schema: Vec<&str> = schema.iter().map(|(_, create)| *create).collect();
        Sqlite::open(path, &schema.join(";"), &[]).map(Self::Sqlite)
    }

    /// The rows that a statement gives.
    pub(crate) async fn query(
        &self,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Vec<Value>>, TableError> {
        match self {
            Self::Sqlite(file) => {
                let sql = dialect(sql, &OF_SQLITE);
                file.ask(move |connection| rows(connection, &sql, &values))
                    .await
            }
            Self::Postgres(server) => {
                let sql = dialect(sql, &OF_POSTGRES);
                let values: Vec<_> = values.iter().map(of_postgres).collect();
                let rows = server.query(&sql, &values).await?;
                rows.iter().map(from_postgres).collect()
            }
        }
    }
}

fn dialect(sql: &str, words: &[(&str, &str)]) -> String {
    let replace = |sql: String, (word, by): &(&str, &str)| sql.replace(word, by);
    words.iter().fold(sql.to_owned(), replace)
}

fn rows(
    connection: &mut Connection,
    sql: &str,
    values: &[Value],
) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let value = |place| Ok(from_sqlite(row.get_ref(place)?));
        found.push((0..columns).map(value).collect::<rusqlite::Result<_>>()?);
    }
    Ok(found)
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn from_sqlite(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Text(number.to_string()),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

fn of_postgres(value: &Value) -> postgres::Value<'_> {
    match value {
        Value::Null => (&None::<&str>, Type::UNKNOWN),
        Value::Int(number) => (number, Type::INT8),
        Value::Text(text) => (text, Type::TEXT),
        Value::Bytes(bytes) => (bytes, Type::BYTEA),
    }
}

fn from_postgres(row: &tokio_postgres::Row) -> Result<Vec<Value>, TableError> {
    let value = |(place, column): (usize, &tokio_postgres::Column)| {
        Ok(match *column.type_() {
            Type::INT8 => get::<Option<i64>>(row, place)?.map(Value::Int),
            Type::BYTEA => get::<Option<Vec<u8>>>(row, place)?.map(Value::Bytes),
            Type::INT4 => get::<Option<i32>>(row, place)?.map(|number| Value::Int(number.into())),
            _ => get::<Option<String>>(row, place)?.map(Value::Text),
        }
        .unwrap_or(Value::Null))
    };
    row.columns().iter().enumerate().map(value).collect()
}
