//! What `--allow` takes: a folder, the beginning of a URL, or a scheme.

use std::{path::PathBuf, str::FromStr};

use anyhow::{Context, ensure};
use url::Url;

/// The beginning of what may be fetched.
#[derive(Clone, Debug)]
pub(super) enum Prefix {
    /// A folder or file, without links.
    Folder(PathBuf),
    /// All of a scheme.
    Scheme(String),
    /// A host or bucket, and the beginning of a path.
    Url(Url),
}

const REMOTE: [&str; 5] = ["http", "https", "s3", "gs", "az"];

impl FromStr for Prefix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        let expected = || {
            format!(
                "--allow: expected a folder, https://HOST/PATH, s3://BUCKET/PATH or https:, got {text:?}"
            )
        };
        let bare = text.strip_suffix("//").unwrap_or(text).strip_suffix(':');
        if let Some(scheme) = bare.filter(|scheme| REMOTE.contains(scheme)) {
            return Ok(Self::Scheme(scheme.into()));
        }
        if super::scheme(text).is_none() {
            return Self::folder(text.into()).with_context(expected);
        }
        let url = Url::parse(text).with_context(expected)?;
        if url.scheme() == "file" {
            let path = url
                .to_file_path()
                .map_err(|()| anyhow::anyhow!(expected()))?;
            return Self::folder(path).with_context(expected);
        }
        ensure!(
            REMOTE.contains(&url.scheme())
                && url.host_str().is_some_and(|host| !host.is_empty())
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none(),
            expected()
        );
        Ok(Self::Url(url))
    }
}

impl Prefix {
    fn folder(path: PathBuf) -> std::io::Result<Self> {
        path.canonicalize().map(Self::Folder)
    }

    /// Whether it names what is at a URL, which is not of a file.
    pub(super) fn names(&self, url: &Url) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::Scheme(scheme) => url.scheme() == scheme,
            Self::Url(prefix) => {
                let same_place = prefix.scheme() == url.scheme()
                    && prefix.host() == url.host()
                    && prefix.port_or_known_default() == url.port_or_known_default();
                same_place && begins(url.path(), prefix.path())
            }
        }
    }

    /// Whether it names a host, not only a scheme.
    pub(super) fn has_host(&self) -> bool {
        matches!(self, Self::Url(_))
    }
}

/// Whether a path is another one or in it.
fn begins(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
