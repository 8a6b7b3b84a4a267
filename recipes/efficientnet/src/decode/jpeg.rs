//! JPEG, read by `zune-jpeg` itself: the `image` crate asks it to make something of damaged files, and this one is to
//! refuse them.

use galley_core::{InputError, InputLimits};
use image::metadata::Orientation;
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{Rgb, check_size, unreadable};

/// A progressive image goes over all its pixels once a scan; encoders write about ten.
const MAX_SCANS: usize = 100;

/// No encoding needs fewer bytes: a block of 64 pixels takes a bit at least. A short file with a long claim is so
/// refused before memory is taken for it.
const MAX_PIXELS_PER_BYTE: usize = 1024;

/// Decodes a JPEG of any kind: baseline or progressive, grey, YCbCr, RGB, CMYK or YCCK (both as Adobe writes
/// them, inverted, as everybody reads them).
pub(super) fn decode(file: &[u8], limits: &InputLimits) -> Result<(Rgb, Orientation), InputError> {
    // The number of pixels is checked below, whatever the sides.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(unreadable)?;
    let (width, height) = decoder.dimensions().unwrap_or((0, 0));
    check_size(width, height, limits)?;
    if width * height / MAX_PIXELS_PER_BYTE > file.len() || !is_complete(file) {
        return Err(unreadable("the file ends too early"));
    }
    let mut pixels = vec![0; width * height * 3];
    decoder.decode_into(&mut pixels).map_err(unreadable)?;
    let orientation = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif))
        .unwrap_or(Orientation::NoTransforms);
    let image = Rgb {
        width,
        height,
        pixels,
    };
    Ok((image, orientation))
}

/// Whether the end-of-image marker comes after the first scan begins. The decoder notices an early end in most places,
/// but fills up the last row of blocks by itself. (A thumbnail's own marker lies before the scan.)
fn is_complete(file: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: [u8; 2] = [0xFF, 0xD9];
    let mut rest = file.get(2..).unwrap_or_default();
    loop {
        // Segments: a marker, then a length that counts itself. Anything between them is padding.
        match rest {
            [0xFF, START_OF_SCAN, data @ ..] => {
                return data.windows(2).any(|pair| pair == END_OF_IMAGE);
            }
            [0xFF, 0x02..=0xCF | 0xDB..=0xFE, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = rest.get(2 + length..).unwrap_or_default();
            }
            [_, after @ ..] => rest = after,
            [] => return false,
        }
    }
}
