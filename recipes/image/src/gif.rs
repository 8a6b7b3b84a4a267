//! GIF, of which the first frame is shown, on its screen.

use galley_core::InputError;
use gif::{ColorOutput, DecodeOptions, MemoryLimit};

use crate::{Rgb, bounds::Bounds, unreadable};

/// What the decoder's tables and buffers take.
const OVERHEAD: u64 = 1 << 20;

pub(crate) fn decode(file: &[u8], bounds: &Bounds) -> Result<Rgb, InputError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Unlimited);
    let mut decoder = options.read_info(file).map_err(unreadable)?;
    let screen = [usize::from(decoder.width()), usize::from(decoder.height())];
    let frame = decoder.next_frame_info().map_err(unreadable)?;
    let frame = frame.ok_or_else(|| unreadable("it has no frame"))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let transparent = frame.transparent;
    // A screen that is too small for its frame grows.
    let size = [screen[0].max(left + width), screen[1].max(top + height)];
    bounds.check_size(size)?;
    bounds.check_size([width, height])?;
    let work = (width * height) as u64 + file.len() as u64 + OVERHEAD;
    let memory = bounds.reserve(size, work, false)?;

    let mut indices = vec![0; width * height];
    decoder.read_into_buffer(&mut indices).map_err(unreadable)?;
    bounds.go_on()?;
    let (palette, _) = decoder.palette().map_err(unreadable)?.as_chunks::<3>();
    // What is beyond its palette is black.
    let colours: [[u8; 3]; 256] =
        std::array::from_fn(|index| palette.get(index).copied().unwrap_or_default());
    // Around the frame is what shows through it, or the first colour.
    let around = colours[usize::from(transparent.unwrap_or(0))];
    let mut pixels = vec![around; size[0] * size[1]];
    let lines = pixels.chunks_exact_mut(size[0]).skip(top);
    for (line, indices) in lines.zip(indices.chunks_exact(width)) {
        for (pixel, &index) in line[left..].iter_mut().zip(indices) {
            *pixel = colours[usize::from(index)];
        }
    }
    Ok(Rgb::new(size, pixels.into_flattened(), memory))
}
