//! The first directory of a TIFF, read by ourselves before the decoder does: it asks for memory for as many values as a
//! tag says it has, before any limit can be set.

use galley_core::InputError;

use super::VALUES;
use crate::unreadable;

/// What a tag has, and where.
struct Entry {
    tag: u64,
    kind: u64,
    count: u64,
    /// Its value, or where that stands.
    value: usize,
}

impl Entry {
    /// A single number that stands in the directory itself.
    fn number(&self, file: &[u8]) -> u64 {
        let size = match self.kind {
            3 => 2,
            16 => 8,
            _ => 4,
        };
        let bytes = file
            .get(self.value..self.value + size)
            .unwrap_or_default()
            .iter();
        let append = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        match file.starts_with(b"II") {
            true => bytes.rev().fold(0, append),
            false => bytes.fold(0, append),
        }
    }
}

fn entries(file: &[u8]) -> Option<Vec<Entry>> {
    let is_little = file.starts_with(b"II");
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = file.get(at..at.checked_add(size)?)?.iter();
        let append = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        Some(match is_little {
            true => bytes.rev().fold(0, append),
            false => bytes.fold(0, append),
        })
    };
    // BigTIFF has the same in wider fields.
    let (first, total_size, size, wide) = match number(2, 2)? {
        42 => (number(4, 4)?, 2, 12, 4),
        _ => (number(8, 8)?, 8, 20, 8),
    };
    let first = usize::try_from(first).ok()?;
    let total = usize::try_from(number(first, total_size)?).ok()?;
    let begin = first.checked_add(total_size)?;
    if total > file.len().saturating_sub(begin) / size {
        return None;
    }
    let entry = |at: usize| {
        Some(Entry {
            tag: number(at, 2)?,
            kind: number(at + 2, 2)?,
            count: number(at + 4, wide)?,
            value: at + 4 + wide,
        })
    };
    (0..total).map(|i| entry(begin + i * size)).collect()
}

/// Refuses tags that describe the image with more values than anybody writes, or than there are bytes, and those after which
/// the decoder reads on in the wrong place.
pub(super) fn check(file: &[u8]) -> Result<(), InputError> {
    let is_big = matches!(file, [b'I', _, 43, ..] | [b'M', _, _, 43, ..]);
    // What comes after these the decoder does not read by itself.
    const LAST: u64 = 700;
    let entries = entries(file).ok_or_else(|| unreadable("the directory is cut short"))?;
    for entry in entries {
        // Of more, the numbers of strips and of tiles do not fit where they are kept.
        let (what, most) = match entry.tag {
            256 | 257 => ("pixels on a side", 1 << 24),
            277 => ("samples of a pixel", 64),
            _ => ("", u64::MAX),
        };
        let number = entry.number(file);
        if number > most {
            return Err(unreadable(format!(
                "expected at most {most} {what}, got {number}"
            )));
        }
        // It takes one that it does not know for as long as one of an ordinary TIFF.
        if is_big && !matches!(entry.kind, 1..=13 | 16..=18) {
            return Err(unreadable(format!(
                "the tag {} of a BigTIFF is of an unknown kind: {}",
                entry.tag, entry.kind
            )));
        }
        let size = match entry.kind {
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 | 17 | 18 => 8,
            _ => 1,
        };
        let most = if entry.tag < LAST { VALUES } else { u64::MAX };
        if entry.count > most.min(file.len() as u64 / size) {
            return Err(unreadable(format!(
                "the tag {} has too many values: {}",
                entry.tag, entry.count
            )));
        }
    }
    Ok(())
}

/// A copy of a file whose first directory says of its samples that they are of another kind.
pub(super) fn with_meaning(file: &[u8], meaning: u16) -> Result<Vec<u8>, InputError> {
    const PHOTOMETRIC: u64 = 262;
    let entries = entries(file).unwrap_or_default();
    let at = entries.iter().find(|entry| entry.tag == PHOTOMETRIC);
    let at = at.ok_or_else(|| unreadable("it does not say what its samples mean"))?;
    let meaning = match file.starts_with(b"II") {
        true => meaning.to_le_bytes(),
        false => meaning.to_be_bytes(),
    };
    let mut copy = file.to_vec();
    copy[at.value..at.value + 2].copy_from_slice(&meaning);
    Ok(copy)
}
