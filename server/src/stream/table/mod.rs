//! Where rows go. A table is opened for one recipe and revision ([`super::row::Scope`]), and creates what it lacks:
//!
//! ```sql
//! CREATE TABLE galley_answers (
//!   id TEXT NOT NULL, recipe TEXT NOT NULL, revision TEXT NOT NULL,
//!   uri TEXT, etag TEXT, status TEXT NOT NULL, answer JSON, error TEXT,
//!   bytes BIGINT, deliveries INT, worker TEXT,
//!   published_at, fetched_at, answered_at, written_at TIMESTAMP,
//!   fetch_ms REAL, infer_ms REAL,
//!   PRIMARY KEY (id, recipe, revision));
//! CREATE TABLE galley_begun (          -- what may have ended a process
//!   id, recipe, revision, attempts INT NOT NULL,
//!   PRIMARY KEY (id, recipe, revision));
//! ```

mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::future::BoxFuture;

pub use self::{postgres::Postgres, sqlite::Sqlite};
use super::row::{Row, Standing, Written};
use crate::database::TableError;

/// A table of answers. Whatever is asked of it may be asked again where it is not known whether it happened.
pub trait Table: Send + Sync {
    /// What is known of these ids, in their order.
    fn look_up(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<Standing>, TableError>>;

    /// Remembers that these are being begun, and says for each how often it has been, this time included. Writing its row
    /// forgets it. Distinct ids.
    fn begin(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<u32>, TableError>>;

    /// These were begun, have no row, and did nobody harm: they are as if they had not been.
    fn forget(&self, ids: Vec<String>) -> BoxFuture<'_, Result<(), TableError>>;

    /// Writes rows in one transaction, and gives what came of each, in their order, once that is durable. Ids among them
    /// are distinct. A row whose key is there is left out; the one that is there stays as it is.
    fn write(&self, rows: Arc<[Row]>) -> BoxFuture<'_, Result<Vec<Written>, TableError>>;

    /// Nothing is asked of it any more: what it keeps is left in order.
    fn close(&self) -> BoxFuture<'_, Result<(), TableError>> {
        Box::pin(async { Ok(()) })
    }
}
