//! Who may come in, and over what: API keys and a TLS certificate, from files that are read again on SIGHUP.
//!
//! Whoever serves a protocol asks [`Keyring::admits`] with what a caller presented, and takes what [`Tls`] gives at the
//! time for each connection. A file that has gone bad since changes nothing: what was read last stays in
//! force, so that a slip of an editor neither locks everybody out nor lets anybody in.

mod keys;
mod tls;

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use keys::Keyring;
pub use tls::Tls;

/// The largest file that is taken for one of keys or certificates; another one was named by mistake.
const MAX_FILE: u64 = 1 << 20;

/// Why keys or certificates cannot be had from their files. No message quotes a file's content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// A file cannot be read.
    #[error("{option}: cannot read {}: {error}", path.display())]
    Unreadable {
        /// The option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why. (Not a source, as the message has it already.)
        error: io::Error,
    },
    /// A line of the file of keys is none.
    #[error("--api-key-file: {} line {line}: expected {expected}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What should stand there.
        expected: String,
    },
    /// Something in a file is not what it should be.
    #[error("{option}: {}: {reason}", path.display())]
    Content {
        /// The option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What was expected.
        reason: String,
    },
}

/// What is read again on SIGHUP; each part only if it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The keys, one of which every request needs (`--api-key-file`).
    pub keys: Option<Arc<Keyring>>,
    /// The certificate that connections are encrypted with (`--tls-cert`, `--tls-key`).
    pub tls: Option<Arc<Tls>>,
}

impl Access {
    /// Reads the files again, and says in the log what came of it.
    pub fn reload(&self) {
        if let Some(keys) = &self.keys {
            match keys.reload() {
                Ok(count) => {
                    tracing::info!(file = %keys.path().display(), keys = count, "API keys read again");
                }
                Err(error) => tracing::error!(%error, "API keys not read again, the old ones stay"),
            }
        }
        if let Some(tls) = &self.tls {
            match tls.reload() {
                Ok(()) => {
                    tracing::info!(file = %tls.path().display(), "TLS certificate read again")
                }
                Err(error) => {
                    tracing::error!(%error, "TLS certificate not read again, the old one stays");
                }
            }
        }
    }
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    let unreadable = |error| AccessError::Unreadable {
        option,
        path: path.into(),
        error,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(AccessError::Content {
            option,
            path: path.into(),
            reason: format!("expected at most {MAX_FILE} bytes"),
        });
    }
    Ok(bytes)
}
