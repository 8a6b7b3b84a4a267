//! Jobs in a table: what was asked for, who works on it until when, and how it ended. So a job outlives the process that took
//! it, and every process that shares the table knows its result.
//!
//! ```sql
//! CREATE TABLE galley_jobs (
//!   recipe, id TEXT,            -- the key; the id is the client's or ours
//!   digest BYTEA,               -- of the inputs: the same id for others is refused
//!   timeout_ms, attempts BIGINT,-- how long an attempt may take, and how many were begun
//!   owner, lease TEXT,          -- host and process that has it; the lease is another one each time
//!   lease_until BIGINT,         -- by the database's clock, in milliseconds since 1970, as all times
//!   created_at, ended_at BIGINT,
//!   status BIGINT, error TEXT,  -- null while it waits or runs, then HTTP's status; why there is no answer
//!   form TEXT, body BYTEA,      -- the request's body and what it is, until it has ended
//!   answer BYTEA,               -- msgpack
//!   PRIMARY KEY (recipe, id));
//! ```
//!
//! Whoever has a job holds its *lease* and renews it. A lease that has ended may be taken by anybody; from then on what its
//! former holder writes finds no row. Only this table's clock decides, as clocks of machines differ.

pub(crate) mod attempt;
mod sql;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use uuid::Uuid;

use crate::database::{
    self, Address, TableError,
    either::{Either, Value},
};

/// How a table of jobs is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobsConfig {
    /// Where it is.
    pub address: Address,
    /// How long after its last sign of life a process's jobs are taken by others (`--job-lease`).
    pub lease: Duration,
    /// How many processes may end while a job runs before it is given up (`--job-attempts`).
    pub attempts: u32,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How long results are.
    pub(crate) ttl: Duration,
    /// The most jobs that have no end, and the most results.
    pub(crate) jobs: usize,
    /// The most bytes of results.
    pub(crate) bytes: usize,
}

/// A table of jobs. Cloning it is cheap and gives the same one. Whatever is asked of it may be asked again where it is not known
/// whether it happened.
#[derive(Clone, Debug)]
pub struct JobTable(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    database: Either,
    owner: String,
    lease: Duration,
    attempts: u32,
    reachable: AtomicBool,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct New {
    pub(crate) recipe: &'static str,
    pub(crate) id: Arc<str>,
    pub(crate) digest: [u8; 32],
    pub(crate) input: JobInput,
}

/// What it is done with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobInput {
    pub(crate) timeout: Duration,
    pub(crate) form: String,
    pub(crate) body: Bytes,
}

/// What came of storing a job.
#[derive(Debug, PartialEq)]
pub(crate) enum Begun {
    New(Lease),
    /// It was there, and goes on or has its result.
    Known,
    /// The id is another one's.
    Conflict,
    /// As many have no end as may.
    Full,
}

/// The right to work on a job, until somebody else has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lease {
    pub(crate) recipe: &'static str,
    pub(crate) id: Arc<str>,
    pub(crate) token: String,
    /// How often it had been begun before.
    pub(crate) begun: u32,
    /// The bytes of its body.
    pub(crate) size: usize,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    /// As HTTP has it.
    pub(crate) status: u16,
    pub(crate) error: Option<String>,
    /// Without one it failed.
    pub(crate) answer: Option<Bytes>,
}

impl JobTable {
    /// Opens the table, or makes it. A server that cannot be reached now is tried again whenever it is needed.
    ///
    /// # Errors
    /// It cannot be written, or what is there is no table of jobs.
    pub async fn open(config: &JobsConfig) -> Result<Self, TableError> {
        let table = Self(Arc::new(Shared {
            database: Either::open(config.address.clone(), sql::SCHEMA)?,
            owner: database::own_name(),
            lease: config.lease,
            attempts: config.attempts,
            reachable: AtomicBool::new(true),
        }));
        match table.query(sql::CHECK, vec![]).await {
            Ok(_) | Err(TableError::Unavailable(_)) => Ok(table),
            Err(error) => Err(error),
        }
    }

    /// How long a lease lasts.
    pub(crate) fn lease(&self) -> Duration {
        self.0.lease
    }

    /// How many processes may end while a job runs.
    pub(crate) fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Stores a job that is begun at once.
    pub(crate) async fn begin(&self, new: New, bounds: Bounds) -> Result<Begun, TableError> {
        let mut lease = Lease {
            recipe: new.recipe,
            id: new.id,
            token: Uuid::new_v4().to_string(),
            begun: 0,
            size: new.input.body.len(),
        };
        let digest = new.digest.to_vec();
        let values = vec![
            new.recipe.into(),
            lease.id.as_ref().into(),
            Value::Bytes(digest.clone()),
            Value::Text(new.input.form),
            Value::Bytes(new.input.body.into()),
            millis(new.input.timeout),
            self.0.owner.as_str().into(),
            lease.token.as_str().into(),
            millis(self.0.lease),
            int(bounds.jobs),
            millis(bounds.ttl),
        ];
        if let Some([Value::Text(token)]) = one(self.query(sql::BEGIN, values).await?) {
            lease.token = token;
            return Ok(Begun::New(lease));
        }
        let key = vec![new.recipe.into(), lease.id.as_ref().into()];
        Ok(match one(self.query(sql::DIGEST, key).await?) {
            Some([Value::Bytes(known)]) if known == digest => Begun::Known,
            Some([_]) => Begun::Conflict,
            None => Begun::Full,
        })
    }

    /// The job of that id, if it is known, and how it ended, if it has.
    pub(crate) async fn find(
        &self,
        recipe: &str,
        id: &str,
        ttl: Duration,
    ) -> Result<Option<Option<End>>, TableError> {
        let values = vec![recipe.into(), id.into(), millis(ttl)];
        let found = one(self.query(sql::FIND, values).await?);
        Ok(found.map(|[status, error, answer]| {
            let Value::Int(status) = status else {
                return None;
            };
            Some(End {
                status: u16::try_from(status).unwrap_or(500),
                error: text(error),
                answer: bytes(answer),
            })
        }))
    }

    /// Takes jobs whose leases have ended, the oldest first.
    pub(crate) async fn take(
        &self,
        recipe: &'static str,
        limit: usize,
    ) -> Result<Vec<Lease>, TableError> {
        let values = vec![
            recipe.into(),
            int(limit),
            self.0.owner.as_str().into(),
            Value::Text(format!("{} ", Uuid::new_v4())),
            millis(self.0.lease),
        ];
        let taken = self.query(sql::TAKE, values).await?.into_iter();
        let lease = |row: Vec<Value>| match <[Value; 4]>::try_from(row) {
            Ok([Value::Text(id), Value::Text(token), begun, size]) => Some(Lease {
                recipe,
                id: id.into(),
                token,
                begun: number(&begun),
                size: number(&size),
            }),
            _ => None,
        };
        Ok(taken.filter_map(lease).collect())
    }

    /// Counts that a job is begun once more, and gives what it is done with, if it is still ours.
    pub(crate) async fn start(&self, lease: &Lease) -> Result<Option<JobInput>, TableError> {
        let values = lease.values([Value::Int(i64::from(lease.begun) + 1)]);
        let started = one(self.query(sql::START, values).await?);
        Ok(started.map(|[timeout, form, body]| JobInput {
            timeout: Duration::from_millis(number(&timeout)),
            form: text(form).unwrap_or_default(),
            body: bytes(body).unwrap_or_default(),
        }))
    }

    /// Makes leases last.
    pub(crate) async fn renew(&self, tokens: Vec<String>) -> Result<(), TableError> {
        let tokens = serde_json::Value::from(tokens).to_string();
        let values = vec![Value::Text(tokens), millis(self.0.lease)];
        self.query(sql::RENEW, values).await.map(drop)
    }

    /// Gives a job back, to be taken after a time, as if it had not been begun. Says whether it was still ours.
    pub(crate) async fn release(&self, lease: &Lease, after: Duration) -> Result<bool, TableError> {
        let values = lease.values([millis(after), Value::Int(lease.begun.into())]);
        Ok(!self.query(sql::RELEASE, values).await?.is_empty())
    }

    /// Writes how a job ended. Says whether it was still ours; if not, nothing is written.
    pub(crate) async fn finish(&self, lease: &Lease, end: &End) -> Result<bool, TableError> {
        let error = end
            .error
            .as_deref()
            .map(|error| error.replace('\0', "\u{fffd}"));
        let values = lease.values([
            Value::Int(end.status.into()),
            error.map_or(Value::Null, Value::Text),
            end.answer
                .as_ref()
                .map_or(Value::Null, |answer| Value::Bytes(answer.to_vec())),
        ]);
        Ok(!self.query(sql::FINISH, values).await?.is_empty())
    }

    /// Forgets results that are too old or too many.
    pub(crate) async fn sweep(&self, bounds: Bounds) -> Result<(), TableError> {
        let values = vec![millis(bounds.ttl), int(bounds.jobs), int(bounds.bytes)];
        self.query(sql::SWEEP, values).await.map(drop)
    }

    /// Asks, and logs when the table is lost and found; whoever asks has something else to do about it.
    async fn query(&self, sql: &str, values: Vec<Value>) -> Result<Vec<Vec<Value>>, TableError> {
        let answer = self.0.database.query(sql, values).await;
        let was = self.0.reachable.swap(answer.is_ok(), Ordering::AcqRel);
        match &answer {
            Err(error) if was => tracing::warn!(%error, "jobs cannot be stored, and are refused"),
            Ok(_) if !was => tracing::info!("jobs can be stored again"),
            _ => {}
        }
        answer
    }
}

impl Lease {
    /// What a statement needs to find the row only while it is this lease's, and more.
    fn values<const N: usize>(&self, more: [Value; N]) -> Vec<Value> {
        let own = [self.recipe, self.id.as_ref(), &self.token];
        own.into_iter().map(Value::from).chain(more).collect()
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// The only row, if there is one of that many columns.
fn one<const N: usize>(rows: Vec<Vec<Value>>) -> Option<[Value; N]> {
    rows.into_iter().next()?.try_into().ok()
}

fn millis(time: Duration) -> Value {
    // Far in the future rather than past the end of time, which would be an error.
    Value::Int(
        i64::try_from(time.as_millis())
            .unwrap_or(i64::MAX)
            .min(1 << 50),
    )
}

fn int(number: usize) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn number<T: TryFrom<i64> + Default>(value: &Value) -> T {
    match value {
        Value::Int(number) => T::try_from(*number).unwrap_or_default(),
        _ => T::default(),
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::Bytes(bytes) => Some(bytes.into()),
        _ => None,
    }
}
