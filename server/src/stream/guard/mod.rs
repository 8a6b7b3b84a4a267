//! What a message may name. It is somebody else's text, fetched with our rights from inside our network: so nothing is
//! fetched but what `--allow` names.
//!
//! A URI is judged as it will be fetched: parsed and normalised once, and the same value goes to the client. What is known
//! only later is judged then: a file's real path when it is open ([`Guard::allows_path`]), a host's addresses when they
//! were looked up ([`resolver`]).

mod address;
mod prefix;
pub mod resolver;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use percent_encoding::percent_decode_str;
use url::{Host, Url};

pub use address::is_public;
use prefix::Prefix;

/// Where an input lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a file of this machine.
    File(PathBuf),
    /// At an `http` or `https` URL.
    Http(Url),
    /// In a bucket: `s3`, `gs` or `az`.
    Bucket(Url),
}

/// Why something is not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No prefix names it.
    #[error("not allowed: no --allow names it")]
    NotAllowed,
    /// It leads to an address that is not public, and that no prefix names.
    #[error("not allowed: {0} is not a public address")]
    Address(IpAddr),
    /// It is not what it should be.
    #[error("{0}")]
    Malformed(&'static str),
    /// Nothing is fetched in this way.
    #[error("expected a path or a URI of file, http, https, s3, gs or az, got one of {0:?}")]
    Scheme(String),
}

/// What may be fetched.
#[derive(Clone, Debug)]
pub struct Guard {
    prefixes: Vec<Prefix>,
    /// Whether any file is, as whoever wrote the list could read them anyway.
    any_file: bool,
}

impl Guard {
    /// What begins with one of the prefixes, up to a `/`, is allowed; and of files all, if `any_file`.
    ///
    /// # Errors
    /// A prefix is none; the message names it.
    pub fn new(prefixes: &[String], any_file: bool) -> anyhow::Result<Self> {
        let prefixes = prefixes.iter().map(|prefix| prefix.parse());
        Ok(Self {
            prefixes: prefixes.collect::<anyhow::Result<_>>()?,
            any_file,
        })
    }

    /// Where a URI or path leads, if that may be fetched as far as it is known yet.
    ///
    /// # Errors
    /// It may not, or it is no URI.
    pub fn judge(&self, uri: &str) -> Result<Location, Refusal> {
        let Some(scheme) = scheme(uri) else {
            return self.judge_path(Path::new(uri));
        };
        let malformed =
            Refusal::Malformed("expected a URI, got something that cannot be read as one");
        let url = match scheme.as_str() {
            "file" | "http" | "https" | "s3" | "gs" | "az" => {
                Url::parse(uri).map_err(|_| malformed.clone())?
            }
            _ => return Err(Refusal::Scheme(scheme)),
        };
        if climbs(url.path()) {
            return Err(Refusal::Malformed("a URI must not go up by .."));
        }
        match scheme.as_str() {
            "file" if url.query().is_some() || url.fragment().is_some() => Err(malformed),
            "file" => self.judge_path(&url.to_file_path().map_err(|()| malformed)?),
            "http" | "https" => self.judge_http(url),
            _ => self.judge_bucket(url),
        }
    }

    /// Whether a file may be read; `path` is its real one, without links.
    pub fn allows_path(&self, path: &Path) -> bool {
        let named =
            |prefix: &Prefix| matches!(prefix, Prefix::Folder(folder) if path.starts_with(folder));
        self.any_file || self.prefixes.iter().any(named)
    }

    fn judge_path(&self, path: &Path) -> Result<Location, Refusal> {
        // Which one is seen when it is open; here only whether files are read at all.
        let some = |prefix: &Prefix| matches!(prefix, Prefix::Folder(_));
        if !self.any_file && !self.prefixes.iter().any(some) {
            return Err(Refusal::NotAllowed);
        }
        match path.as_os_str().as_encoded_bytes() {
            [] => Err(Refusal::Malformed("expected a path, got nothing")),
            bytes if bytes.contains(&0) => Err(Refusal::Malformed("a path must not contain NUL")),
            _ => Ok(Location::File(path.into())),
        }
    }

    fn judge_http(&self, mut url: Url) -> Result<Location, Refusal> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Malformed(
                "a URI must not contain a user or a password",
            ));
        }
        url.set_fragment(None);
        let mut naming = self.prefixes.iter().filter(|prefix| prefix.names(&url));
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        match (naming.clone().next(), address) {
            (None, _) => Err(Refusal::NotAllowed),
            // A prefix with this host has this very address.
            (Some(_), Some(address))
                if !is_public(address) && naming.all(|prefix| !prefix.has_host()) =>
            {
                Err(Refusal::Address(address))
            }
            _ => Ok(Location::Http(url)),
        }
    }

    fn judge_bucket(&self, url: Url) -> Result<Location, Refusal> {
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Refusal::Malformed(
                "in the name of an object ? and # are to be written as %3F and %23",
            ));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let bucket = url.host_str().unwrap_or_default();
        let plain = url.username().is_empty() && url.password().is_none() && url.port().is_none();
        if bucket.is_empty() || !bucket.chars().all(is_name) || !plain || url.path().len() < 2 {
            return Err(Refusal::Malformed("expected SCHEME://BUCKET/NAME"));
        }
        match self.prefixes.iter().any(|prefix| prefix.names(&url)) {
            true => Ok(Location::Bucket(url)),
            false => Err(Refusal::NotAllowed),
        }
    }
}

/// The scheme of a URI, in lower case; none if it is a path.
pub(super) fn scheme(uri: &str) -> Option<String> {
    let uri = uri.trim_start_matches(|c: char| c <= ' ');
    let (scheme, _) = uri.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then(|| scheme.to_ascii_lowercase())
}

/// Whether a path goes up for whoever decodes it, once or more often.
fn climbs(path: &str) -> bool {
    let mut path = path.to_owned();
    loop {
        if path.split(['/', '\\']).any(|segment| segment == "..") {
            return true;
        }
        let decoded = percent_decode_str(&path).decode_utf8_lossy().into_owned();
        if decoded == path {
            return false;
        }
        path = decoded;
    }
}

/// A URI as it may be shown and kept: without what may be secret, its query and who asks.
pub fn shown(uri: &str) -> String {
    if scheme(uri).is_none() {
        return uri.to_owned();
    }
    let uri = uri.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests;
