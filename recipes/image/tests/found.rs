//! What the fuzzer and changed files have found, each as a file made here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;

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

/// The number of strips did not fit 32 bits.
#[test]
fn more_rows_and_samples_than_can_be_numbered() {
    let strips = |height, samples| {
        tiff(&[
            (256, 4, 1, 20),
            (257, 4, 1, height),
            (262, 3, 1, 2),
            (273, 4, 1, 8),
            (277, 3, 1, samples),
            (278, 4, 1, 8),
            (279, 4, 1, 8),
            (284, 3, 1, 2),
        ])
    };
    assert_eq!(
        refused(&strips(650_620_178, 3)),
        "cannot read the image: expected at most 16777216 pixels on a side, got 650620178"
    );
    assert_eq!(
        refused(&strips(8, 8195)),
        "cannot read the image: expected at most 64 samples of a pixel, got 8195"
    );
}

/// The decoder took an entry of an unknown kind for one of 12 bytes, and what it read then was no entry.
#[test]
fn a_big_tiff_with_a_tag_of_an_unknown_kind() {
    let mut file = b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0".to_vec();
    let entries: [(u16, u16, u64, u64); 4] = [
        (256, 4, 1, 1),
        (257, 4, 1, 1),
        (258, 0, 2, 0x0040_0001_0003_0106),
        (259, 3, 1, 1),
    ];
    file.extend((entries.len() as u64).to_le_bytes());
    for (tag, kind, count, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend([0; 8]);
    assert_eq!(
        refused(&file),
        "cannot read the image: the tag 258 of a BigTIFF is of an unknown kind: 0"
    );
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut checksum = flate2::Crc::new();
    checksum.update(kind);
    checksum.update(data);
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], kind, data, &checksum.sum().to_be_bytes()].concat()
}

/// The decoder panicked.
#[test]
fn a_palette_that_ends_within_a_colour() {
    for palette in [&[0; 7][..], &[0; 1], &[0; 769], &[]] {
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&[0, 0]).unwrap();
        let file = [
            b"\x89PNG\r\n\x1a\n".to_vec(),
            chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 3, 0, 0, 0]),
            chunk(b"PLTE", palette),
            chunk(b"IDAT", &packed.finish().unwrap()),
            chunk(b"IEND", &[]),
        ];
        let message = refused(&file.concat());
        assert!(
            message.contains("palette") || message.contains("PLTE"),
            "{message}"
        );
    }
}
