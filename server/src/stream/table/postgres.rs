//! A table in PostgreSQL, which any number of workers write to. One statement a batch, which is a transaction of its own.

use std::{collections::HashMap, fmt, sync::Arc, time::SystemTime};

use futures::future::BoxFuture;
use tokio_postgres::{Config, types::Type};

use super::Table;
use crate::{
    database::{
        TableError,
        postgres::{Database, Value, get},
    },
    stream::{
        message::digest,
        row::{Row, Scope, Standing, Written},
    },
};

const SCHEMA: &[(&str, &str)] = &[
    (
        "galley_answers",
        "CREATE TABLE IF NOT EXISTS galley_answers (
  id TEXT NOT NULL, recipe TEXT NOT NULL, revision TEXT NOT NULL,
  uri TEXT, etag TEXT, status TEXT NOT NULL, answer JSON, error TEXT,
  bytes BIGINT, deliveries BIGINT, worker TEXT,
  published_at TIMESTAMPTZ, fetched_at TIMESTAMPTZ, answered_at TIMESTAMPTZ, written_at TIMESTAMPTZ NOT NULL,
  fetch_ms DOUBLE PRECISION, infer_ms DOUBLE PRECISION,
  PRIMARY KEY (id, recipe, revision))",
    ),
    (
        "galley_begun",
        "CREATE TABLE IF NOT EXISTS galley_begun (
  id TEXT NOT NULL, recipe TEXT NOT NULL, revision TEXT NOT NULL, attempts BIGINT NOT NULL,
  PRIMARY KEY (id, recipe, revision))",
    ),
];

/// What is there may have been made by somebody else.
const CHECK: &str =
    "SELECT id, recipe, revision, uri, etag, status, answer, error, bytes, deliveries, worker,
    published_at, fetched_at, answered_at, written_at, fetch_ms, infer_ms, attempts
    FROM galley_answers JOIN galley_begun USING (id, recipe, revision) LIMIT 0";
const LOOK_UP: &str = "SELECT answers.id IS NOT NULL, begun.attempts
    FROM unnest($3) WITH ORDINALITY AS asked (id, place)
    LEFT JOIN galley_answers AS answers
        ON answers.id = asked.id AND answers.recipe = $1 AND answers.revision = $2
    LEFT JOIN galley_begun AS begun
        ON begun.id = asked.id AND begun.recipe = $1 AND begun.revision = $2
    ORDER BY place";
/// In order, so that two workers that have the same ids wait for each other in turn and not crosswise; as `WRITE`.
const BEGIN: &str = "INSERT INTO galley_begun AS begun (id, recipe, revision, attempts)
    SELECT asked.id, $1, $2, 1 FROM unnest($3) AS asked (id) ORDER BY 1
    ON CONFLICT (id, recipe, revision) DO UPDATE SET attempts = begun.attempts + 1 RETURNING id, attempts";
const FORGET: &str =
    "DELETE FROM galley_begun WHERE id = ANY($3) AND recipe = $1 AND revision = $2";
const WRITE: &str = "WITH forgotten AS (
    DELETE FROM galley_begun WHERE id = ANY($3) AND recipe = $1 AND revision = $2)
    INSERT INTO galley_answers (id, recipe, revision, uri, etag, status, answer, error, bytes, deliveries, worker,
        published_at, fetched_at, answered_at, written_at, fetch_ms, infer_ms)
    SELECT id, $1, $2, uri, etag, status, answer::json, error, bytes, deliveries, $4,
        published_at, fetched_at, answered_at, clock_timestamp(), fetch_ms, infer_ms
    FROM unnest($3, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        AS new (id, uri, etag, status, answer, error, bytes, deliveries,
            published_at, fetched_at, answered_at, fetch_ms, infer_ms)
    ORDER BY 1 ON CONFLICT DO NOTHING RETURNING id";
/// A statement of its own, after it: within one, what another worker has just committed is not seen.
const IS_SAME: &str = "SELECT old.id,
        old.uri IS NOT DISTINCT FROM new.uri AND (new.uri IS NOT NULL OR old.etag IS NOT DISTINCT FROM new.etag)
    FROM galley_answers AS old JOIN unnest($3, $4, $5) AS new (id, uri, etag)
        ON old.id = new.id AND old.recipe = $1 AND old.revision = $2";

/// The longest id that stands as it is: an index has no room for every length.
const LONGEST_ID: usize = 1024;

/// A table in PostgreSQL.
pub struct Postgres {
    database: Database,
    scope: Scope,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

impl Postgres {
    /// Connects, and makes the tables if they are not there.
    ///
    /// # Errors
    /// It cannot be reached, does not let us in or write, or what is there is no table of answers.
    pub async fn open(config: Config, scope: Scope) -> Result<Self, TableError> {
        let database = Database::open(config, SCHEMA).await?;
        database.query(CHECK, &[]).await?;
        Ok(Self { database, scope })
    }

    /// Asks for ids of this scope. The statement's first three values are the key, ids last.
    async fn ask(
        &self,
        sql: &str,
        ids: &[String],
        more: &[Value<'_>],
    ) -> Result<Vec<tokio_postgres::Row>, TableError> {
        let mut values: Vec<Value<'_>> = vec![
            (&self.scope.recipe, Type::TEXT),
            (&self.scope.revision, Type::TEXT),
            (&ids, Type::TEXT_ARRAY),
        ];
        values.extend_from_slice(more);
        self.database.query(sql, &values).await
    }

    async fn stand(&self, ids: Vec<String>) -> Result<Vec<Standing>, TableError> {
        let found = self.ask(LOOK_UP, &keys(&ids), &[]).await?;
        let standing = |row: &tokio_postgres::Row| {
            Ok(match (get(row, 0)?, get::<Option<i64>>(row, 1)?) {
                (true, _) => Standing::Done,
                (false, Some(attempts)) => Standing::Begun(count(attempts)),
                (false, None) => Standing::New,
            })
        };
        found.iter().map(standing).collect()
    }

    async fn remember(&self, ids: Vec<String>) -> Result<Vec<u32>, TableError> {
        let keys = keys(&ids);
        let mut attempts: HashMap<String, i64> = HashMap::new();
        for row in self.ask(BEGIN, &keys, &[]).await? {
            attempts.insert(get(&row, 0)?, get(&row, 1)?);
        }
        let of = |key| attempts.get(key).copied().map_or(1, count);
        Ok(keys.iter().map(of).collect())
    }

    async fn insert(&self, rows: &[Row]) -> Result<Vec<Written>, TableError> {
        let ids: Vec<String> = rows.iter().map(|row| key(&row.id)).collect();
        let texts = |field: fn(&Row) -> Option<&str>| -> Vec<Option<String>> {
            rows.iter().map(|row| field(row).map(text)).collect()
        };
        let times = |field: fn(&Row) -> Option<SystemTime>| -> Vec<Option<SystemTime>> {
            rows.iter().map(field).collect()
        };
        let numbers = |field: fn(&Row) -> Option<f64>| -> Vec<Option<f64>> {
            rows.iter().map(field).collect()
        };
        let (uris, etags) = (
            texts(|row| row.uri.as_deref()),
            texts(|row| row.etag.as_deref()),
        );
        let statuses: Vec<&str> = rows.iter().map(|row| row.status.name()).collect();
        let size = |row: &Row| {
            row.bytes
                .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
        };
        let bytes: Vec<Option<i64>> = rows.iter().map(size).collect();
        let deliveries: Vec<i64> = rows.iter().map(|row| row.deliveries.into()).collect();
        let new = [
            (&self.scope.worker as _, Type::TEXT),
            (&uris as _, Type::TEXT_ARRAY),
            (&etags as _, Type::TEXT_ARRAY),
            (&statuses as _, Type::TEXT_ARRAY),
            (&texts(|row| row.answer.as_deref()) as _, Type::TEXT_ARRAY),
            (&texts(|row| row.error.as_deref()) as _, Type::TEXT_ARRAY),
            (&bytes as _, Type::INT8_ARRAY),
            (&deliveries as _, Type::INT8_ARRAY),
            (&times(|row| row.published_at) as _, Type::TIMESTAMPTZ_ARRAY),
            (&times(|row| row.fetched_at) as _, Type::TIMESTAMPTZ_ARRAY),
            (&times(|row| row.answered_at) as _, Type::TIMESTAMPTZ_ARRAY),
            (&numbers(|row| row.fetch_ms) as _, Type::FLOAT8_ARRAY),
            (&numbers(|row| row.infer_ms) as _, Type::FLOAT8_ARRAY),
        ];
        let mut written: HashMap<String, Written> = HashMap::new();
        for row in self.ask(WRITE, &ids, &new).await? {
            written.insert(get(&row, 0)?, Written::New);
        }
        if written.len() < rows.len() {
            let new = [
                (&uris as _, Type::TEXT_ARRAY),
                (&etags as _, Type::TEXT_ARRAY),
            ];
            for row in self.ask(IS_SAME, &ids, &new).await? {
                let old = match get(&row, 1)? {
                    true => Written::Duplicate,
                    false => Written::Conflict,
                };
                written.entry(get(&row, 0)?).or_insert(old);
            }
        }
        let of = |id| written.get(id).copied();
        let gone = || TableError::Unavailable("a row went as it was looked at".into());
        ids.iter().map(|id| of(id).ok_or_else(gone)).collect()
    }
}

impl Table for Postgres {
    fn look_up(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<Standing>, TableError>> {
        Box::pin(self.stand(ids))
    }

    fn begin(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<u32>, TableError>> {
        Box::pin(self.remember(ids))
    }

    fn forget(&self, ids: Vec<String>) -> BoxFuture<'_, Result<(), TableError>> {
        Box::pin(async move { self.ask(FORGET, &keys(&ids), &[]).await.map(drop) })
    }

    fn write(&self, rows: Arc<[Row]>) -> BoxFuture<'_, Result<Vec<Written>, TableError>> {
        Box::pin(async move { self.insert(&rows).await })
    }
}

fn count(attempts: i64) -> u32 {
    u32::try_from(attempts).unwrap_or(u32::MAX)
}

/// An id as it stands in the table: as it is, or as its digest where PostgreSQL cannot hold it.
fn key(id: &str) -> String {
    match id.len() > LONGEST_ID || id.contains('\0') {
        true => format!("sha256:{}", digest(id.as_bytes())),
        false => id.to_owned(),
    }
}

fn keys(ids: &[String]) -> Vec<String> {
    ids.iter().map(|id| key(id)).collect()
}

/// PostgreSQL's texts have no character 0.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests;
