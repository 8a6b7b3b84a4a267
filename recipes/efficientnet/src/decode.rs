//! From an image file to its pixels, within bounds.
//!
//! The size is read from the header and checked before anything is allocated for it, so that a small file that claims
//! to be a huge image costs nothing. Time is bounded by the same number: every decoder here works in proportion to the
//! pixels (and a progressive JPEG's number of scans, which has a bound of its own). A file that ends early or is
//! damaged is refused, not shown half.
//!
//! Colours become what Pillow makes of them: alpha is dropped, not blended; grey and palettes are expanded; 16 bits are
//! divided by 257; CMYK is converted without a profile; EXIF orientation is applied.

mod jpeg;

use std::io::Cursor;

use galley_core::{InputError, InputLimits};
use image::{
    ColorType, DynamicImage, ImageDecoder, ImageFormat, Limits, RgbImage,
    codecs::{png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};

/// Bytes that a decoder may allocate for each pixel that an image may have, beside the image itself.
const BYTES_PER_PIXEL: u64 = 16;

/// A decoded image: `height * width` pixels of red, green and blue. Neither side is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rgb {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pixels: Vec<u8>,
}

/// Decodes a JPEG, PNG or WebP file.
pub(crate) fn decode(file: &[u8], limits: &InputLimits) -> Result<Rgb, InputError> {
    let (image, orientation) = match image::guess_format(file) {
        Ok(ImageFormat::Jpeg) => jpeg::decode(file, limits)?,
        Ok(ImageFormat::Png) => {
            let bounds = bounds(limits);
            let decoder = PngDecoder::with_limits(Cursor::new(file), bounds);
            read(decoder.map_err(unreadable)?, limits)?
        }
        Ok(ImageFormat::WebP) => {
            let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(unreadable)?;
            decoder.set_limits(bounds(limits)).map_err(unreadable)?;
            read(decoder, limits)?
        }
        _ if file.is_empty() => {
            return Err(InputError::Unreadable(
                "expected a JPEG, PNG or WebP image, got an empty file".into(),
            ));
        }
        _ => {
            return Err(InputError::Unreadable(
                "expected a JPEG, PNG or WebP image, got a file of another kind".into(),
            ));
        }
    };
    Ok(turn(image, orientation))
}

fn bounds(limits: &InputLimits) -> Limits {
    let mut bounds = Limits::no_limits();
    bounds.max_alloc = Some(limits.max_pixels.saturating_mul(BYTES_PER_PIXEL));
    bounds
}

fn unreadable(error: impl std::fmt::Display) -> InputError {
    InputError::Unreadable(format!("cannot read the image: {error}"))
}

/// Refuses an image of more pixels than allowed, or of none.
fn check_size(width: usize, height: usize, limits: &InputLimits) -> Result<(), InputError> {
    let pixels = width as u64 * height as u64;
    if pixels == 0 {
        return Err(unreadable(format!("it is {width} by {height} pixels")));
    }
    if pixels > limits.max_pixels {
        return Err(InputError::TooLarge {
            what: format!("image of {pixels} pixels"),
            limit: format!("{} pixels", limits.max_pixels),
            option: "--max-pixels",
        });
    }
    Ok(())
}

/// Reads a PNG or WebP.
fn read(
    mut decoder: impl ImageDecoder,
    limits: &InputLimits,
) -> Result<(Rgb, Orientation), InputError> {
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height, limits)?;
    // An orientation that cannot be read is no reason to refuse the image.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let mut samples = vec![0; width * height * usize::from(color.bytes_per_pixel())];
    decoder.read_image(&mut samples).map_err(unreadable)?;
    let pixels = to_rgb(samples, color)?;
    let image = Rgb {
        width,
        height,
        pixels,
    };
    Ok((image, orientation))
}

/// Drops alpha, expands grey, and takes 16 bits down to 8.
fn to_rgb(samples: Vec<u8>, color: ColorType) -> Result<Vec<u8>, InputError> {
    let halved = |samples: &[u8]| -> Vec<u8> {
        let wide = samples.chunks_exact(2);
        wide.map(|pair| (u16::from_ne_bytes([pair[0], pair[1]]) / 257) as u8)
            .collect()
    };
    let samples = match color {
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => halved(&samples),
        _ => samples,
    };
    Ok(match color {
        ColorType::Rgb8 | ColorType::Rgb16 => samples,
        ColorType::Rgba8 | ColorType::Rgba16 => {
            let pixels = samples.chunks_exact(4);
            pixels
                .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]])
                .collect()
        }
        ColorType::L8 | ColorType::L16 => samples.iter().flat_map(|grey| [*grey; 3]).collect(),
        ColorType::La8 | ColorType::La16 => {
            let pixels = samples.chunks_exact(2);
            pixels.flat_map(|pixel| [pixel[0]; 3]).collect()
        }
        other => return Err(unreadable(format!("its colours are of kind {other:?}"))),
    })
}

/// Turns an image the way up that its metadata ask for.
fn turn(image: Rgb, orientation: Orientation) -> Rgb {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let (width, height) = (image.width as u32, image.height as u32);
    let turned = RgbImage::from_raw(width, height, image.pixels)
        .expect("an image has three bytes for each pixel");
    let mut turned = DynamicImage::ImageRgb8(turned);
    turned.apply_orientation(orientation);
    Rgb {
        width: turned.width() as usize,
        height: turned.height() as usize,
        pixels: turned.into_rgb8().into_raw(),
    }
}

#[cfg(test)]
mod tests;
