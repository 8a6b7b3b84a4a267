//! Which way up a PNG is: its chunks say it in several places, before or after the image, and Pillow looks at these.

use std::io::Read;

use flate2::read::ZlibDecoder;

use crate::orientation::Orientation;

/// Of what is packed, so much is unpacked: what is looked for stands in front.
const MOST: u64 = 256 << 10;

const RAW_EXIF: &[u8] = b"Raw profile type exif";
const XMP: &[u8] = b"XML:com.adobe.xmp";

pub(crate) fn orientation(file: &[u8]) -> Orientation {
    let (mut exif, mut raw, mut xmp) = (None, None, None);
    // Of several the last one counts.
    for (kind, data) in chunks(file) {
        match kind {
            b"eXIf" => exif = Some(data),
            b"tEXt" | b"zTXt" | b"iTXt" => match text(kind, data) {
                Some((RAW_EXIF, text)) => raw = Some(text),
                Some((XMP, text)) => xmp = Some(text),
                _ => {}
            },
            _ => {}
        }
    }
    let raw = raw.and_then(|text| unpack(&text));
    Orientation::of(exif.or(raw.as_deref()), xmp.as_deref())
}

/// A file's chunks, without their checksums.
fn chunks(file: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = file.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk()?;
        let (kind, after) = after.split_first_chunk()?;
        let (data, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rest = after.get(4..).unwrap_or_default();
        Some((kind, data))
    })
}

/// A text's keyword, and its beginning if it is one of those looked for.
fn text<'a>(kind: &[u8; 4], data: &'a [u8]) -> Option<(&'a [u8], Vec<u8>)> {
    let (keyword, data) = split(data)?;
    if ![RAW_EXIF, XMP].contains(&keyword) {
        return None;
    }
    let (is_packed, data) = match kind {
        b"tEXt" => (false, data),
        b"zTXt" => (true, data.strip_prefix(&[0])?),
        _ => {
            let ([packed, method], data) = data.split_first_chunk()?;
            let (_language, data) = split(data)?;
            let (_translated, data) = split(data)?;
            if *packed != 0 && *method != 0 {
                return None;
            }
            (*packed != 0, data)
        }
    };
    if !is_packed {
        return Some((keyword, data.to_vec()));
    }
    let mut text = Vec::new();
    // What could be unpacked of one that is damaged is not looked at.
    ZlibDecoder::new(data)
        .take(MOST)
        .read_to_end(&mut text)
        .ok()?;
    Some((keyword, text))
}

/// What stands before and after the first 0.
fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, data)?;
    Some((&data[..end], &data[end + 1..]))
}

/// Unpacks ImageMagick's profile: three lines of names and numbers, then bytes in hexadecimal.
fn unpack(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.splitn(4, |&byte| byte == b'\n');
    let digits: Vec<u8> = lines
        .last()?
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|&byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let (pairs, _) = digits.as_chunks::<2>();
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
