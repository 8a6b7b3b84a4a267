//! WebP, of which only the first image's colours matter here.
//!
//! What an extended file's header announces (an alpha channel, metadata, an animation) is not always there, and seldom
//! of use. So the chunk with the image is looked for here and decoded as a simple file would be.

use std::io::Cursor;

use galley_core::{InputError, Reservation};
use image_webp::WebPDecoder;

use crate::{Rgb, bounds::Bounds, orientation::Orientation, unreadable};

/// Bytes that a pixel takes while it is decoded, beside the three of the picture.
const LOSSY: u64 = 3;
const LOSSLESS: u64 = 10;

const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;

/// Chunks of an even size, and what stands there.
fn chunks(mut rest: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (kind, after) = rest.split_first_chunk()?;
        let (size, after) = after.split_first_chunk()?;
        let size = u32::from_le_bytes(*size) as usize;
        let data = after.get(..size)?;
        rest = after.get(size + size % 2..).unwrap_or_default();
        Some((kind, data))
    })
}

/// A file's chunks. The size in its header may be any; the chunks have their own.
fn chunks_of(file: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    chunks(file.get(12..).unwrap_or_default())
}

pub(crate) fn orientation(file: &[u8]) -> Orientation {
    let Some((b"VP8X", &[flags, ..])) = chunks_of(file).next() else {
        return Orientation::default();
    };
    // Those that are not announced are not looked at, by libwebp neither.
    let find = |flag, kind| {
        let chunk = chunks_of(file).find(|chunk| chunk.0 == kind);
        chunk.map(|chunk| chunk.1).filter(|_| flags & flag != 0)
    };
    Orientation::of(find(EXIF, b"EXIF"), find(XMP, b"XMP "))
}

pub(crate) fn decode(file: &[u8], bounds: &Bounds, swapped: bool) -> Result<Rgb, InputError> {
    let canvas = Canvas::of(file).ok_or_else(|| unreadable("the image is missing or cut short"))?;
    bounds.check_size(canvas.size)?;
    let [width, height] = canvas.size;
    let area = width as u64 * height as u64;
    // The frame is made apart from the canvas where it does not fill it.
    let frame = area * (3 + canvas.kind.bytes()) + file.len() as u64;
    let memory = bounds.reserve(canvas.size, frame, swapped)?;
    canvas.draw(memory)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lossy,
    Lossless,
}

impl Kind {
    fn of(name: &[u8; 4]) -> Option<Self> {
        match name {
            b"VP8 " => Some(Self::Lossy),
            b"VP8L" => Some(Self::Lossless),
            _ => None,
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::Lossy => LOSSY,
            Self::Lossless => LOSSLESS,
        }
    }
}

/// An area with the first image somewhere in it.
struct Canvas<'a> {
    size: [usize; 2],
    /// Where the image begins.
    origin: [usize; 2],
    kind: Kind,
    image: &'a [u8],
}

impl<'a> Canvas<'a> {
    fn of(file: &'a [u8]) -> Option<Self> {
        let mut canvas = None;
        for (name, data) in chunks_of(file) {
            if let Some(kind) = Kind::of(name) {
                let size = canvas.or_else(|| image_size(kind, data))?;
                return Some(Self {
                    size,
                    origin: [0, 0],
                    kind,
                    image: data,
                });
            }
            match name {
                b"VP8X" => canvas = Some([u24(data, 4)? + 1, u24(data, 7)? + 1]),
                b"ANMF" => {
                    let frames = chunks(data.get(16..)?);
                    let mut images =
                        frames.filter_map(|(name, data)| Some((Kind::of(name)?, data)));
                    let (kind, image) = images.next()?;
                    return Some(Self {
                        size: canvas?,
                        origin: [u24(data, 0)? * 2, u24(data, 3)? * 2],
                        kind,
                        image,
                    });
                }
                _ => {}
            }
        }
        None
    }

    fn draw(&self, memory: Reservation) -> Result<Rgb, InputError> {
        let file = self.simple_file();
        let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(unreadable)?;
        let (width, height) = decoder.dimensions();
        let frame = [width as usize, height as usize];
        let [x, y] = self.origin;
        if x + frame[0] > self.size[0] || y + frame[1] > self.size[1] {
            return Err(unreadable("the image is larger than its canvas"));
        }
        let bytes = if decoder.has_alpha() { 4 } else { 3 };
        let mut pixels = vec![0; frame[0] * frame[1] * bytes];
        decoder.read_image(&mut pixels).map_err(unreadable)?;
        if bytes == 4 {
            for i in 0..frame[0] * frame[1] {
                pixels.copy_within(4 * i..4 * i + 3, 3 * i);
            }
            pixels.truncate(frame[0] * frame[1] * 3);
        }
        if frame != self.size {
            // What no image covers is black.
            let stride = self.size[0] * 3;
            let mut canvas = vec![0; stride * self.size[1]];
            let lines = canvas[y * stride..].chunks_exact_mut(stride);
            for (line, from) in lines.zip(pixels.chunks_exact(frame[0] * 3)) {
                line[x * 3..][..from.len()].copy_from_slice(from);
            }
            pixels = canvas;
        }
        Ok(Rgb::new(self.size, pixels, memory))
    }

    /// A file of this image alone.
    fn simple_file(&self) -> Vec<u8> {
        let name = match self.kind {
            Kind::Lossy => b"VP8 ",
            Kind::Lossless => b"VP8L",
        };
        let size = self.image.len() as u32;
        let mut file = Vec::with_capacity(self.image.len() + 21);
        file.extend_from_slice(b"RIFF");
        file.extend_from_slice(&(12 + size + size % 2).to_le_bytes());
        file.extend_from_slice(b"WEBP");
        file.extend_from_slice(name);
        file.extend_from_slice(&size.to_le_bytes());
        file.extend_from_slice(self.image);
        file.resize(file.len() + self.image.len() % 2, 0);
        file
    }
}

/// The size that an image's own header gives.
fn image_size(kind: Kind, image: &[u8]) -> Option<[usize; 2]> {
    match kind {
        Kind::Lossy => {
            let sides = image.get(6..)?.first_chunk::<4>()?;
            let side = |low, high| usize::from(u16::from_le_bytes([low, high]) & 0x3FFF);
            Some([side(sides[0], sides[1]), side(sides[2], sides[3])])
        }
        Kind::Lossless => {
            let bits = u32::from_le_bytes(*image.get(1..)?.first_chunk()?) as usize;
            Some([(bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1])
        }
    }
}

fn u24(data: &[u8], at: usize) -> Option<usize> {
    let [low, middle, high] = *data.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes([low, middle, high, 0]) as usize)
}
