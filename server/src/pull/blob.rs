//! One file from the hub to a blob in the cache: locked, downloaded, verified, and only then put in its place.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
};

use indicatif::ProgressBar;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use url::Url;

use super::{PullError, Retry, download::Download, http::Client, layout::Layout, names::Etag};

/// What the hub announces of a file.
pub(super) struct Remote {
    /// Its name in the repository.
    pub(super) file: &'static str,
    /// Where its content is to be had.
    pub(super) url: Url,
    /// The hash of its content.
    pub(super) etag: Etag,
    /// Its length, in bytes.
    pub(super) size: u64,
}

/// What it takes to fetch blobs of one repository.
pub(super) struct Fetcher<'a> {
    pub(super) client: &'a Client,
    pub(super) layout: &'a Layout,
    pub(super) retry: Retry,
    pub(super) progress: &'a ProgressBar,
}

impl Fetcher<'_> {
    /// Makes sure that the file's blob is in the cache and good. `before` is where the progress stands, in bytes.
    pub(super) fn fetch(&self, remote: &Remote, before: u64) -> Result<(), PullError> {
        let file = remote.file;
        let _lock = self.layout.lock(&remote.etag, || {
            self.progress
                .set_message(format!("{file} (waiting for another pull)"));
        })?;
        self.progress.set_message(format!("{file} (checking)"));
        if self.has_good_blob(remote)? {
            return Ok(());
        }
        let partial = self.layout.partial(&remote.etag);
        match Download::open(self, remote, before)?.finish() {
            Ok(()) => self.layout.publish(&remote.etag),
            // Bytes that are known to be wrong would spoil the next pull; those of a broken download will help it.
            Err(error @ (PullError::WrongContent { .. } | PullError::BadReply { .. })) => {
                fs::remove_file(&partial).map_err(PullError::cache(&partial))?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// A blob's name is the hash of its content, so whether it is good does not depend on what the hub says now.
    fn has_good_blob(&self, remote: &Remote) -> Result<bool, PullError> {
        let path = self.layout.blob(&remote.etag);
        let mut blob = match File::open(&path) {
            Ok(blob) => blob,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(PullError::cache(path)(error)),
        };
        let got = hash(&mut blob, &remote.etag).map_err(PullError::cache(&path))?;
        if got == remote.etag.as_str() {
            return Ok(true);
        }
        self.progress.suspend(|| {
            tracing::warn!(file = remote.file, "removing a damaged file from the cache");
        });
        fs::remove_file(&path).map_err(PullError::cache(&path))?;
        Ok(false)
    }
}

/// The hash of a whole file in hexadecimal, of the etag's kind.
pub(super) fn hash(file: &mut File, kind: &Etag) -> io::Result<String> {
    let size = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    match kind {
        Etag::Sha256(_) => digest(file, Sha256::new()),
        Etag::GitBlob(_) => digest(file, Sha1::new_with_prefix(format!("blob {size}\0"))),
    }
}

fn digest<D: Digest>(file: &mut File, mut hasher: D) -> io::Result<String> {
    let mut chunk = vec![0; 128 << 10];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => hasher.update(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
