//! Any bytes are an image or an error: no panic, and no more memory than was reserved.
#![no_main]

use std::cell::Cell;

use galley_core::MemoryBudget;
use galley_image::{Bounds, decode};
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const LIMIT: u64 = 16 << 20;
/// Tables, metadata and messages, which have no budget.
const SLACK: u64 = 3 << 20;
/// A WebP may claim so many bytes of data that it has not: the decoder asks for them, and gives up before it touches them.
const CLAIMED: u64 = 16 << 20;

fuzz_target!(|file: &[u8]| {
    let budget = MemoryBudget::new(LIMIT);
    let most = Cell::new(0);
    let bounds = Bounds {
        max_pixels: 1 << 20,
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
    let reserved = match &image {
        Ok(image) => {
            assert_eq!(image.pixels.len(), image.width * image.height * 3);
            budget.reserved()
        }
        // What a decoder that gave up had reserved is not known.
        Err(_) => most.get().max(LIMIT) + CLAIMED,
    };
    assert!(taken <= reserved + SLACK, "took {taken} of {reserved}");
    drop(image);
    assert_eq!(budget.reserved(), 0);
});
