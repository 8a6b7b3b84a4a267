//! EXIF: a TIFF file without an image, of which one tag matters here.

const ORIENTATION: u16 = 0x0112;

/// The orientation's number, in whichever type it stands.
pub(super) fn orientation(mut exif: &[u8]) -> Option<u64> {
    // Some writers put the header before what has one already.
    for _ in 0..2 {
        exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    }
    let file = Tiff::new(exif)?;
    let entries = file.u32(4)? as usize;
    let count = usize::from(file.u16(entries)?);
    (0..count)
        .map(|i| entries + 2 + 12 * i)
        .find(|&entry| file.u16(entry) == Some(ORIENTATION))
        .and_then(|entry| file.number(entry))
}

struct Tiff<'a> {
    bytes: &'a [u8],
    is_little: bool,
}

impl<'a> Tiff<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let is_little = match bytes.get(..4)? {
            b"II*\0" => true,
            b"MM\0*" => false,
            _ => return None,
        };
        Some(Self { bytes, is_little })
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.array(at)?;
        Some(match self.is_little {
            true => u16::from_le_bytes(bytes),
            false => u16::from_be_bytes(bytes),
        })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.array(at)?;
        Some(match self.is_little {
            true => u32::from_le_bytes(bytes),
            false => u32::from_be_bytes(bytes),
        })
    }

    /// The one whole number of an entry.
    fn number(&self, entry: usize) -> Option<u64> {
        if self.u32(entry + 4)? != 1 {
            return None;
        }
        let value = entry + 8;
        match self.u16(entry + 2)? {
            // Shorts and longs; those with a sign are never below 0 here. Pillow takes bytes without one for text.
            6 => self.array::<1>(value).map(|[byte]| u64::from(byte)),
            3 | 8 => self.u16(value).map(u64::from),
            4 | 9 | 13 => self.u32(value).map(u64::from),
            5 | 10 => {
                let at = self.u32(value)? as usize;
                let (over, under) = (self.u32(at)?, self.u32(at + 4)?);
                (under != 0 && over % under == 0).then(|| u64::from(over / under))
            }
            _ => None,
        }
    }
}
