//! The Hugging Face hub's local cache, in the layout that its own libraries share. Reading only; `galley pull` writes it.
//!
//! `CACHE/models--OWNER--NAME/{blobs/ETAG, refs/REVISION, snapshots/COMMIT/FILE}`, where a ref holds a commit and a
//! snapshot's files are links to blobs.

use std::{env, fs, path::PathBuf};

use crate::{HubWeights, LoadError, Source};

/// The folder of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The usual one: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `XDG_CACHE_HOME/huggingface/hub`, else
    /// `~/.cache/huggingface/hub`.
    pub fn from_env() -> Self {
        let var = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = || {
            var("XDG_CACHE_HOME")
                .unwrap_or_else(|| var("HOME").unwrap_or_default().join(".cache"))
                .join("huggingface")
        };
        let root =
            var("HF_HUB_CACHE").unwrap_or_else(|| var("HF_HOME").unwrap_or_else(home).join("hub"));
        Self { root }
    }

    /// A cache in a folder of the caller's.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder of the whole cache.
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }

    /// The folder of one repository, whether it exists or not.
    pub fn repo(&self, repo: &str) -> PathBuf {
        self.root
            .join(format!("models--{}", repo.replace('/', "--")))
    }

    /// The commit that a branch or tag was last resolved to, if it has been pulled.
    pub fn commit(&self, repo: &str, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.repo(repo).join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| !commit.is_empty())
    }

    /// The commit and folder of the default branch, if every required file is there.
    pub fn snapshot(&self, hub: &HubWeights) -> Option<(String, PathBuf)> {
        let commit = self.commit(hub.repo, "main")?;
        let path = self.repo(hub.repo).join("snapshots").join(&commit);
        hub.files
            .iter()
            .all(|file| path.join(file).is_file())
            .then_some((commit, path))
    }

    /// The weights as a source, or how to get them.
    pub(crate) fn source(
        &self,
        recipe: &'static str,
        hub: &HubWeights,
    ) -> Result<Source, LoadError> {
        match self.snapshot(hub) {
            Some((commit, path)) => Ok(Source::Dir {
                path,
                label: format!("hub: {}@{}", hub.repo, commit.get(..7).unwrap_or(&commit)),
            }),
            None => Err(LoadError::NotPulled {
                recipe,
                repo: hub.repo.into(),
                cache: self.root.clone(),
            }),
        }
    }
}
