//! A decoded image, and turning it the right way up.

use galley_core::Reservation;

use crate::orientation::Orientation;

/// A decoded image: lines of red, green and blue. Neither side is 0.
#[derive(Debug)]
pub struct Rgb {
    /// Pixels of a line.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// `height * width` pixels of three bytes.
    pub pixels: Vec<u8>,
    /// The memory that all this takes. None for what no decoder made.
    memory: Option<Reservation>,
}

impl Rgb {
    /// An image that was not decoded, and so is in nobody's budget.
    ///
    /// # Panics
    /// There are not three bytes for each pixel, or no pixels.
    pub fn of_pixels(width: usize, height: usize, pixels: Vec<u8>) -> Self {
        assert_eq!(
            pixels.len(),
            width * height * 3,
            "three bytes for each pixel"
        );
        assert!(!pixels.is_empty(), "an image has pixels");
        Self {
            width,
            height,
            pixels,
            memory: None,
        }
    }

    pub(crate) fn new([width, height]: [usize; 2], pixels: Vec<u8>, memory: Reservation) -> Self {
        Self {
            memory: Some(memory),
            ..Self::of_pixels(width, height, pixels)
        }
    }

    /// Turned from the way it is stored to the way it is shown.
    pub(crate) fn turned(mut self, orientation: Orientation) -> Self {
        let (width, height) = (self.width, self.height);
        let (pixels, _) = self.pixels.as_chunks_mut::<3>();
        if orientation.upside_down {
            let (upper, lower) = pixels.split_at_mut(height / 2 * width);
            let lower = lower.rchunks_exact_mut(width);
            for (a, b) in upper.chunks_exact_mut(width).zip(lower) {
                a.swap_with_slice(b);
            }
        }
        if orientation.mirrored {
            for line in pixels.chunks_exact_mut(width) {
                line.reverse();
            }
        }
        if !orientation.swapped {
            return self;
        }
        // In squares, so that both sides stay in the cache.
        const SIDE: usize = 32;
        let mut turned = vec![[0; 3]; pixels.len()];
        for top in (0..height).step_by(SIDE) {
            for left in (0..width).step_by(SIDE) {
                for x in left..width.min(left + SIDE) {
                    for y in top..height.min(top + SIDE) {
                        turned[x * height + y] = pixels[y * width + x];
                    }
                }
            }
        }
        Self {
            width: height,
            height: width,
            pixels: turned.into_flattened(),
            memory: self.memory,
        }
    }
}
