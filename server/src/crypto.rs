//! The one provider of cryptography that TLS takes, whether Galley answers or asks.
//!
//! It is aws-lc-rs because the benchmark's HTTP client brings that in, and a second one would be a second C library to compile.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
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
