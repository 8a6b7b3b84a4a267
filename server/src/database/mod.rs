//! The two databases that tables lie in: SQLite on one machine, PostgreSQL for many. How each is reached, and what its errors
//! mean; what is asked of them is their users' (`stream::table`, `jobs`).

pub(crate) mod either;
pub mod postgres;
pub(crate) mod sqlite;

use std::path::PathBuf;

use anyhow::{Context, bail};

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An SQLite database.
    Sqlite(PathBuf),
    /// A PostgreSQL database.
    Postgres(Box<tokio_postgres::Config>),
}

/// Why a table does not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// It cannot be reached or is locked now; whether what was asked for happened is not known, and it is to be asked again.
    #[error("the table cannot be reached: {0}")]
    Unavailable(String),
    /// It will not work as it is: another schema, no right to write, no database.
    #[error("{0}")]
    Broken(String),
}

impl Address {
    /// Reads what an option names: a file, or `postgres://HOST/DATABASE`.
    ///
    /// # Errors
    /// It is neither; the message names the option and does not repeat an address, which may hold a password.
    pub fn parse(option: &str, text: &str) -> anyhow::Result<Self> {
        match text.split_once("://") {
            Some(("postgres" | "postgresql", _)) => {
                let address = postgres::address(text).with_context(|| option.to_owned())?;
                Ok(Self::Postgres(Box::new(address)))
            }
            Some((scheme, _)) => {
                bail!("{option}: expected a file or postgres://HOST/DATABASE, got {scheme}://...")
            }
            None if text.is_empty() => {
                bail!("{option}: expected a file or postgres://HOST/DATABASE, got nothing")
            }
            None => Ok(Self::Sqlite(text.into())),
        }
    }
}

/// As whom rows are written: host and process.
pub(crate) fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}
