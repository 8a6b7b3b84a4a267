//! What decoding an image may cost.

use galley_core::{InputError, MemoryBudget, NoMemory, Reservation};

use crate::unreadable;

/// Bounds on one image, and the process's memory for all of them.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    /// The most pixels that it may have (`--max-pixels`).
    pub max_pixels: u64,
    /// What decoders take memory out of (`--max-decode-memory`).
    pub memory: &'a MemoryBudget,
    /// Whether its answer is still waited for. Asked often while decoding: it must be cheap.
    pub wanted: &'a (dyn Fn() -> bool + 'a),
}

impl Bounds<'_> {
    /// Refuses an image of more pixels than allowed, or of none.
    pub(crate) fn check_size(&self, [width, height]: [usize; 2]) -> Result<(), InputError> {
        let pixels = width as u64 * height as u64;
        if pixels == 0 {
            return Err(unreadable(format!("it is {width} by {height} pixels")));
        }
        if pixels > self.max_pixels {
            return Err(InputError::TooLarge {
                what: format!("image of {pixels} pixels"),
                limit: format!("{} pixels", self.max_pixels),
                option: "--max-pixels",
            });
        }
        Ok(())
    }

    /// Takes all the memory that an image needs, before any of it is allocated: its pixels, and `work` bytes until
    /// they are there. Where its sides are `swapped` afterwards, the pixels are there twice. Waits for other images.
    pub(crate) fn reserve(
        &self,
        [width, height]: [usize; 2],
        work: u64,
        swapped: bool,
    ) -> Result<Reservation, InputError> {
        let pixels = (width as u64 * height as u64).saturating_mul(3);
        let copy = if swapped { pixels } else { 0 };
        let bytes = pixels.saturating_add(work.max(copy));
        self.memory
            .reserve(bytes, self.wanted)
            .map_err(|error| match error {
                NoMemory::Never { limit } => InputError::TooLarge {
                    what: format!("image that takes {bytes} bytes to decode"),
                    limit: format!("{limit} bytes"),
                    option: "--max-decode-memory",
                },
                NoMemory::NotWanted => InputError::NotWanted,
            })
    }

    pub(crate) fn go_on(&self) -> Result<(), InputError> {
        if (self.wanted)() {
            Ok(())
        } else {
            Err(InputError::NotWanted)
        }
    }
}
