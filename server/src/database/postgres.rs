//! A connection to PostgreSQL that is made anew when it has died, and what its errors mean.

#[cfg(test)]
pub(crate) mod cluster;
mod tls;

use std::{error::Error as _, fmt, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::Mutex, task::JoinHandle, time::timeout};
use tokio_postgres::{
    Client, Config, Row,
    error::SqlState,
    types::{ToSql, Type},
};

use self::tls::Tls;
use super::TableError;
use crate::crypto;

/// How long making a connection usually may take, or an answer: what takes longer is a network that stands still.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What is said to be committed has to be so, whatever the database's owner thinks usual.
const COMMIT: &str = "SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'";
const IS_THERE: &str = "SELECT to_regclass($1) IS NOT NULL";
/// Around making tables: two that make the same at once get in each other's way.
const ALONE: &str = "BEGIN; SELECT pg_advisory_xact_lock(7163271);";

/// A database, and the connection to it while there is one.
pub(crate) struct Database {
    config: Config,
    tls: Tls,
    /// Makes the tables that are not there.
    schema: &'static [(&'static str, &'static str)],
    /// How long making a connection may take, or an answer.
    patience: Duration,
    session: Mutex<Option<Arc<Session>>>,
}

struct Session {
    client: Client,
    connection: JoinHandle<()>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may wait for a server that never answers.
        self.connection.abort();
    }
}

/// A value and its type, as the statement's text does not always say it.
pub(crate) type Value<'a> = (&'a (dyn ToSql + Sync), Type);

impl Database {
    /// Connects, and makes tables that are not there: each by its name and how it is made.
    pub(crate) async fn open(
        config: Config,
        schema: &'static [(&'static str, &'static str)],
    ) -> Result<Self, TableError> {
        let database = Self::new(config, schema, PATIENCE)?;
        database.session().await?;
        Ok(database)
    }

    /// The same, but connects when it is first asked something.
    pub(crate) fn new(
        mut config: Config,
        schema: &'static [(&'static str, &'static str)],
        patience: Duration,
    ) -> Result<Self, TableError> {
        if config.get_application_name().is_none() {
            config.application_name("galley");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(patience / 3);
        }
        let tls = crypto::client().map_err(|error| TableError::Broken(error.to_string()))?;
        Ok(Self {
            config,
            tls: Tls::new(tls),
            schema,
            patience,
            session: Mutex::new(None),
        })
    }

    /// The rows that a statement gives; each statement is a transaction.
    pub(crate) async fn query(
        &self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, TableError> {
        let session = self.session().await?;
        let patience = self.patience;
        let answer = timeout(patience, session.client.query_typed(sql, values)).await;
        let error = match answer {
            Ok(Ok(rows)) => return Ok(rows),
            Ok(Err(error)) => cause(&error),
            Err(_) => TableError::Unavailable(format!("no answer within {patience:?}")),
        };
        if matches!(error, TableError::Unavailable(_)) {
            let mut current = self.session.lock().await;
            if current
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now, &session))
            {
                *current = None;
            }
        }
        Err(error)
    }

    async fn session(&self) -> Result<Arc<Session>, TableError> {
        let mut current = self.session.lock().await;
        if let Some(session) = current
            .as_ref()
            .filter(|session| !session.client.is_closed())
        {
            return Ok(Arc::clone(session));
        }
        let patience = self.patience;
        let connected = timeout(patience, self.connect()).await;
        let slow = |_| TableError::Unavailable(format!("no connection within {patience:?}"));
        let session = Arc::new(connected.map_err(slow)??);
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    async fn connect(&self) -> Result<Session, TableError> {
        let connected = self.config.connect(self.tls.clone()).await;
        let (client, connection) = connected.map_err(|error| cause(&error))?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to PostgreSQL has ended");
            }
        });
        let session = Session { client, connection };
        session.prepare(self.schema).await?;
        Ok(session)
    }
}

impl Session {
    async fn prepare(&self, schema: &[(&str, &str)]) -> Result<(), TableError> {
        let client = &self.client;
        let prepare = async {
            client.query_typed(COMMIT, &[]).await?;
            for (table, create) in schema {
                // Who may write to a table may still not make one.
                let there = client
                    .query_typed(IS_THERE, &[(table as _, Type::TEXT)])
                    .await?;
                if !there.iter().any(|row| row.get(0)) {
                    client
                        .batch_execute(&format!("{ALONE} {create}; COMMIT"))
                        .await?;
                }
            }
            client.query_typed("SHOW server_encoding", &[]).await
        };
        let encoding = prepare.await.map_err(|error| cause(&error))?;
        let encoding = encoding
            .first()
            .and_then(|row| row.try_get::<_, &str>(0).ok());
        match encoding {
            Some("UTF8") => Ok(()),
            other => Err(TableError::Broken(format!(
                "expected a database whose encoding is UTF8, got {}",
                other.unwrap_or("none")
            ))),
        }
    }
}

/// Reads `postgres://USER:PASSWORD@HOST/DATABASE?sslmode=MODE`. A certificate is always checked, whatever the mode asks for.
///
/// # Errors
/// It is no such address; the message does not repeat it, as it may hold a password.
pub fn address(url: &str) -> anyhow::Result<Config> {
    let url = url.replace("sslmode=verify-full", "sslmode=require");
    url.parse().context("expected an address of PostgreSQL")
}

/// A row's value.
pub(crate) fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a tokio_postgres::Row,
    place: usize,
) -> Result<T, TableError> {
    row.try_get(place).map_err(|error| cause(&error))
}

/// What an error means to whoever asked: that it may be asked again, or not.
fn cause(error: &tokio_postgres::Error) -> TableError {
    let Some(database) = error.as_db_error() else {
        let source = error.source().map(|source| format!(": {source}"));
        let message = format!("{error}{}", source.unwrap_or_default());
        // A value that cannot be sent or read will not be, however often; all else is the network.
        return match message.starts_with("error serializing")
            || message.starts_with("error deserializing")
        {
            true => TableError::Broken(message),
            false => TableError::Unavailable(message),
        };
    };
    let message = format!("PostgreSQL: {}", database.message());
    match is_passing(database.code()) {
        true => TableError::Unavailable(message),
        false => TableError::Broken(message),
    }
}

/// Whether it goes away by itself: a connection that broke, a server that ends or starts, no room, a deadlock, a standby that
/// is about to become the primary.
fn is_passing(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    matches!(class, "08" | "40" | "53" | "55" | "57" | "58")
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_their_passwords_never_shown() {
        let config =
            address("postgres://me:secret@db.example.com:5433/answers?sslmode=verify-full");
        let config = config.unwrap();
        assert_eq!(config.get_dbname(), Some("answers"));
        assert_eq!(config.get_ports(), [5433]);
        assert_eq!(
            config.get_ssl_mode(),
            tokio_postgres::config::SslMode::Require
        );
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        for wrong in [
            "postgres://me:secret@host:port/x",
            "postgres://me:secret@host/x?sslmode=maybe",
            "postgres://me:secret@host/x?secret=1",
        ] {
            let error = format!("{:#}", address(wrong).unwrap_err());
            assert!(!error.contains("me:secret"), "{error}");
        }
    }

    #[test]
    fn what_goes_away_by_itself_is_asked_again() {
        for passing in [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::DISK_FULL,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::CONNECTION_FAILURE,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ] {
            assert!(is_passing(&passing), "{passing:?}");
        }
        for lasting in [
            SqlState::INSUFFICIENT_PRIVILEGE,
            SqlState::INVALID_PASSWORD,
            SqlState::UNDEFINED_COLUMN,
            SqlState::INVALID_CATALOG_NAME,
        ] {
            assert!(!is_passing(&lasting), "{lasting:?}");
        }
    }
}
