//! PNG, read line by line into eight bits a colour, so that one of sixteen takes no more memory than another.
//!
//! Text and profiles are not unpacked, except for a piece of what may say which way up the image is.

mod metadata;

use std::io::Cursor;

use galley_core::InputError;
use png::{BitDepth, ColorType, InterlaceInfo, Limits, Transformations};

pub(crate) use self::metadata::orientation;
use crate::{Rgb, bounds::Bounds, unreadable};

/// Lines that the decoder keeps, with and without filters and expansion.
const LINES: u64 = 6;
/// What its windows and buffers take.
const OVERHEAD: u64 = 1 << 20;

pub(crate) fn decode(file: &[u8], bounds: &Bounds, swapped: bool) -> Result<Rgb, InputError> {
    let limits = Limits { bytes: usize::MAX };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(file), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(unreadable)?;
    let size = [header.width as usize, header.height as usize];
    let (stored, depth) = (header.color_type, header.bit_depth);
    bounds.check_size(size)?;
    // Two bytes for each of four colours are the most that a pixel takes.
    let work = LINES * 8 * size[0] as u64 + OVERHEAD + file.len() as u64;
    let memory = bounds.reserve(size, work, swapped)?;

    let mut reader = decoder.read_info().map_err(unreadable)?;
    check_palette(reader.info())?;
    let (color, _) = reader.output_color_type();
    let form = Form {
        samples: color.samples(),
        depth: match depth {
            BitDepth::Sixteen if stored == ColorType::Grayscale => Depth::SixteenOfGrey,
            BitDepth::Sixteen => Depth::Sixteen,
            _ => Depth::Eight,
        },
    };
    let stride = size[0] * 3;
    let mut pixels = vec![0; stride * size[1]];
    let mut lines = 0;
    let mut line = Vec::new();
    while let Some(row) = reader.next_interlaced_row().map_err(unreadable)? {
        bounds.go_on()?;
        match row.interlace() {
            InterlaceInfo::Null(_) => {
                let to = pixels.get_mut(lines * stride..(lines + 1) * stride);
                form.to_rgb(row.data(), to.unwrap_or_default());
            }
            InterlaceInfo::Adam7(info) => {
                line.resize(row.data().len() / form.bytes() * 3, 0);
                form.to_rgb(row.data(), &mut line);
                png::expand_interlaced_row(&mut pixels, stride, &line, info, 24);
            }
        }
        lines += 1;
    }
    // The end of the data has checksums of its own.
    reader.finish().map_err(unreadable)?;
    Ok(Rgb::new(size, pixels, memory))
}

/// The decoder panics at a palette that is no list of colours.
fn check_palette(info: &png::Info) -> Result<(), InputError> {
    let bytes = info.palette.as_ref().map_or(3, |palette| palette.len());
    if info.color_type == ColorType::Indexed
        && (!bytes.is_multiple_of(3) || !(3..=768).contains(&bytes))
    {
        return Err(unreadable(format!(
            "expected a palette of 1 to 256 colours of 3 bytes, got {bytes} bytes"
        )));
    }
    Ok(())
}

enum Depth {
    Eight,
    /// The upper half counts.
    Sixteen,
    /// All of it counts: the references divide by 257.
    SixteenOfGrey,
}

/// How a line's pixels stand there.
struct Form {
    samples: usize,
    depth: Depth,
}

impl Form {
    /// Of a pixel.
    fn bytes(&self) -> usize {
        match self.depth {
            Depth::Eight => self.samples,
            Depth::Sixteen | Depth::SixteenOfGrey => self.samples * 2,
        }
    }

    /// Drops alpha, expands grey, and takes 16 bits down to 8.
    fn to_rgb(&self, line: &[u8], to: &mut [u8]) {
        let (to, _) = to.as_chunks_mut::<3>();
        match (&self.depth, self.samples) {
            (Depth::Eight, 1) => each::<1>(line, to, |[grey]| [grey; 3]),
            (Depth::Eight, 2) => each::<2>(line, to, |[grey, _]| [grey; 3]),
            (Depth::Eight, 3) => each::<3>(line, to, |rgb| rgb),
            (Depth::Eight, _) => each::<4>(line, to, |[r, g, b, _]| [r, g, b]),
            (Depth::SixteenOfGrey, 1) => each::<2>(line, to, |grey| [divided(grey); 3]),
            (Depth::SixteenOfGrey, _) => {
                each::<4>(line, to, |[high, low, ..]| [divided([high, low]); 3]);
            }
            (Depth::Sixteen, 2) => each::<4>(line, to, |[grey, ..]| [grey; 3]),
            (Depth::Sixteen, 3) => each::<6>(line, to, |[r, _, g, _, b, _]| [r, g, b]),
            (Depth::Sixteen, _) => each::<8>(line, to, |[r, _, g, _, b, ..]| [r, g, b]),
        }
    }
}

fn divided(sample: [u8; 2]) -> u8 {
    (u16::from_be_bytes(sample) / 257) as u8
}

fn each<const N: usize>(line: &[u8], to: &mut [[u8; 3]], rgb: impl Fn([u8; N]) -> [u8; 3]) {
    for (to, pixel) in to.iter_mut().zip(line.as_chunks::<N>().0) {
        *to = rgb(*pixel);
    }
}
