//! Generated images on disk: packs of 256 files each, read back one by one, so that memory stays small and constant.
//!
//! A pack is a header of 256 entries (length as u32, first 8 bytes of the SHA-256 as u64, both little endian) and the
//! files themselves. It is written beside its place and renamed, so that a pack is there whole or not at all, whoever
//! else generates the same one.

use std::{
    env,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Images in a pack.
pub(super) const PACK: usize = 256;
const ENTRY: usize = 12;
const HEADER: usize = PACK * ENTRY;

/// Where generated corpora are kept: `$XDG_CACHE_HOME/galley/corpus`, else `~/.cache/galley/corpus`.
pub(super) fn cache_dir() -> PathBuf {
    let var = |name| env::var_os(name).filter(|value| !value.is_empty());
    var("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| var("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join("galley")
        .join("corpus")
}

/// Packs opened for reading.
#[derive(Debug)]
pub(super) struct Packs {
    packs: Vec<Pack>,
    len: usize,
}

/// One pack: an open file and where each image lies.
#[derive(Debug)]
pub(super) struct Pack {
    file: File,
    path: PathBuf,
    /// Offset and length.
    places: Vec<(u64, usize)>,
    /// The first bytes of each image's SHA-256, by which repeats are found.
    pub(super) hashes: Vec<u64>,
}

impl Packs {
    /// The first `len` images of these packs.
    pub(super) fn new(packs: Vec<Pack>, len: usize) -> Self {
        debug_assert!(packs.len() * PACK >= len);
        Self { packs, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn read(&self, index: usize) -> Result<Vec<u8>> {
        assert!(index < self.len, "no example {index} among {}", self.len);
        let pack = &self.packs[index / PACK];
        let (offset, length) = pack.places[index % PACK];
        let mut bytes = vec![0; length];
        read_at(&pack.file, &mut bytes, offset).map_err(Error::file(&pack.path))?;
        Ok(bytes)
    }
}

impl Pack {
    /// Opens a pack; `None` if it is not there, or is damaged and has to be made again.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let mut header = vec![0; HEADER];
        read_at(&file, &mut header, 0).ok()?;
        let mut offset = HEADER as u64;
        let mut pack = Self {
            path: path.into(),
            places: Vec::with_capacity(PACK),
            hashes: Vec::with_capacity(PACK),
            file,
        };
        for entry in header.chunks_exact(ENTRY) {
            let (length, hash) = entry.split_at(4);
            let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
            pack.places.push((offset, length));
            pack.hashes.push(u64::from_le_bytes(hash.try_into().ok()?));
            offset += length as u64;
        }
        (pack.file.metadata().ok()?.len() == offset).then_some(pack)
    }

    /// Writes a pack and opens it.
    ///
    /// # Panics
    /// There are not exactly [`PACK`] images.
    pub(super) fn write(path: &Path, images: &[Vec<u8>]) -> Result<Self> {
        assert_eq!(images.len(), PACK, "a pack is always full");
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(Error::file(dir))?;
        let partial = path.with_extension(format!("partial-{}", std::process::id()));
        write_file(&partial, images).map_err(Error::file(&partial))?;
        fs::rename(&partial, path).map_err(Error::file(path))?;
        Self::open(path).ok_or_else(|| {
            Error::file(path)(std::io::Error::other(
                "the pack just written cannot be read",
            ))
        })
    }
}

/// The first 8 bytes of a file's SHA-256.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    let first = digest.first_chunk().expect("a SHA-256 has 32 bytes");
    u64::from_le_bytes(*first)
}

fn write_file(path: &Path, images: &[Vec<u8>]) -> std::io::Result<()> {
    let mut header = Vec::with_capacity(HEADER);
    for image in images {
        let length = u32::try_from(image.len()).map_err(std::io::Error::other)?;
        header.extend(length.to_le_bytes());
        header.extend(hash(image).to_le_bytes());
    }
    let mut file = File::create(path)?;
    file.write_all(&header)?;
    images.iter().try_for_each(|image| file.write_all(image))
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        match file.seek_read(bytes, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}
