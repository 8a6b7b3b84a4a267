//! What the image recipes share: from an image file to the pixels that a network sees, and from logits to classes.
//!
//! [`decode`] reads a file of any of its [formats](FORMATS) as Pillow does, as the networks were trained on what Pillow
//! gives, or refuses it; [`View`] resizes and crops, to the bit as Pillow does. A [`Classifier`] is the whole recipe around
//! a network.
//!
//! A file is read within [`Bounds`]. Its size is read from its header and checked, and its memory reserved, before anything
//! is allocated for it, so that a small file that claims to be a huge image costs nothing. Time is bounded by the same
//! numbers: every decoder here works in proportion to the pixels, and stops when nobody waits any more. A file that
//! ends early or is damaged is refused, not shown half.
//!
//! Colours become what Pillow makes of them: alpha is dropped, not blended; grey and palettes are expanded; of 16 bits
//! the upper half counts (grey alone is divided by 257, as the references do it); CMYK is converted without a profile;
//! the orientation in the metadata is applied.

mod bmp;
mod bounds;
mod classifier;
mod config;
mod format;
mod gif;
mod jpeg;
mod labels;
mod orientation;
mod png;
mod resizes;
mod rgb;
mod square;
mod tiff;
mod view;
mod webp;

use galley_core::InputError;

pub use crate::{
    bounds::Bounds,
    classifier::{Classifier, EXAMPLE, OPTIONS, Parts, Scorer},
    config::Config,
    format::FORMATS,
    labels::{IMAGENET, Label},
    rgb::Rgb,
    square::Square,
    view::View,
};
use crate::{format::Format, orientation::Orientation};

/// Decodes an image file.
///
/// # Errors
/// It is none, of a format that is not read, damaged, or larger than its bounds; or it is not wanted any more.
pub fn decode(file: &[u8], bounds: &Bounds) -> Result<Rgb, InputError> {
    let format = Format::of(file)?;
    // An orientation that cannot be read is no reason to refuse the image.
    let orientation = match format {
        Format::Jpeg => jpeg::orientation(file),
        Format::Png => png::orientation(file),
        Format::WebP => webp::orientation(file),
        Format::Tiff => tiff::orientation(file),
        Format::Gif | Format::Bmp => Orientation::default(),
    };
    let swapped = orientation.swapped;
    let decoded = match format {
        Format::Jpeg => jpeg::decode(file, bounds, swapped),
        Format::Png => png::decode(file, bounds, swapped),
        Format::WebP => webp::decode(file, bounds, swapped),
        Format::Tiff => tiff::decode(file, bounds, swapped),
        Format::Gif => gif::decode(file, bounds),
        Format::Bmp => bmp::decode(file, bounds),
    };
    match decoded {
        Ok(image) => Ok(image.turned(orientation)),
        Err(_) if !(bounds.wanted)() => Err(InputError::NotWanted),
        Err(error) => Err(error),
    }
}

fn unreadable(error: impl std::fmt::Display) -> InputError {
    InputError::Unreadable(format!("cannot read the image: {error}"))
}

#[cfg(test)]
mod tests;
