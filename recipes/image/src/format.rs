//! What kind of file it is, by its first bytes.

use galley_core::InputError;

/// The formats that are read.
pub const FORMATS: &str = "JPEG, PNG, WebP, GIF, BMP or TIFF";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    /// A file's format; one that is not read is named.
    pub(crate) fn of(file: &[u8]) -> Result<Self, InputError> {
        let got = match file {
            [0xFF, 0xD8, ..] => return Ok(Self::Jpeg),
            [b'B', b'M', ..] => return Ok(Self::Bmp),
            _ if file.starts_with(b"\x89PNG\r\n\x1a\n") => return Ok(Self::Png),
            _ if file.starts_with(b"GIF87a") || file.starts_with(b"GIF89a") => {
                return Ok(Self::Gif);
            }
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => {
                return Ok(Self::WebP);
            }
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => return Ok(Self::Tiff),
            [] => "an empty file",
            _ => name(file).unwrap_or("a file of another kind"),
        };
        Err(InputError::Unreadable(format!(
            "expected a {FORMATS} image, got {got}"
        )))
    }
}

/// A format that is known and not read.
fn name(file: &[u8]) -> Option<&'static str> {
    match file {
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Some("JPEG XL"),
        [0xFF, 0x4F, 0xFF, 0x51, ..] | [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] => {
            Some("JPEG 2000")
        }
        [s3, s2, s1, s0, b'f', b't', b'y', b'p', brands @ ..] => {
            // The brands that it conforms to, after the first one's version.
            let size = u32::from_be_bytes([*s3, *s2, *s1, *s0]) as usize;
            let brands = &brands[..brands.len().min(size.saturating_sub(8))];
            let has = |names: &[&[u8; 4]]| {
                let (brands, _) = brands.as_chunks::<4>();
                names.iter().any(|name| brands.contains(name))
            };
            if has(&[b"avif", b"avis"]) {
                Some("AVIF")
            } else if has(&[
                b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1",
            ]) {
                Some("HEIC")
            } else {
                None
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_that_are_not_read_are_named() {
        let files: [(&[u8], &str); 10] = [
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix", "HEIC"),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
            (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B", "AVIF"),
            (b"\xff\x0a\xfa\x7f", "JPEG XL"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
            (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
            (
                b"\0\0\0\x18ftypisom\0\0\0\0isomavc1",
                "a file of another kind",
            ),
            (b"", "an empty file"),
        ];
        for (file, name) in files {
            let error = Format::of(file).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("expected a JPEG, PNG, WebP, GIF, BMP or TIFF image, got {name}")
            );
        }
    }
}
