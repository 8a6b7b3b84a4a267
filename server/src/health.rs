//! `galley health`: asks a running server whether it takes requests.
//!
//! It is the health check of the container image, which has neither a shell nor curl. It reads the variables by which
//! `galley serve` is configured, so that in one environment it finds the server without being told.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use ureq::{Agent, tls::TlsConfig};
use url::Url;

use crate::{cli::HealthArgs, crypto, host::Host};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 4 << 10;

/// Where to ask, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    url: Url,
    timeout: Duration,
}

impl HealthConfig {
    /// Validates what was typed.
    ///
    /// # Errors
    /// The address is not that of a server, or there is no time to ask it.
    pub fn new(args: &HealthArgs) -> anyhow::Result<Self> {
        ensure!(
            !args.timeout.is_zero(),
            "--timeout: expected a time above 0"
        );
        let url = match &args.url {
            Some(url) => parse(url)?,
            None => own(args)?,
        };
        Ok(Self {
            url,
            timeout: args.timeout,
        })
    }
}

/// A server's address as typed, to which `/readyz` is added.
fn parse(text: &str) -> anyhow::Result<Url> {
    let expected =
        || format!("--url: expected http://HOST:PORT or https://HOST:PORT, got {text:?}");
    let mut url = Url::parse(text.trim()).with_context(expected)?;
    ensure!(
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none(),
        expected()
    );
    url.path_segments_mut()
        .map_err(|()| anyhow::anyhow!(expected()))?
        .pop_if_empty()
        .push("readyz");
    Ok(url)
}

/// The server that `galley serve` would be in this environment.
fn own(args: &HealthArgs) -> anyhow::Result<Url> {
    ensure!(
        args.port != 0,
        "--port: expected the port of a running server, got 0"
    );
    // An address to listen on at every interface is none to connect to.
    let host = match args.host.clone() {
        Host::Address(IpAddr::V4(host)) if host.is_unspecified() => {
            Host::Address(Ipv4Addr::LOCALHOST.into())
        }
        Host::Address(IpAddr::V6(host)) if host.is_unspecified() => {
            Host::Address(Ipv6Addr::LOCALHOST.into())
        }
        host => host,
    };
    let scheme = match args.tls_cert {
        Some(_) => "https",
        None => "http",
    };
    parse(&format!("{scheme}://{host}:{}", args.port))
}

/// Asks once.
///
/// # Errors
/// There is no answer in time, or it is that requests are not taken; the message is one line.
pub fn run(config: &HealthConfig) -> anyhow::Result<()> {
    let url = &config.url;
    // Nothing secret is sent, and a certificate names the server as others reach it, not the loopback.
    let trusts_all = is_loopback(url);
    let agent: Agent = Agent::config_builder()
        .user_agent(concat!("galley/", env!("CARGO_PKG_VERSION")))
        .max_redirects(0)
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(config.timeout))
        .tls_config(
            TlsConfig::builder()
                .disable_verification(trusts_all)
                .unversioned_rustls_crypto_provider(crypto::provider())
                .build(),
        )
        .build()
        .new_agent();
    let mut answer = agent
        .get(url.as_str())
        .call()
        .with_context(|| format!("not healthy: {url} does not answer"))?;
    let status = answer.status();
    if status.as_u16() == 200 {
        // The exit status is the answer, whoever reads this.
        let _ = writeln!(io::stdout(), "{url} is ready");
        return Ok(());
    }
    // What stands in its body helps a person; nothing depends on it.
    let body = answer.body_mut().with_config().limit(MAX_ANSWER);
    let said = body.read_to_vec().ok().and_then(|body| reason(&body));
    match said {
        Some(said) => bail!("not healthy: {url} answered {}, {said}", status.as_u16()),
        None => bail!("not healthy: {url} answered {}", status.as_u16()),
    }
}

/// Why a server says that it is not ready.
fn reason(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Readiness {
        status: String,
    }
    let said: Readiness = serde_json::from_slice(body).ok()?;
    // It is printed on one line, whoever wrote it.
    Some(said.status.escape_debug().to_string())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn config(args: &str) -> anyhow::Result<HealthConfig> {
        let cli = Cli::try_parse_from(format!("galley health {args}").split_whitespace())?;
        match cli.command {
            Command::Health(args) => HealthConfig::new(&args),
            other => panic!("expected health, got {other:?}"),
        }
    }

    #[test]
    fn the_server_of_the_same_flags_is_found() {
        for (args, url) in [
            ("", "http://127.0.0.1:8080/readyz"),
            ("--port 9000", "http://127.0.0.1:9000/readyz"),
            ("--host 0.0.0.0", "http://127.0.0.1:8080/readyz"),
            ("--host :: --port 9000", "http://[::1]:9000/readyz"),
            ("--host 10.1.2.3", "http://10.1.2.3:8080/readyz"),
            ("--host localhost", "http://localhost:8080/readyz"),
            ("--tls-cert cert.pem", "https://127.0.0.1:8080/readyz"),
            ("--url http://galley:8080", "http://galley:8080/readyz"),
            (
                "--url https://example.com/a/",
                "https://example.com/a/readyz",
            ),
            ("--url http://galley:1 --port 2", "http://galley:1/readyz"),
        ] {
            assert_eq!(config(args).unwrap().url.as_str(), url, "{args}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (args, named) in [
            ("--url galley:8080", "--url"),
            ("--url ftp://galley", "--url"),
            ("--url http://me@galley", "--url"),
            ("--url http://galley/?a=b", "--url"),
            ("--url mailto:galley", "--url"),
            ("--port 0", "--port"),
            ("--timeout 0s", "--timeout"),
            ("--timeout soon", "--timeout"),
        ] {
            let error = format!("{:#}", config(args).expect_err(args));
            assert!(error.contains(named), "{args}: {error}");
        }
    }

    #[test]
    fn only_certificates_of_this_machine_go_unverified() {
        for (url, expected) in [
            ("https://127.0.0.1:8080", true),
            ("https://[::1]:8080", true),
            ("https://localhost", true),
            ("https://localhost.example.com", false),
            ("https://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn a_reason_is_one_line() {
        assert_eq!(
            reason(br#"{"status":"warming up"}"#).as_deref(),
            Some("warming up")
        );
        assert_eq!(reason(br#"{"status":"a\nb"}"#).as_deref(), Some("a\\nb"));
        assert_eq!(reason(b"<html>"), None);
    }
}
