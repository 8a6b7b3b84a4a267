//! Filling a blob's `.incomplete` file, over as many connections as it takes, and checking it against the etag.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

use ureq::{Body, http::Response};

use super::{
    PullError,
    blob::{self, Fetcher, Remote},
    http,
};

const CHUNK: usize = 128 << 10;
/// A try that brought this many bytes starts the count of failures anew: a bad line makes a large file slow, not impossible.
const WORTHWHILE: u64 = 4 << 20;

/// A download in progress. Its blob's lock is held by the caller.
pub(super) struct Download<'a> {
    fetcher: &'a Fetcher<'a>,
    remote: &'a Remote,
    path: PathBuf,
    output: File,
    /// Bytes of the files before this one, where the progress starts.
    before: u64,
}

impl<'a> Download<'a> {
    /// Opens the partial file that an earlier pull left, or a new one.
    pub(super) fn open(
        fetcher: &'a Fetcher<'a>,
        remote: &'a Remote,
        before: u64,
    ) -> Result<Self, PullError> {
        let path = fetcher.layout.partial(&remote.etag);
        let output = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(PullError::cache(&path))?;
        Ok(Self {
            fetcher,
            remote,
            path,
            output,
            before,
        })
    }

    /// Downloads and verifies. A partial file left by an earlier pull is given one chance.
    pub(super) fn finish(mut self) -> Result<(), PullError> {
        let inherited = self.length()? > 0;
        self.fill()?;
        match self.verify() {
            Err(PullError::WrongContent { .. }) if inherited => {
                self.truncate()?;
                self.fill()?;
                self.verify()
            }
            result => result,
        }
    }

    /// Until the file has its announced length.
    fn fill(&mut self) -> Result<(), PullError> {
        let progress = self.fetcher.progress;
        progress.set_message(self.remote.file);
        let mut failed = 0;
        loop {
            let start = self.length()?;
            let Err(error) = self.attempt() else {
                return Ok(());
            };
            let gained = self.length()?.saturating_sub(start);
            failed = if gained >= WORTHWHILE { 1 } else { failed + 1 };
            self.fetcher.retry.pause(failed, error, progress)?;
        }
    }

    /// One connection: from where the file ends to where the connection does.
    fn attempt(&mut self) -> Result<(), PullError> {
        let remote = self.remote;
        if self.length()? > remote.size {
            self.truncate()?;
        }
        let have = self.length()?;
        if have == remote.size {
            return Ok(());
        }
        let mut response = self.fetcher.client.get(&remote.url, have, remote.file)?;
        match response.status().as_u16() {
            206 if have > 0 => check_range(&response, have, remote.file)?,
            // The whole file, whether it was asked for or the range was ignored.
            200 => self.truncate()?,
            status => {
                if status == 416 {
                    self.truncate()?;
                }
                return Err(PullError::Status {
                    what: remote.file.into(),
                    status,
                });
            }
        }
        self.append(response.body_mut().as_reader())
    }

    fn append(&mut self, mut body: impl Read) -> Result<(), PullError> {
        let progress = self.fetcher.progress;
        let mut have = self
            .output
            .seek(SeekFrom::End(0))
            .map_err(PullError::cache(&self.path))?;
        progress.set_position(self.before.saturating_add(have));
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = match body.read(&mut chunk) {
                Ok(0) => return self.ended(have, "the answer ended".into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.ended(have, error.to_string()),
            };
            have += read as u64;
            if have > self.remote.size {
                let announced = self.remote.size;
                let reason = format!("expected {announced} bytes as announced, got more");
                return Err(PullError::reply(self.remote.file, reason));
            }
            self.output
                .write_all(&chunk[..read])
                .map_err(PullError::cache(&self.path))?;
            progress.inc(read as u64);
        }
    }

    fn ended(&self, have: u64, reason: String) -> Result<(), PullError> {
        if have == self.remote.size {
            return Ok(());
        }
        Err(PullError::Truncated {
            file: self.remote.file.into(),
            expected: self.remote.size,
            got: have,
            reason,
        })
    }

    /// Hashes what is on disk, resumed parts and all, once it has truly reached the disk.
    fn verify(&mut self) -> Result<(), PullError> {
        let Remote { file, etag, .. } = self.remote;
        self.fetcher
            .progress
            .set_message(format!("{file} (verifying)"));
        let got = self
            .output
            .sync_all()
            .and_then(|()| blob::hash(&mut self.output, etag))
            .map_err(PullError::cache(&self.path))?;
        if got == etag.as_str() {
            return Ok(());
        }
        Err(PullError::WrongContent {
            file: (*file).into(),
            expected: etag.as_str().into(),
            got,
        })
    }

    fn length(&self) -> Result<u64, PullError> {
        self.output
            .metadata()
            .map(|metadata| metadata.len())
            .map_err(PullError::cache(&self.path))
    }

    fn truncate(&self) -> Result<(), PullError> {
        self.output.set_len(0).map_err(PullError::cache(&self.path))
    }
}

/// A partial answer must begin where it was asked to.
fn check_range(response: &Response<Body>, from: u64, file: &str) -> Result<(), PullError> {
    let range = http::text(response.headers(), "content-range").unwrap_or_default();
    if range.starts_with(&format!("bytes {from}-")) {
        return Ok(());
    }
    let reason = format!("expected a range that begins at byte {from}, got {range:?}");
    Err(PullError::reply(file, reason))
}
