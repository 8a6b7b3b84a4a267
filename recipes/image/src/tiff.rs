//! TIFF: the first image, strip by strip or tile by tile.

mod directory;
mod samples;

use std::io::Cursor;

use galley_core::InputError;
use tiff::{
    decoder::{Decoder, Limits},
    tags::Tag,
};

use self::samples::Samples;
use crate::{Rgb, bounds::Bounds, orientation::Orientation, unreadable};

/// The most values of a tag: so many strips are more than anybody writes.
const VALUES: u64 = 1 << 17;
/// What that many take in the decoder.
const VALUES_SIZE: usize = 32 * VALUES as usize;
/// What directories and decompressors take at most.
const OVERHEAD: usize = 3 * VALUES_SIZE;

type Reader<'a> = Decoder<Cursor<&'a [u8]>>;

fn open(file: &[u8]) -> Result<Reader<'_>, InputError> {
    directory::check(file)?;
    let mut limits = Limits::default();
    limits.ifd_value_size = VALUES_SIZE;
    // Values count as what is decoded; strips go into buffers of ours.
    limits.decoding_buffer_size = VALUES_SIZE;
    limits.intermediate_buffer_size = usize::MAX;
    let decoder = Decoder::new(Cursor::new(file)).map_err(unreadable)?;
    Ok(decoder.with_limits(limits))
}

pub(crate) fn orientation(file: &[u8]) -> Orientation {
    let Ok(mut decoder) = open(file) else {
        return Orientation::default();
    };
    if let Ok(Some(number)) = decoder.find_tag_unsigned(Tag::Orientation) {
        return Orientation::new(number);
    }
    let xmp = decoder.get_tag_u8_vec(Tag::Unknown(700)).ok();
    Orientation::of(None, xmp.as_deref())
}

pub(crate) fn decode(file: &[u8], bounds: &Bounds, swapped: bool) -> Result<Rgb, InputError> {
    let mut named = open(file)?;
    let (width, height) = named.dimensions().map_err(unreadable)?;
    let size = [width as usize, height as usize];
    bounds.check_size(size)?;
    let samples = Samples::of(&mut named)?;
    let plain = directory::with_meaning(file, samples::GREY)?;
    let mut decoder = open(&plain)?;
    let chunk = decoder.chunk_dimensions();
    let chunk = [chunk.0 as usize, chunk.1 as usize];
    let chunk_bytes = samples.bytes(chunk);
    let work = chunk_bytes.saturating_add(OVERHEAD as u64 + file.len() as u64);
    let memory = bounds.reserve(size, work, swapped)?;

    let across = size[0].div_ceil(chunk[0]);
    let a_plane = across * size[1].div_ceil(chunk[1]);
    let mut pixels = vec![0; size[0] * size[1] * 3];
    let mut values = Vec::new();
    for index in 0..a_plane * samples.planes() {
        bounds.go_on()?;
        let number = u32::try_from(index).map_err(unreadable)?;
        let layout = decoder
            .image_chunk_buffer_layout(number)
            .map_err(unreadable)?;
        if layout.len as u64 > chunk_bytes {
            return Err(unreadable("a strip is larger than its size"));
        }
        values.clear();
        values.resize(layout.len, 0);
        decoder
            .read_chunk_bytes(number, &mut values)
            .map_err(unreadable)?;
        let place = index % a_plane;
        let (x, y) = (place % across * chunk[0], place / across * chunk[1]);
        let stride = layout
            .row_stride
            .map_or(values.len(), |stride| stride.get());
        let lines = pixels.chunks_exact_mut(size[0] * 3).skip(y);
        for (line, values) in lines.zip(values.chunks(stride)) {
            let end = size[0].min(x + chunk[0]);
            let (to, _) = line[x * 3..end * 3].as_chunks_mut::<3>();
            samples.write(values, index / a_plane, to);
        }
    }
    Ok(Rgb::new(size, pixels, memory))
}
