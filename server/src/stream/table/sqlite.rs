//! A table in a file: transactions that its one thread runs in turn.

use std::{path::Path, sync::Arc, time::SystemTime};

use futures::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::Table;
use crate::{
    database::{self, TableError},
    stream::row::{Row, Scope, Standing, Written},
};

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
#[derive(Debug)]
pub struct Sqlite {
    file: database::sqlite::Sqlite,
    scope: Arc<Scope>,
}

struct Database<'a> {
    connection: &'a mut Connection,
    scope: &'a Scope,
}

impl Sqlite {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It cannot be written, is no database, or lies on a file system of another machine.
    pub fn open(path: &Path, scope: Scope) -> Result<Self, TableError> {
        let file = database::sqlite::Sqlite::open(path, SCHEMA, &[INSERT, IS_SAME, BEGIN])?;
        let scope = Arc::new(scope);
        Ok(Self { file, scope })
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Database<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, TableError>> {
        let scope = Arc::clone(&self.scope);
        self.file.ask(move |connection| {
            question(&mut Database {
                connection,
                scope: &scope,
            })
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
        self.file.close()
    }
}

impl Database<'_> {
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

#[cfg(test)]
mod tests;
