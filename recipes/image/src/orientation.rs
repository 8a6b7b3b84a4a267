//! Which way up an image is, as Pillow's `exif_transpose` sees it: by EXIF's tag, or else by XMP's.

mod exif;
mod xmp;

/// How an image that is stored becomes the one that is shown: first turned upside down and mirrored, then its sides
/// swapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Orientation {
    /// The first line becomes the last.
    pub(crate) upside_down: bool,
    /// The first pixel of a line becomes the last.
    pub(crate) mirrored: bool,
    /// Lines become columns.
    pub(crate) swapped: bool,
}

impl Orientation {
    /// By the number that EXIF has for it. Unknown ones turn nothing.
    pub(crate) fn new(number: u64) -> Self {
        let (upside_down, mirrored, swapped) = match number {
            2 => (false, true, false),
            3 => (true, true, false),
            4 => (true, false, false),
            5 => (false, false, true),
            6 => (true, false, true),
            7 => (true, true, true),
            8 => (false, true, true),
            _ => (false, false, false),
        };
        Self {
            upside_down,
            mirrored,
            swapped,
        }
    }

    /// By an image's metadata, where there are any. EXIF's word counts, and XMP's where EXIF has none.
    pub(crate) fn of(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Self {
        let number = exif
            .and_then(exif::orientation)
            .or_else(|| xmp.and_then(xmp::orientation));
        number.map_or_else(Self::default, Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rgb;

    /// Where the pixels of an image of 3 by 2 are, by EXIF's definitions.
    #[test]
    fn the_eight_ways() {
        let expected: [(u64, usize, &[u8]); 8] = [
            (1, 3, b"abcdef"),
            (2, 3, b"cbafed"),
            (3, 3, b"fedcba"),
            (4, 3, b"defabc"),
            (5, 2, b"adbecf"),
            (6, 2, b"daebfc"),
            (7, 2, b"fcebda"),
            (8, 2, b"cfbead"),
        ];
        for (number, width, letters) in expected {
            let stored = b"abcdef".iter().flat_map(|&letter| [letter; 3]).collect();
            let shown = Rgb::of_pixels(3, 2, stored).turned(Orientation::new(number));
            let read: Vec<u8> = shown.pixels.iter().step_by(3).copied().collect();
            assert_eq!((shown.width, &read[..]), (width, letters), "{number}");
        }
    }
}
