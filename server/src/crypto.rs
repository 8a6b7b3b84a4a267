//! The one provider of cryptography that TLS takes, whether Galley answers or asks.
//!
//! It is aws-lc-rs because the benchmark's HTTP client brings that in, and a second one would be a second C library to compile.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
};

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// How a broker or a database is asked: its certificate has to be by one of the system's authorities, or of those in
/// `SSL_CERT_FILE` and `SSL_CERT_DIR`.
pub(crate) fn client() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(provider());
    let config = config.with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConfig, RootCertStore};

    #[test]
    fn there_is_no_second_provider() {
        // rustls panics here unless its features leave it no choice.
        let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
        let chosen = config.with_no_client_auth().crypto_provider().clone();
        assert_eq!(
            format!("{:?}", chosen.cipher_suites),
            format!("{:?}", super::provider().cipher_suites)
        );
    }
}
