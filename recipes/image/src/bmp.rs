//! BMP.

use std::io::Cursor;

use galley_core::InputError;
use image::{ImageDecoder, codecs::bmp::BmpDecoder};

use crate::{Rgb, bounds::Bounds, unreadable};

pub(crate) fn decode(file: &[u8], bounds: &Bounds) -> Result<Rgb, InputError> {
    let decoder = BmpDecoder::new(Cursor::new(file)).map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    let size = [width as usize, height as usize];
    bounds.check_size(size)?;
    let bytes = usize::from(decoder.color_type().bytes_per_pixel());
    let area = size[0] * size[1];
    // Lines that are packed are unpacked beside the image.
    let work = (area as u64).saturating_mul(2) + file.len() as u64;
    let memory = bounds.reserve(size, work, false)?;
    let mut pixels = vec![0; area * bytes];
    decoder.read_image(&mut pixels).map_err(unreadable)?;
    match bytes {
        3 => {}
        4 => {
            for i in 0..area {
                pixels.copy_within(4 * i..4 * i + 3, 3 * i);
            }
            pixels.truncate(area * 3);
        }
        _ => {
            return Err(unreadable(format!(
                "expected three or four bytes a pixel, got {bytes}"
            )));
        }
    }
    Ok(Rgb::new(size, pixels, memory))
}
