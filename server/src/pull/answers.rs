//! Reading the hub's answers: nothing in them is believed before it has been checked.

use serde::Deserialize;
use url::Url;

use super::{
    PullError,
    blob::Remote,
    http,
    names::{Commit, Etag, Revision},
};

/// The longest answer of the hub's API that is read, in bytes.
pub(super) const MAX_JSON: u64 = 16 << 20;
/// The largest file that is downloaded, in bytes: far above any recipe's, and still no way to fill every disk.
const MAX_FILE: u64 = 64 << 30;

/// What the hub's API says of a revision.
pub(super) struct Info {
    pub(super) commit: Commit,
    files: Vec<String>,
}

impl Info {
    /// Reads the API's JSON; the error is the reason alone.
    pub(super) fn parse(json: &[u8], revision: &Revision) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        #[derive(Deserialize)]
        struct Model {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        if json.len() as u64 > MAX_JSON {
            return Err(format!(
                "expected at most {MAX_JSON} bytes of JSON, got more"
            ));
        }
        let model: Model = serde_json::from_slice(json)
            .map_err(|error| format!("expected the hub's description of a model ({error})"))?;
        let commit = Commit::parse(&model.sha).ok_or_else(|| {
            format!(
                "expected a commit of 40 hexadecimal digits, got {:?}",
                model.sha
            )
        })?;
        match revision.commit() {
            Some(asked) if asked != commit => Err(format!(
                "expected the very commit that was asked for, got {}",
                commit.as_str()
            )),
            _ => Ok(Self {
                commit,
                files: model
                    .siblings
                    .into_iter()
                    .map(|sibling| sibling.rfilename)
                    .collect(),
            }),
        }
    }

    /// Whether the repository has this file.
    pub(super) fn lists(&self, file: &str) -> bool {
        self.files.iter().any(|listed| listed == file)
    }
}

/// What a file's headers say, over however many answers they are spread.
#[derive(Default)]
pub(super) struct Announced {
    commit: Option<String>,
    etag: Option<String>,
    size: Option<String>,
}

impl Announced {
    pub(super) fn add(&mut self, response: &ureq::http::Response<ureq::Body>, redirects: bool) {
        let header = |name| http::text(response.headers(), name).map(str::to_owned);
        // The plain headers of a redirect describe the redirect.
        let own = |name| if redirects { None } else { header(name) };
        self.commit = self.commit.take().or_else(|| header("x-repo-commit"));
        let etag = || header("x-linked-etag").or_else(|| own("etag"));
        self.etag = self.etag.take().or_else(etag);
        let size = || header("x-linked-size").or_else(|| own("content-length"));
        self.size = self.size.take().or_else(size);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.commit.is_some() && self.etag.is_some() && self.size.is_some()
    }

    pub(super) fn into_remote(
        self,
        file: &'static str,
        url: Url,
        commit: &Commit,
    ) -> Result<Remote, PullError> {
        let bad = |expected: &str, got: Option<&str>| {
            let got = got.map_or("nothing".into(), |got| format!("{got:?}"));
            PullError::reply(file, format!("expected {expected}, got {got}"))
        };
        if self.commit.as_deref() != Some(commit.as_str()) {
            let expected = format!("a file of commit {}", commit.as_str());
            return Err(bad(&expected, self.commit.as_deref()));
        }
        let etag = self.etag.as_deref();
        let size = self.size.as_deref();
        Ok(Remote {
            file,
            url,
            etag: etag
                .and_then(Etag::parse)
                .ok_or_else(|| bad("an etag that is a SHA-256 or a git blob's SHA-1", etag))?,
            size: size
                .and_then(|size| size.trim().parse::<u64>().ok())
                .filter(|size| *size <= MAX_FILE)
                .ok_or_else(|| {
                    let expected = format!("the file's size, at most {MAX_FILE} bytes");
                    bad(&expected, size)
                })?,
        })
    }
}
