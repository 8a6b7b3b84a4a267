//! What a classifier sees of an image, and how many were decoded where.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use galley_core::{Decoded, InputError, Pixels};
use galley_nn::picture::{Picture, Resize};

/// A square of pixels: red, green, blue, line by line.
#[derive(Debug)]
pub struct Square {
    pub(crate) side: usize,
    pub(crate) rgb: Rgb,
}

/// Its colours.
#[derive(Debug)]
pub(crate) enum Rgb {
    /// As decoded, 0 to 255. A quarter of the size of what they mean to the network, which a device works out where it
    /// reads them.
    Decoded(Vec<u8>),
    /// Of a file that is whole, as it came: the request's own bytes, which are counted where these are. A device decodes it.
    Compressed { file: Bytes, resize: Arc<Resize> },
    /// As the network takes them.
    Normalised(Vec<f32>),
}

impl Rgb {
    pub(crate) fn is_normalised(&self) -> bool {
        matches!(self, Self::Normalised(_))
    }

    pub(crate) fn decoded(&self) -> Option<&[u8]> {
        match self {
            Self::Decoded(rgb) => Some(rgb),
            _ => None,
        }
    }

    pub(crate) fn picture(&self) -> Option<Picture<'_>> {
        match self {
            Self::Compressed { file, resize } => Some(Picture { file, resize }),
            _ => None,
        }
    }

    pub(crate) fn normalised(&self) -> &[f32] {
        match self {
            Self::Decoded(_) | Self::Compressed { .. } => &[],
            Self::Normalised(values) => values,
        }
    }
}

/// Planes -> colours beside each other, as the network reads lines; for a square of `side` pixels.
pub(crate) fn interleave(pixels: &Pixels, side: usize) -> Result<Vec<f32>, InputError> {
    let area = side * side;
    if pixels.size != [side; 2] || pixels.values.len() != 3 * area {
        let [height, width] = pixels.size;
        return Err(InputError::Unreadable(format!(
            "expected pixels [3, {side}, {side}], got {} values of {height} x {width} pixels",
            pixels.values.len()
        )));
    }
    // What is not a number would come out as a score that is none.
    if !pixels.values.iter().all(|value| value.is_finite()) {
        return Err(InputError::Unreadable(
            "expected finite pixels, got infinity or NaN".into(),
        ));
    }
    let (red, rest) = pixels.values.split_at(area);
    let (green, blue) = rest.split_at(area);
    let colours = red.iter().zip(green).zip(blue);
    Ok(colours
        .flat_map(|((&red, &green), &blue)| [red, green, blue])
        .collect())
}

/// Images decoded since they were last counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    on_device: AtomicU64,
    on_cpu: AtomicU64,
}

impl Counts {
    pub(crate) fn on_device(&self, images: usize) {
        self.on_device.fetch_add(images as u64, Ordering::Relaxed);
    }

    pub(crate) fn on_cpu(&self, images: usize) {
        self.on_cpu.fetch_add(images as u64, Ordering::Relaxed);
    }

    pub(crate) fn take(&self) -> Decoded {
        Decoded {
            on_device: self.on_device.swap(0, Ordering::Relaxed),
            on_cpu: self.on_cpu.swap(0, Ordering::Relaxed),
        }
    }
}
