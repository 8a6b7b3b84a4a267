//! The cache on disk, in the layout of the Hugging Face libraries, for writing ([`Cache`] reads it).
//!
//! ```text
//! CACHE/models--OWNER--NAME/blobs/ETAG              a whole, verified file
//!                           blobs/ETAG.incomplete   a download in progress
//!                           snapshots/COMMIT/FILE   a relative link to a blob
//!                           refs/REVISION           a commit
//! CACHE/.locks/models--OWNER--NAME/ETAG.lock
//! ```
//!
//! Whatever others may see comes into being by a rename, so that it is there whole or not at all.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Component, Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use galley_core::hub::Cache;

use super::{
    PullError,
    names::{Commit, Etag, Revision},
};

/// One repository's part of the cache.
pub(super) struct Layout {
    repo: PathBuf,
    locks: PathBuf,
}

/// Held while a blob is being written, by this process alone; the Python libraries take the same lock.
pub(super) struct Lock {
    _file: File,
}

impl Layout {
    /// Creates the folders.
    pub(super) fn create(cache: &Cache, repo: &str) -> Result<Self, PullError> {
        let folder = cache.repo(repo);
        let layout = Self {
            locks: cache.root().join(".locks").join(
                folder
                    .file_name()
                    .expect("a repository's folder has a name"),
            ),
            repo: folder,
        };
        create_folder(&layout.blobs())?;
        create_folder(&layout.locks)?;
        Ok(layout)
    }

    pub(super) fn blob(&self, etag: &Etag) -> PathBuf {
        self.blobs().join(etag.as_str())
    }

    pub(super) fn partial(&self, etag: &Etag) -> PathBuf {
        self.blobs().join(format!("{}.incomplete", etag.as_str()))
    }

    pub(super) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.repo.join("snapshots").join(commit.as_str())
    }

    /// Waits until no other pull writes this blob; `waiting` is called if it has to.
    pub(super) fn lock(&self, etag: &Etag, waiting: impl FnOnce()) -> Result<Lock, PullError> {
        let path = self.locks.join(format!("{}.lock", etag.as_str()));
        let lock = || {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            Ok(Lock { _file: file })
        };
        lock().map_err(PullError::cache(&path))
    }

    /// Makes a verified download the blob.
    pub(super) fn publish(&self, etag: &Etag) -> Result<(), PullError> {
        let blob = self.blob(etag);
        fs::rename(self.partial(etag), &blob)
            .and_then(|()| sync_folder(&self.blobs()))
            .map_err(PullError::cache(&blob))
    }

    /// Shows the blob as `file` in the commit's snapshot: a link, or a copy where links cannot be made.
    pub(super) fn link(&self, commit: &Commit, file: &str, etag: &Etag) -> Result<(), PullError> {
        let snapshot = self.snapshot(commit);
        let path = snapshot.join(file);
        let (Some(folder), true) = (path.parent(), is_below(file)) else {
            return Err(PullError::reply(
                format!("{file:?}"),
                "expected a path below the repository's folder",
            ));
        };
        create_folder(folder)?;
        // From `snapshots/COMMIT/a/b` up to the repository's folder: one step for each part of the file's own path more.
        let up = "../".repeat(Path::new(file).components().count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{}", etag.as_str()));
        if fs::read_link(&path).is_ok_and(|current| current == target) {
            return Ok(());
        }
        replace(&path, |temporary| {
            symlink(&target, temporary).or_else(|_| fs::copy(self.blob(etag), temporary).map(drop))
        })
    }

    /// Records the commit that the revision was resolved to.
    pub(super) fn record(&self, revision: &Revision, commit: &Commit) -> Result<(), PullError> {
        let path = self.repo.join("refs").join(revision.as_str());
        create_folder(path.parent().expect("a reference lies in refs"))?;
        replace(&path, |temporary| fs::write(temporary, commit.as_str()))
    }

    fn blobs(&self) -> PathBuf {
        self.repo.join("blobs")
    }
}

fn create_folder(path: &Path) -> Result<(), PullError> {
    fs::create_dir_all(path).map_err(PullError::cache(path))
}

/// Writes beside the path and renames over it.
fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), PullError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(".galley-{}-{number}", process::id()));
    let done = write(&temporary).and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        // There may be nothing to remove; the first error is the one that matters.
        let _ = fs::remove_file(&temporary);
    }
    done.map_err(PullError::cache(path))
}

fn is_below(file: &str) -> bool {
    let mut parts = Path::new(file).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// Makes a rename survive a power failure; only Unix lets one ask for that.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}
