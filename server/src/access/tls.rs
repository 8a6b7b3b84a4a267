//! The certificate that connections are encrypted with.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

use super::{AccessError, read};
use crate::crypto;

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";

/// A certificate with its chain and its private key, in PEM files.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    configs: RwLock<Configs>,
}

/// One for each protocol, as a client is told in the handshake which of them it has reached.
#[derive(Clone)]
struct Configs {
    http1: Arc<ServerConfig>,
    http2: Arc<ServerConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// One cannot be read, is not PEM of what it should be, or they do not belong together.
    pub fn open(cert: &Path, key: &Path) -> Result<Self, AccessError> {
        Ok(Self {
            configs: RwLock::new(load(cert, key)?),
            cert: cert.into(),
            key: key.into(),
        })
    }

    /// Reads both files again; connections that are open stay as they are.
    ///
    /// # Errors
    /// As [`Tls::open`]; the certificate is then what it was.
    pub fn reload(&self) -> Result<(), AccessError> {
        let configs = load(&self.cert, &self.key)?;
        *self.configs.write().unwrap_or_else(PoisonError::into_inner) = configs;
        Ok(())
    }

    /// The certificate's file.
    pub fn path(&self) -> &Path {
        &self.cert
    }

    /// What the next connection is accepted with where HTTP/1 is spoken.
    pub fn http1(&self) -> Arc<ServerConfig> {
        self.current().http1
    }

    /// The same where HTTP/2 is.
    pub fn http2(&self) -> Arc<ServerConfig> {
        self.current().http2
    }

    fn current(&self) -> Configs {
        let configs = self.configs.read();
        configs.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn load(cert: &Path, key: &Path) -> Result<Configs, AccessError> {
    let content = |option, path: &Path, reason: String| AccessError::Content {
        option,
        path: path.into(),
        reason,
    };
    let certs = CertificateDer::pem_slice_iter(&read(CERT, cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(CERT, cert, of_pem(&error, "certificates")))?;
    if certs.is_empty() {
        return Err(content(CERT, cert, "expected a certificate in PEM".into()));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(KEY, key)?)
        .map_err(|error| content(KEY, key, of_pem(&error, "a private key")))?;
    let config = ServerConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| content(CERT, cert, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(certs, private)
        .map_err(|error| {
            let reason = format!("not usable with {}: {error}", key.display());
            content(CERT, cert, reason)
        })?;
    let speaking = |protocol: &[u8]| {
        let mut config = config.clone();
        // A client that offers only others learns so in the handshake.
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    };
    Ok(Configs {
        http1: speaking(b"http/1.1"),
        http2: speaking(b"h2"),
    })
}

/// Without the parser's own words, which may quote the file.
fn of_pem(error: &pem::Error, expected: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("expected {expected} in PEM"),
        _ => format!("expected {expected} in PEM, got PEM that is damaged"),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::CertifiedKey;

    use super::*;

    fn pair(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let paths = (
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}.key")),
        );
        std::fs::write(&paths.0, cert.pem()).unwrap();
        std::fs::write(&paths.1, signing_key.serialize_pem()).unwrap();
        paths
    }

    #[test]
    fn files_that_make_no_pair_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = pair(dir.path(), "a");
        let (_, other_key) = pair(dir.path(), "b");
        let text = dir.path().join("text");
        std::fs::write(&text, "not PEM").unwrap();
        let damaged = dir.path().join("damaged");
        let half = std::fs::read_to_string(&key).unwrap().replace('M', "?");
        std::fs::write(&damaged, half).unwrap();
        let missing = dir.path().join("missing");

        assert!(Tls::open(&cert, &key).is_ok());
        for (cert, key, named) in [
            (&missing, &key, &["--tls-cert", "missing"][..]),
            (&cert, &missing, &["--tls-key", "missing"]),
            (&text, &key, &["--tls-cert", "text", "certificate in PEM"]),
            (&key, &cert, &["--tls-cert", "a.key", "certificate in PEM"]),
            (&cert, &text, &["--tls-key", "text", "private key in PEM"]),
            (&cert, &damaged, &["--tls-key", "damaged"]),
            (&cert, &other_key, &["--tls-cert", "a.pem", "b.key"]),
        ] {
            let error = Tls::open(cert, key).unwrap_err().to_string();
            for word in named {
                assert!(error.contains(word), "{word} is missing in: {error}");
            }
        }
    }

    #[test]
    fn a_pair_that_went_bad_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = pair(dir.path(), "a");
        let tls = Tls::open(&cert, &key).unwrap();
        let first = tls.http1();
        // Half of a renewal: the certificate is there, its key not yet.
        let (renewed, renewed_key) = pair(dir.path(), "b");
        std::fs::copy(renewed, &cert).unwrap();
        tls.reload().unwrap_err();
        assert!(Arc::ptr_eq(&first, &tls.http1()));
        std::fs::copy(renewed_key, &key).unwrap();
        tls.reload().unwrap();
        assert!(!Arc::ptr_eq(&first, &tls.http1()));
    }
}
