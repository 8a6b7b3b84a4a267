//! JPEG: baseline, extended and progressive frames of eight bits, in any order of scans and any sampling.
//!
//! It is our own because no decoder was right. The fastest shows half a picture where a scan's data ends early, mixes up
//! components that come in scans of their own, and refuses what all others read; libjpeg-turbo is fast only
//! where an assembler is installed. This one gives libjpeg-turbo's pixels to the bit, or none: whatever a scan lacks, or
//! has too much of before its end, is an error. Reading ends where the picture is complete, so that what comes after it
//! (nothing, a maker's trailer, another picture) does not matter.

mod bits;
pub(crate) mod colour;
mod compressed;
mod frame;
mod huffman;
mod picture;
mod progressive;
mod scale;
mod scan;
pub(crate) mod segments;
mod sequential;
mod tables;
mod whole;

use galley_core::InputError;

pub(crate) use self::compressed::Compressed;
use self::{
    colour::Colours,
    frame::{Frame, Scan},
    picture::{Picture, Planes, planes_size},
    progressive::{Coefficients, Progressive, Showing},
    scan::{Data, Reading},
    segments::Segments,
    sequential::Sequential,
    tables::Tables,
};
use crate::{Rgb, bounds::Bounds, orientation::Orientation, unreadable};

/// No encoding needs fewer bytes: a block of 64 pixels takes a bit at least. A short file with a long claim is so
/// refused before memory is taken for it.
const MAX_PIXELS_PER_BYTE: usize = 1024;

/// A progressive frame goes over all its blocks once a scan; encoders write about ten. Small ones may have as many as
/// there can be.
const MAX_SCANS: usize = 100;
const SMALL: usize = 1 << 16;

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damage(&'static str);

impl From<Damage> for InputError {
    fn from(damage: Damage) -> Self {
        unreadable(damage)
    }
}

/// Which way up it is, by what stands before its first scan.
pub(crate) fn orientation(file: &[u8]) -> Orientation {
    const EXIF: &[u8] = b"Exif\0\0";
    const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
    let mut segments = Segments::new(file);
    let (mut exif, mut xmp) = (Vec::new(), None);
    while let Ok((marker, segment)) = segments.next() {
        match marker {
            segments::SCAN | segments::END => break,
            // One that is too long for a segment goes on in the next.
            0xE1 if segment.starts_with(EXIF) => {
                exif.extend_from_slice(&segment[if exif.is_empty() { 0 } else { EXIF.len() }..]);
            }
            0xE1 => xmp = segment.strip_prefix(XMP).or(xmp),
            _ => {}
        }
    }
    Orientation::of(Some(&exif), xmp)
}

fn go_on(wanted: &dyn Fn() -> bool) -> Result<(), Damage> {
    if wanted() {
        Ok(())
    } else {
        Err(Damage("nobody waits for it any more"))
    }
}

/// Decodes a file. `swapped` says that its sides will change places.
pub(crate) fn decode(file: &[u8], bounds: &Bounds, swapped: bool) -> Result<Rgb, InputError> {
    let mut segments = Segments::new(file);
    let mut tables = Tables::new();
    let frame = read_frame(&mut segments, &mut tables)?;
    bounds.check_size(frame.size())?;
    if frame.width * frame.height / MAX_PIXELS_PER_BYTE > file.len() {
        return Err(Damage("the file ends too early").into());
    }
    let scan = read_to_scan(&mut segments, &mut tables, &frame)?;
    let way = Way::of(&frame, &scan);
    let memory = way.memory(&frame) + file.len() as u64;
    let memory = bounds.reserve(frame.size(), memory, swapped)?;
    let picture = Picture::new(&frame, Colours::new(&frame, &tables), bounds.wanted);
    let reader = Reader {
        file,
        segments,
        tables,
        frame: &frame,
        wanted: bounds.wanted,
    };
    let pixels = match way {
        Way::OneScan => reader.one_scan(&scan, picture),
        Way::Scans => reader.scans(scan, picture),
        Way::Progressive => reader.progressive(scan, picture),
    }?;
    Ok(Rgb::new(frame.size(), pixels, memory))
}

/// Reads as far as the frame header.
fn read_frame(segments: &mut Segments, tables: &mut Tables) -> Result<Frame, InputError> {
    loop {
        let (marker, segment) = segments.next()?;
        match marker {
            0xC0..=0xC2 => return Frame::new(segment, marker == 0xC2).map_err(unreadable),
            segments::SCAN | segments::END => {
                return Err(Damage("there is no frame header").into());
            }
            _ if is_frame(marker) => return Err(unreadable(other_kind(marker))),
            _ => tables.set(marker, segment)?,
        }
    }
}

/// Whether a marker begins a frame of any kind.
fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
}

/// The kinds that are not read.
fn other_kind(marker: u8) -> &'static str {
    match marker {
        0xC3 => "expected a baseline or progressive JPEG, got a lossless one",
        0xC9..=0xCB => "expected a Huffman-coded JPEG, got an arithmetic-coded one",
        _ => "expected a baseline or progressive JPEG, got a hierarchical one",
    }
}

/// Reads as far as the next scan.
fn read_to_scan(
    segments: &mut Segments,
    tables: &mut Tables,
    frame: &Frame,
) -> Result<Scan, Damage> {
    loop {
        let (marker, segment) = segments.next()?;
        match marker {
            segments::SCAN => return Scan::new(segment, frame),
            segments::END => return Err(Damage("the file ends too early")),
            _ if is_frame(marker) => return Err(Damage("there are two frame headers")),
            _ => tables.set(marker, segment)?,
        }
    }
}

/// How a file is coded.
enum Way {
    /// All components in one scan, in whole blocks.
    OneScan,
    /// In whole blocks, in several scans.
    Scans,
    Progressive,
}

impl Way {
    fn of(frame: &Frame, first: &Scan) -> Self {
        if frame.is_progressive {
            Self::Progressive
        } else if first.parts.len() == frame.components.len() {
            Self::OneScan
        } else {
            Self::Scans
        }
    }

    /// Bytes that it takes beside the pixels.
    fn memory(&self, frame: &Frame) -> u64 {
        let coefficients = match self {
            Self::Progressive => planes_size(frame, true) * size_of::<i16>() as u64,
            _ => 0,
        };
        coefficients + planes_size(frame, matches!(self, Self::Scans))
    }
}

/// A file whose frame has been read.
struct Reader<'a> {
    file: &'a [u8],
    segments: Segments<'a>,
    tables: Tables,
    frame: &'a Frame,
    wanted: &'a dyn Fn() -> bool,
}

impl<'a> Reader<'a> {
    fn one_scan(mut self, scan: &Scan, mut picture: Picture<'a>) -> Result<Vec<u8>, Damage> {
        let mut planes = picture.few_rows();
        self.sequential(scan, &mut planes, Some(&mut picture))?;
        Ok(picture.into_pixels())
    }

    fn scans(mut self, mut scan: Scan, mut picture: Picture<'a>) -> Result<Vec<u8>, Damage> {
        let mut planes = picture.all_rows();
        let mut missing: Vec<usize> = (0..self.frame.components.len()).collect();
        loop {
            let before = missing.len();
            missing.retain(|c| scan.parts.iter().all(|part| part.component != *c));
            if before - missing.len() != scan.parts.len() {
                return Err(Damage("a component is there twice"));
            }
            self.sequential(&scan, &mut planes, None)?;
            if missing.is_empty() {
                break;
            }
            scan = read_to_scan(&mut self.segments, &mut self.tables, self.frame)?;
        }
        picture.show(&planes)?;
        Ok(picture.into_pixels())
    }

    /// Reads a scan of whole blocks.
    fn sequential(
        &mut self,
        scan: &Scan,
        planes: &mut Planes,
        picture: Option<&mut Picture<'a>>,
    ) -> Result<(), Damage> {
        let frame = self.frame;
        let mut data = Data::new(self.file, self.segments.position());
        let wanted = self.wanted;
        pulp::Arch::new().dispatch(Reading {
            frame,
            scan,
            interval: self.tables.restart_interval,
            data: &mut data,
            blocks: Sequential::new(frame, scan, &self.tables, planes, picture, wanted)?,
        })?;
        self.segments.seek(data.end());
        Ok(())
    }

    fn progressive(mut self, mut scan: Scan, mut picture: Picture<'a>) -> Result<Vec<u8>, Damage> {
        let frame = self.frame;
        let mut all: Vec<_> = frame.components.iter().map(Coefficients::new).collect();
        let blocks: usize = frame.components.iter().map(|c| c.padded_blocks()).sum();
        let mut work = 0;
        loop {
            work += blocks;
            if work > MAX_SCANS * blocks.max(SMALL) {
                return Err(Damage("it has too many scans"));
            }
            let mut data = Data::new(self.file, self.segments.position());
            let tables = &self.tables;
            pulp::Arch::new().dispatch(Reading {
                frame,
                scan: &scan,
                interval: tables.restart_interval,
                data: &mut data,
                blocks: Progressive::new(frame, &scan, tables, &mut all, self.wanted)?,
            })?;
            self.segments.seek(data.end());
            if all.iter().all(Coefficients::are_complete) {
                break;
            }
            scan = read_to_scan(&mut self.segments, &mut self.tables, frame)?;
        }
        pulp::Arch::new().dispatch(Showing {
            frame,
            all: &all,
            picture: &mut picture,
        })?;
        Ok(picture.into_pixels())
    }
}
