//! NATS JetStream: where it is, and what a stream and its consumer have to be like for the promise to hold.

pub mod feed;
pub mod setup;

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use async_nats::{
    Client, ConnectOptions, Event, ServerAddr,
    jetstream::{self, Context, ErrorCode},
};
use percent_encoding::percent_decode_str;

use crate::crypto;

/// How often the broker is asked whether it is there; after two answers that did not come the connection is made anew.
const PING: Duration = Duration::from_secs(5);
/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stream of a broker: `nats://[USER:PASSWORD@]HOST[:PORT][,HOST...]/STREAM`, or with `tls` where the connection has to be
/// encrypted. A user without a password is a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    servers: Vec<String>,
    encrypted: bool,
    user: Option<String>,
    password: Option<String>,
    /// The stream's name.
    pub stream: String,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("servers", &self.servers)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Address {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.encrypted { "tls" } else { "nats" };
        write!(f, "{scheme}://{}/{}", self.servers.join(","), self.stream)
    }
}

/// Whether a text is such an address, and is to be read as one.
pub fn is_address(text: &str) -> bool {
    text.starts_with("nats://") || text.starts_with("tls://")
}

impl FromStr for Address {
    type Err = anyhow::Error;

    /// The message does not repeat the text, as it may hold a password.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let expected = "expected nats://HOST/STREAM";
        let (scheme, rest) = text.split_once("://").context(expected)?;
        let encrypted = match scheme {
            "nats" => false,
            "tls" => true,
            _ => bail!(expected),
        };
        let (authority, stream) = rest.rsplit_once('/').context(expected)?;
        let (login, hosts) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((login, hosts)) => (Some(login), hosts),
        };
        let decoded = |text: &str| -> anyhow::Result<String> {
            let decoded = percent_decode_str(text).decode_utf8();
            Ok(decoded.context("expected UTF-8 before the host")?.into())
        };
        let (user, password) = match login.map(|login| login.split_once(':').ok_or(login)) {
            None => (None, None),
            Some(Ok((user, password))) => (Some(decoded(user)?), Some(decoded(password)?)),
            Some(Err(token)) => (Some(decoded(token)?), None),
        };
        ensure!(
            is_name(stream),
            "expected a stream's name after the host, without . * > or space"
        );
        let servers: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        for server in &servers {
            let server = format!("{scheme}://{server}").parse::<ServerAddr>();
            ensure!(
                server.is_ok_and(|server| !server.host().is_empty()),
                expected
            );
        }
        Ok(Self {
            servers,
            encrypted,
            user,
            password,
            stream: stream.into(),
        })
    }
}

/// Whether a stream or a consumer may be called so.
pub fn is_name(name: &str) -> bool {
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\?".contains(c);
    !name.is_empty() && !name.contains(is_odd)
}

impl Address {
    /// Connects; a connection that breaks later is made anew for as long as it takes.
    ///
    /// # Errors
    /// No server answers, or lets us in.
    pub async fn connect(&self) -> anyhow::Result<(Client, Context)> {
        let mut options = ConnectOptions::new()
            .name("galley")
            .ping_interval(PING)
            .request_timeout(Some(PATIENCE))
            .require_tls(self.encrypted)
            // Its own would panic where rustls has several providers.
            .tls_client_config(crypto::client()?)
            .event_callback(|event| async move {
                match event {
                    Event::Connected | Event::Draining | Event::Closed | Event::ClientError(_) => {
                        tracing::debug!(%event, "the broker");
                    }
                    _ => tracing::warn!(%event, "the broker"),
                }
            });
        options = match (&self.user, &self.password) {
            (Some(user), Some(password)) => {
                options.user_and_password(user.clone(), password.clone())
            }
            (Some(token), None) => options.token(token.clone()),
            (None, _) => options,
        };
        let scheme = if self.encrypted { "tls" } else { "nats" };
        let servers = self
            .servers
            .iter()
            .map(|server| format!("{scheme}://{server}").parse());
        let servers: Vec<ServerAddr> = servers.collect::<Result<_, _>>()?;
        let connected = options.connect(servers).await;
        let client = connected.with_context(|| format!("cannot reach {self}"))?;
        let context = jetstream::context::ContextBuilder::new()
            .timeout(PATIENCE)
            .ack_timeout(PATIENCE)
            .build(client.clone());
        Ok((client, context))
    }
}

/// Whether an error of JetStream's says that there is no such thing.
fn is_none(error: &jetstream::Error) -> bool {
    let code = error.error_code();
    code == ErrorCode::STREAM_NOT_FOUND || code == ErrorCode::CONSUMER_NOT_FOUND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_what_is_secret() {
        let address: Address = "tls://me:p%40ss%2F@a:4222,b.example.com/IMAGES"
            .parse()
            .unwrap();
        assert_eq!(address.servers, ["a:4222", "b.example.com"]);
        assert_eq!(address.password.as_deref(), Some("p@ss/"));
        assert_eq!(address.stream, "IMAGES");
        assert_eq!(address.to_string(), "tls://a:4222,b.example.com/IMAGES");
        assert!(!format!("{address:?}").contains("p@ss"));
        let token: Address = "nats://secret@[::1]/x".parse().unwrap();
        assert_eq!(token.user.as_deref(), Some("secret"));
        assert_eq!(token.to_string(), "nats://[::1]/x");
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        for wrong in [
            "nats://",
            "nats://host",
            "nats://host/",
            "nats:///stream",
            "nats://host/a.b",
            "nats://host/a b",
            "nats://me:secret@host:port/x",
            "http://me:secret@host/x",
            "nats://%ff@host/x",
        ] {
            let error = wrong.parse::<Address>().unwrap_err().to_string();
            assert!(error.starts_with("expected"), "{wrong}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
