//! What decoding takes at its peak is what it has reserved. By itself, as the allocator counts for the whole process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{cell::Cell, io::Write};

use flate2::{Compression, Crc, write::ZlibEncoder};
use galley_core::{InputError, MemoryBudget};
use galley_image::{Bounds, decode};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Tables, metadata and messages, which have no budget.
const SLACK: u64 = 1 << 20;

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    let size = (data.len() as u32).to_be_bytes();
    [&size, &kind[..], data, &crc.sum().to_be_bytes()].concat()
}

/// Zeros, packed.
fn zeros(count: usize) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    let block = vec![0; 1 << 20];
    for _ in 0..count >> 20 {
        packed.write_all(&block).unwrap();
    }
    packed.write_all(&block[..count & 0xF_FFFF]).unwrap();
    packed.finish().unwrap()
}

/// A black PNG of 16 bits with alpha.
fn png(side: u32, interlaced: bool, before: &[u8]) -> Vec<u8> {
    let side_bytes = side.to_be_bytes();
    let head = [
        &side_bytes[..],
        &side_bytes,
        &[16, 6, 0, 0, u8::from(interlaced)],
    ]
    .concat();
    let lines = match interlaced {
        // Seven passes have 15 lines for each 8.
        true => side as usize * side as usize * 8 + side as usize * 15 / 8,
        false => (side as usize * 8 + 1) * side as usize,
    };
    [
        b"\x89PNG\r\n\x1a\n",
        &chunk(b"IHDR", &head)[..],
        before,
        &chunk(b"IDAT", &zeros(lines)),
        &chunk(b"IEND", b""),
    ]
    .concat()
}

/// Decodes, and gives the bytes at the peak and those reserved.
fn measure(file: &[u8], limit: u64) -> Result<[u64; 2], InputError> {
    let budget = MemoryBudget::new(limit);
    let most = Cell::new(0);
    let bounds = Bounds {
        max_pixels: 64 << 20,
        memory: &budget,
        wanted: &|| {
            most.set(most.get().max(budget.reserved()));
            true
        },
    };
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage() as u64;
    let image = decode(file, &bounds);
    let taken = (MEMORY.peak_usage() as u64).saturating_sub(before);
    let reserved = most.get().max(budget.reserved());
    drop(image?);
    assert_eq!(budget.reserved(), 0);
    Ok([taken, reserved])
}

#[test]
fn what_is_taken_was_reserved() {
    let data = zstd::decode_all(&include_bytes!("data/matrix.zst")[..]).unwrap();
    let size = u32::from_le_bytes(*data.first_chunk().unwrap()) as usize;
    let index: serde_json::Value = serde_json::from_slice(&data[8..8 + size]).unwrap();
    let mut read = 0;
    for case in index["cases"].as_array().unwrap() {
        let number = |name: &str| case[name].as_u64().unwrap() as usize;
        let file = &data[8 + size + number("at")..][..number("length")];
        if let Ok([taken, reserved]) = measure(file, 1 << 30) {
            let name = &case["name"];
            assert!(taken <= reserved + SLACK, "{name}: {taken} of {reserved}");
            read += 1;
        }
    }
    assert!(read > 700, "{read}");

    // Half a gigabyte in two bytes a colour; nine gigabytes' profile would be as good.
    let profile = chunk(b"iCCP", &[b"k\0\0", &zeros(256 << 20)[..]].concat());
    let text = chunk(
        b"zTXt",
        &[b"XML:com.adobe.xmp\0\0", &zeros(256 << 20)[..]].concat(),
    );
    for (what, file, pixels) in [
        ("16 bits", png(8192, false, b""), 8192 * 8192),
        ("16 bits, interlaced", png(2048, true, b""), 2048 * 2048),
        ("a profile", png(16, false, &profile), 256),
        ("a text", png(16, false, &text), 256),
    ] {
        let [taken, reserved] = measure(&file, 256 << 20).unwrap();
        assert!(taken <= reserved + SLACK, "{what}: {taken} of {reserved}");
        assert!(taken < 3 * pixels + (4 << 20), "{what}: {taken}");
        let refused = measure(&file, 3 * pixels);
        assert!(
            matches!(refused, Err(InputError::TooLarge { .. })),
            "{what}"
        );
    }
}
