//! Files of this machine. A path is judged by the file that was opened, not by its text: links may be put in its place at
//! any time.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use super::{FetchError, Fetched, Fetcher};
use crate::stream::guard::{Guard, Refusal};

impl Fetcher {
    pub(super) async fn file(&self, path: PathBuf) -> Result<Fetched, FetchError> {
        let guard = self.guard.clone();
        let (file, metadata) = blocking(move || open(&guard, &path)).await?;
        let size = metadata.len();
        let held = self.reserve(size).await?;
        let bytes = blocking(move || read(file, size)).await?;
        Ok(Fetched {
            bytes: bytes.into(),
            etag: tag(&metadata),
            held,
        })
    }
}

async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    let done = tokio::task::spawn_blocking(what).await;
    done.unwrap_or_else(|_| Err(FetchError::Passing("reading the file failed".into())))
}

fn open(guard: &Guard, path: &Path) -> Result<(File, Metadata), FetchError> {
    let real = path.canonicalize().map_err(of_io)?;
    if !guard.allows_path(&real) {
        return Err(Refusal::NotAllowed.into());
    }
    let mut options = OpenOptions::new();
    options.read(true);
    // A pipe would be waited for.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC,
    );
    let file = options.open(&real).map_err(of_io)?;
    let metadata = file.metadata().map_err(of_io)?;
    if !metadata.is_file() {
        return Err(FetchError::Refused("expected a file".into()));
    }
    // A folder on the way may have become a link meanwhile.
    #[cfg(target_os = "linux")]
    {
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let opened = std::fs::read_link(link).map_err(of_io)?;
        if !guard.allows_path(&opened) {
            return Err(Refusal::NotAllowed.into());
        }
    }
    Ok((file, metadata))
}

fn read(file: File, size: u64) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.take(size).read_to_end(&mut bytes).map_err(of_io)?;
    match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(FetchError::Passing(
            "the file became shorter while it was read".into(),
        )),
    }
}

/// A file's time and size tell its versions apart.
fn tag(metadata: &Metadata) -> Option<String> {
    let modified = metadata.modified().ok()?;
    let modified = modified.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{:x}-{:x}", modified.as_nanos(), metadata.len()))
}

fn of_io(error: io::Error) -> FetchError {
    use io::ErrorKind::{
        InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
    };
    let for_good = [
        InvalidFilename,
        InvalidInput,
        IsADirectory,
        NotADirectory,
        NotFound,
        PermissionDenied,
    ];
    match for_good.contains(&error.kind()) {
        true => FetchError::Refused(format!("cannot read the file: {error}")),
        false => FetchError::Passing(format!("cannot read the file: {error}")),
    }
}
