//! What the fuzzer and changed files have found, each as a file made here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use galley_core::{InputError, MemoryBudget};
use galley_image::{Bounds, decode};

fn refused(file: &[u8]) -> String {
    let bounds = Bounds {
        max_pixels: 1 << 20,
        memory: &MemoryBudget::new(64 << 20),
        wanted: &|| true,
    };
    match decode(file, &bounds) {
        Err(InputError::Unreadable(message)) => message,
        other => panic!("{other:?}"),
    }
}

/// A directory of SHORTs and LONGs: tag, number of values, value or offset.
fn tiff(entries: &[(u16, u16, u32, u32)]) -> Vec<u8> {
    let mut file = b"II*\0\x08\0\0\0".to_vec();
    file.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend([0; 4]);
    file
}

/// Memory for four billion values was asked for at once, which ends the process.
#[test]
fn a_tag_of_more_values_than_the_file_has_bytes() {
    let file = tiff(&[
        (256, 4, 1, 1),
        (257, 4, 1, 1),
        (258, 3, 1, 8),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 1),
        (338, 3, 0xFF00_0000, 8),
    ]);
    assert_eq!(
        refused(&file),
        "cannot read the image: the tag 338 has too many values: 4278190080"
    );
    // A tag of which only one value is wanted, within the first bytes of a longer file.
    let mut file = tiff(&[(256, 3, 1, 20), (257, 3, 1, 18), (259, 3, 2_686_977, 8)]);
    file.resize(6 << 20, 0);
    assert_eq!(
        refused(&file),
        "cannot read the image: the tag 259 has too many values: 2686977"
    );
}
