//! What the hub says: which commit a revision is, which files it has, what hash and size each of them has.

use std::{env, io::Read, path::PathBuf};

use galley_core::{HubWeights, hub::Cache};
use indicatif::ProgressBar;
use url::Url;

use super::{
    PullError, Retry,
    answers::{Announced, Info, MAX_JSON},
    blob::{Fetcher, Remote},
    http::{self, Client},
    layout::Layout,
    names::{Commit, Revision},
};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Redirects from one address of the hub to another, as for a repository that has been renamed.
const MAX_HOPS: usize = 5;

/// A hub to pull from, and the cache to pull into.
pub struct Hub {
    client: Client,
    cache: Cache,
    retry: Retry,
}

/// A pulled repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit that the revision was resolved to.
    pub commit: String,
    /// The folder with the repository's files.
    pub path: PathBuf,
}

impl Hub {
    /// The hub at an address, with a token or without.
    ///
    /// # Errors
    /// The address or the token cannot be used.
    pub fn new(endpoint: &str, token: Option<&str>, cache: Cache) -> Result<Self, PullError> {
        Ok(Self {
            client: Client::new(endpoint, token)?,
            cache,
            retry: Retry::default(),
        })
    }

    /// The hub at `HF_ENDPOINT`, with the token in `HF_TOKEN`, and the usual cache.
    ///
    /// # Errors
    /// A variable's value cannot be used.
    pub fn from_env() -> Result<Self, PullError> {
        let var = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = var("HF_ENDPOINT");
        Self::new(
            endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT),
            var("HF_TOKEN").as_deref(),
            Cache::from_env(),
        )
    }

    /// The same hub, with other patience.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// Pulls the files that a recipe reads, at a branch, tag or commit. The revision is recorded last, once every file
    /// has been verified.
    ///
    /// # Errors
    /// See [`PullError`]. What the cache held before is untouched.
    pub fn pull(
        &self,
        weights: &HubWeights,
        revision: &str,
        progress: &ProgressBar,
    ) -> Result<Snapshot, PullError> {
        let revision = Revision::parse(revision)?;
        progress.set_message(weights.repo);
        let info = self
            .retry
            .run(progress, || self.resolve(weights.repo, &revision))?;
        let mut remotes = Vec::new();
        for file in weights.files {
            remotes.push(self.remote(weights.repo, &info.commit, file, progress)?);
        }
        for file in weights.optional_files {
            if info.lists(file) {
                match self.remote(weights.repo, &info.commit, file, progress) {
                    Ok(remote) => remotes.push(remote),
                    Err(PullError::NoSuchFile { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let layout = Layout::create(&self.cache, weights.repo)?;
        self.fetch_all(&layout, &remotes, progress)?;
        for remote in &remotes {
            layout.link(&info.commit, remote.file, &remote.etag)?;
        }
        // A commit needs no record: it is its own, and the snapshot's folder has its name.
        if revision.commit().is_none() {
            layout.record(&revision, &info.commit)?;
        }
        Ok(Snapshot {
            path: layout.snapshot(&info.commit),
            commit: info.commit.as_str().into(),
        })
    }

    fn fetch_all(
        &self,
        layout: &Layout,
        remotes: &[Remote],
        progress: &ProgressBar,
    ) -> Result<(), PullError> {
        let fetcher = Fetcher {
            client: &self.client,
            layout,
            retry: self.retry,
            progress,
        };
        let total = remotes
            .iter()
            .fold(0, |total: u64, remote| total.saturating_add(remote.size));
        progress.set_length(total);
        let mut before: u64 = 0;
        for remote in remotes {
            fetcher.fetch(remote, before)?;
            before = before.saturating_add(remote.size);
            progress.set_position(before);
            tracing::debug!(file = remote.file, bytes = remote.size, "in the cache");
        }
        Ok(())
    }

    fn resolve(&self, repo: &str, revision: &Revision) -> Result<Info, PullError> {
        let what = format!("{repo} at {revision}");
        let url = self.client.url(
            ["api", "models"]
                .into_iter()
                .chain(repo.split('/'))
                .chain(["revision", revision.as_str()]),
        );
        let mut response = self.client.get(&url, 0, &what)?;
        match response.status().as_u16() {
            200 => {}
            404 => {
                return Err(PullError::NoSuchRevision {
                    host: self.client.host(),
                    repo: repo.into(),
                    revision: revision.as_str().into(),
                });
            }
            status => return Err(self.refused(repo, &what, status)),
        }
        let mut json = Vec::new();
        response
            .body_mut()
            .as_reader()
            .take(MAX_JSON + 1)
            .read_to_end(&mut json)
            .map_err(|error| PullError::Unreachable {
                host: self.client.host(),
                cause: Box::new(error.into()),
            })?;
        Info::parse(&json, revision).map_err(|reason| PullError::reply(what, reason))
    }

    fn remote(
        &self,
        repo: &str,
        commit: &Commit,
        file: &'static str,
        progress: &ProgressBar,
    ) -> Result<Remote, PullError> {
        let url = self.client.url(
            repo.split('/')
                .chain(["resolve", commit.as_str()])
                .chain(file.split('/')),
        );
        let announced = self
            .retry
            .run(progress, || self.announced(&url, repo, commit, file))?;
        announced.into_remote(file, url, commit)
    }

    /// Asks for a file's headers, following redirects only within the hub, and only as far as it takes.
    fn announced(
        &self,
        url: &Url,
        repo: &str,
        commit: &Commit,
        file: &str,
    ) -> Result<Announced, PullError> {
        let mut announced = Announced::default();
        let mut url = url.clone();
        for _ in 0..=MAX_HOPS {
            let response = self.client.head(&url)?;
            let next = http::redirect(&url, &response, file)?;
            match response.status().as_u16() {
                404 => {
                    return Err(PullError::NoSuchFile {
                        repo: repo.into(),
                        file: file.into(),
                        commit: commit.as_str().into(),
                    });
                }
                status if next.is_none() && status != 200 => {
                    return Err(self.refused(repo, file, status));
                }
                _ => announced.add(&response, next.is_some()),
            }
            match next {
                Some(next) if !announced.is_complete() && self.client.is_hub(&next) => url = next,
                _ => return Ok(announced),
            }
        }
        Err(PullError::reply(
            file,
            format!("expected an answer after {MAX_HOPS} redirects, got another"),
        ))
    }

    fn refused(&self, repo: &str, what: &str, status: u16) -> PullError {
        match status {
            401 | 403 => PullError::Denied {
                repo: repo.into(),
                status,
                advice: if self.client.has_token() {
                    "check that the token in HF_TOKEN is valid and may read it"
                } else {
                    "set HF_TOKEN to a token that may read it"
                },
            },
            _ => PullError::Status {
                what: what.into(),
                status,
            },
        }
    }
}
