//! A cache to pull into, and what must be true of it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use galley::pull::{Hub, PullError, Retry, Snapshot};
use galley_core::hub::Cache;
use indicatif::ProgressBar;
use tempfile::TempDir;

use crate::stand_in::{COMMIT, CONFIG, CONFIG_ETAG, REPO, StandIn, WEIGHTS, model, sha256};

pub(crate) const TOKEN: &str = "hf_a-secret";

/// A cache in a folder of its own, inside another one that must stay empty otherwise.
pub(crate) struct Place {
    outer: TempDir,
    pub(crate) cache: Cache,
}

impl Place {
    pub(crate) fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        let cache = Cache::at(outer.path().join("a/b/cache"));
        Self { outer, cache }
    }

    pub(crate) fn pull(&self, hub: &StandIn) -> Result<Snapshot, PullError> {
        self.pull_revision(hub, "main")
    }

    pub(crate) fn pull_revision(
        &self,
        hub: &StandIn,
        revision: &str,
    ) -> Result<Snapshot, PullError> {
        Hub::new(&hub.url(), Some(TOKEN), self.cache.clone())
            .unwrap()
            .with_retry(Retry {
                attempts: 3,
                backoff: Duration::from_millis(1),
            })
            .pull(&WEIGHTS, revision, &ProgressBar::hidden())
    }

    pub(crate) fn blob(&self, name: &str) -> PathBuf {
        self.cache.repo(REPO).join("blobs").join(name)
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.blob(&format!("{}.incomplete", sha256(&model())))
    }

    pub(crate) fn plant(&self, path: &Path, content: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// What is there is whole: a snapshot of the right files, their blobs, a reference, and nothing else.
    pub(crate) fn assert_good(&self) {
        let (commit, path) = self.cache.snapshot(&WEIGHTS).expect("a snapshot");
        assert_eq!(commit, COMMIT);
        assert_eq!(fs::read(path.join("config.json")).unwrap(), CONFIG);
        assert_eq!(fs::read(path.join("onnx/tokenizer.json")).unwrap(), CONFIG);
        assert!(fs::read(path.join("model.safetensors")).unwrap() == model());
        assert!(!path.join("vocab.txt").exists());
        let mut blobs = vec![CONFIG_ETAG.to_owned(), sha256(&model())];
        blobs.sort();
        assert_eq!(names(&self.cache.repo(REPO).join("blobs")), blobs);
        self.assert_contained();
    }

    /// Nothing can be seen of a failed first pull.
    pub(crate) fn assert_nothing_visible(&self) {
        let repo = self.cache.repo(REPO);
        assert_eq!(names(&repo.join("snapshots")), [""; 0]);
        assert_eq!(names(&repo.join("refs")), [""; 0]);
        assert!(!self.blob(&sha256(&model())).exists());
        assert_eq!(self.cache.snapshot(&WEIGHTS), None);
        self.assert_contained();
    }

    /// Nothing was written outside of the cache.
    pub(crate) fn assert_contained(&self) {
        for (folder, allowed) in [("", "a"), ("a", "b"), ("a/b", "cache")] {
            let found = names(&self.outer.path().join(folder));
            assert!(found.iter().all(|name| name == allowed), "{found:?}");
        }
        let repo = self.cache.repo(REPO);
        let own = repo.file_name().unwrap().to_str().unwrap();
        let found = names(self.cache.root());
        assert!(
            found.iter().all(|name| name == ".locks" || name == own),
            "{found:?}"
        );
    }
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
