//! Requests to the hub: who gets to see the token, which redirects are followed, how long to wait.

use std::time::Duration;

use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, header},
    tls::TlsConfig,
};
use url::{Host, Url};

use super::PullError;
use crate::crypto;

/// Redirects in a row; the hub itself needs two.
const MAX_REDIRECTS: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the hub may be silent. The whole of a download may take as long as it takes.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to one hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: Url,
    /// The value of the `authorization` header.
    bearer: Option<String>,
}

impl Client {
    /// # Errors
    /// The endpoint is no plain HTTP address, or the token cannot be sent in a header.
    pub(super) fn new(endpoint: &str, token: Option<&str>) -> Result<Self, PullError> {
        let endpoint = parse_endpoint(endpoint)?;
        let bearer = token.map(parse_token).transpose()?;
        let mut config = Agent::config_builder()
            .user_agent(concat!("galley/", env!("CARGO_PKG_VERSION")))
            // Redirects are followed by `get`, which knows where the token may go.
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .tls_config(
                TlsConfig::builder()
                    .unversioned_rustls_crypto_provider(crypto::provider())
                    .build(),
            );
        if is_loopback(&endpoint) {
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().new_agent(),
            endpoint,
            bearer,
        })
    }

    /// `ENDPOINT/part/part/...`, each part escaped.
    pub(super) fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .expect("an http address has a path")
            .pop_if_empty()
            .extend(parts);
        url
    }

    /// The hub's host, for messages.
    pub(super) fn host(&self) -> String {
        host(&self.endpoint)
    }

    pub(super) fn has_token(&self) -> bool {
        self.bearer.is_some()
    }

    /// Whether this is an address of the hub itself, and not of some storage that it points to.
    pub(super) fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// The headers of the answer, which may be a redirect.
    pub(super) fn head(&self, url: &Url) -> Result<Response<Body>, PullError> {
        self.send(self.agent.head(url.as_str()), url)
    }

    /// Follows redirects to the answer, starting at byte `from` of it.
    pub(super) fn get(
        &self,
        url: &Url,
        from: u64,
        what: &str,
    ) -> Result<Response<Body>, PullError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(url.as_str());
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = self.send(request, &url)?;
            match redirect(&url, &response, what)? {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(PullError::reply(
            what,
            format!("expected an answer after {MAX_REDIRECTS} redirects, got another"),
        ))
    }

    fn send(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithoutBody>,
        url: &Url,
    ) -> Result<Response<Body>, PullError> {
        // Sizes and ranges are those of the file only if nothing on the way compresses it.
        let mut request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Some(bearer) = self.bearer.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        request.call().map_err(|cause| PullError::Unreachable {
            host: host(url),
            cause: Box::new(cause),
        })
    }
}

/// Where the answer points to, if it is a redirect.
///
/// # Errors
/// It points nowhere, to something that is not HTTP, or from HTTPS to plain HTTP.
pub(super) fn redirect(
    from: &Url,
    response: &Response<Body>,
    what: &str,
) -> Result<Option<Url>, PullError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = text(response.headers(), "location")
        .ok_or_else(|| PullError::reply(what, "expected a location with a redirect, got none"))?;
    // The location itself is not shown: it may be signed, and so a secret.
    let bad = |reason: &str| PullError::reply(what, format!("redirected {reason}"));
    let next = from
        .join(location)
        .map_err(|error| bad(&format!("to a malformed address ({error})")))?;
    match (from.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(Some(next)),
        ("https", "http") => Err(bad("from https to unencrypted http")),
        (_, scheme) => Err(bad(&format!("to {scheme}, expected http or https"))),
    }
}

/// A header's value, if it is there and readable.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn parse_endpoint(text: &str) -> Result<Url, PullError> {
    let bad = |reason: String| PullError::BadSetting {
        variable: "HF_ENDPOINT",
        reason,
    };
    let url = Url::parse(text.trim())
        .map_err(|error| bad(format!("expected an http or https address ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(format!(
            "expected an http or https address, got {}",
            url.scheme()
        )));
    }
    // A password here would end up in messages; a query would be lost.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad(
            "expected an address without user and password; set HF_TOKEN instead".into(),
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("expected an address without a query".into()));
    }
    Ok(url)
}

fn parse_token(token: &str) -> Result<String, PullError> {
    let token = token.trim();
    if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(format!("Bearer {token}"))
    } else {
        Err(PullError::BadSetting {
            variable: "HF_TOKEN",
            reason: "expected visible ASCII characters only".into(),
        })
    }
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.into(), |port| format!("{host}:{port}"))
}

/// A proxy cannot reach this machine's own loopback.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(from: &str, location: &str) -> Option<String> {
        let response = Response::builder()
            .status(302)
            .header("location", location)
            .body(Body::builder().data(""))
            .unwrap();
        redirect(&Url::parse(from).unwrap(), &response, "a file")
            .ok()
            .flatten()
            .map(String::from)
    }

    #[test]
    fn redirects_do_not_give_up_encryption() {
        let secure = "https://hub.example/a/b";
        for (location, expected) in [
            ("/c?d=e", Some("https://hub.example/c?d=e")),
            ("https://cdn.example/x", Some("https://cdn.example/x")),
            ("http://cdn.example/x", None),
            ("http://hub.example/x", None),
            ("ftp://cdn.example/x", None),
        ] {
            assert_eq!(follow(secure, location).as_deref(), expected, "{location}");
        }
        let plain = "http://hub.example/";
        assert!(follow(plain, "http://cdn.example/x").is_some());
    }

    #[test]
    fn only_the_very_origin_is_the_hub() {
        let client = Client::new("https://hub.example/prefix/", Some("token")).unwrap();
        let url = client.url(["api", "refs/pr/1", "a b"]);
        assert_eq!(
            url.as_str(),
            "https://hub.example/prefix/api/refs%2Fpr%2F1/a%20b"
        );
        assert!(client.is_hub(&url));
        for other in [
            "http://hub.example/",
            "https://hub.example:8443/",
            "https://hub.example.evil/",
            "https://sub.hub.example/",
        ] {
            assert!(!client.is_hub(&Url::parse(other).unwrap()), "{other}");
        }
    }
}
