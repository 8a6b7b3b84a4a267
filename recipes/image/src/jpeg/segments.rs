//! A file's segments, from marker to marker.

use super::Damage;

pub(crate) const SCAN: u8 = 0xDA;
pub(crate) const END: u8 = 0xD9;

/// Reads a file's segments one by one. What stands between them and is none is passed over, as everybody does.
pub(crate) struct Segments<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Segments<'a> {
    pub(crate) fn new(file: &'a [u8]) -> Self {
        Self { file, at: 2 }
    }

    /// Where the segment just read ends.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Goes on from elsewhere.
    pub(crate) fn seek(&mut self, at: usize) {
        self.at = at;
    }

    /// The next marker, with its segment where it has one.
    pub(crate) fn next(&mut self) -> Result<(u8, &'a [u8]), Damage> {
        let early = Damage("the file ends too early");
        loop {
            let rest = self.file.get(self.at..).unwrap_or_default();
            self.at += memchr::memchr(0xFF, rest).ok_or(early)?;
            let marker = *self.file.get(self.at + 1).ok_or(early)?;
            match marker {
                // Any number of these may come before a marker.
                0xFF => self.at += 1,
                END => {
                    self.at += 2;
                    return Ok((END, &[]));
                }
                // Stuffing, restarts, the begin of a picture: nothing follows them.
                0x00 | 0x01 | 0xD0..=0xD8 => self.at += 2,
                _ => {
                    let rest = &self.file[self.at + 2..];
                    let (size, _) = rest.split_first_chunk().ok_or(early)?;
                    let size = usize::from(u16::from_be_bytes(*size));
                    let segment = rest.get(2..size.max(2)).ok_or(early)?;
                    if size < 2 {
                        return Err(Damage("a segment is shorter than its length"));
                    }
                    self.at += 2 + size;
                    return Ok((marker, segment));
                }
            }
        }
    }
}
