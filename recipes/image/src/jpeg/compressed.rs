//! Files that may travel compressed, to a device that decodes them: those of which every decoder thinks the same.
//!
//! That is a baseline frame of one scan, grey or with colours of the usual samplings, with all its tables, whole, and with an end
//! right after its data. Of anything else, an error included, the decoder beside this has the word.

use pulp::Arch;

use super::{
    Reading,
    colour::Colours,
    frame::{Frame, Scan},
    is_frame,
    scan::Data,
    segments::{self, Segments},
    tables::Tables,
    whole::Whole,
};
use crate::Bounds;

/// A device has room for a batch of such, and not for one of any size.
const MOST_PIXELS: usize = 8 << 20;
const MOST_SIDE: usize = 8192;
const BEGIN: [u8; 2] = [0xFF, 0xD8];
const BASELINE: u8 = 0xC0;
const QUANTISATION: u8 = 0xDB;

/// A file that is whole.
pub(crate) struct Compressed {
    /// Bytes from its begin to the picture's end.
    pub(crate) len: usize,
    /// Pixels as they are stored, across and down.
    pub(crate) size: [usize; 2],
}

impl Compressed {
    /// The file, if it is one of these.
    pub(crate) fn of(file: &[u8], bounds: &Bounds) -> Option<Self> {
        if !file.starts_with(&BEGIN) {
            return None;
        }
        let mut segments = Segments::new(file);
        let mut tables = Tables::new();
        let mut frame = None;
        let header = loop {
            let (marker, segment) = segments.next().ok()?;
            match marker {
                segments::SCAN => break segment,
                BASELINE if frame.is_none() && samplings_are_usual(segment) => {
                    frame = Some(Frame::new(segment, false).ok()?);
                }
                segments::END => return None,
                _ if is_frame(marker) => return None,
                QUANTISATION if !steps_are_bytes(segment) => return None,
                _ => tables.set(marker, segment).ok()?,
            }
        };
        let frame = frame?;
        bounds.check_size(frame.size()).ok()?;
        let [width, height] = frame.size();
        if width * height > MOST_PIXELS || width.max(height) > MOST_SIDE {
            return None;
        }
        let scan = Scan::new(header, &frame).ok()?;
        if !is_usual(&frame, &scan, &tables) {
            return None;
        }
        // What is walked through is a copy.
        let _memory = bounds
            .memory
            .reserve(file.len() as u64, bounds.wanted)
            .ok()?;
        let mut data = Data::new(file, segments.position());
        let walk = Reading {
            frame: &frame,
            scan: &scan,
            interval: tables.restart_interval,
            data: &mut data,
            blocks: Whole::new(&frame, &scan, &tables, bounds.wanted).ok()?,
        };
        Arch::new().dispatch(walk).ok()?;
        let len = data.end() + 2;
        let ends = file
            .get(data.end()..len)
            .is_some_and(|end| end == [0xFF, segments::END]);
        (ends && data.left() == 0).then_some(Self {
            len,
            size: frame.size(),
        })
    }
}

/// Whether a frame header lists a component as it is, or two colours at its resolution or at half of it.
fn samplings_are_usual(header: &[u8]) -> bool {
    let factors: Vec<u8> = header.iter().skip(7).step_by(3).copied().collect();
    matches!(&factors[..], [0x11] | [0x11 | 0x21 | 0x22, 0x11, 0x11])
}

/// Whether all tables of a segment have a byte for each step.
fn steps_are_bytes(segment: &[u8]) -> bool {
    segment.chunks(65).all(|table| table[0] >> 4 == 0)
}

/// Whether a scan has all components, in their order and whole, with tables that the file brings, and is what everybody takes it for.
fn is_usual(frame: &Frame, scan: &Scan, tables: &Tables) -> bool {
    let in_order = (0..frame.components.len()).eq(scan.parts.iter().map(|part| part.component));
    let tables_are_there = |part: &super::frame::Part| {
        part.dc_table.max(part.ac_table) < 2 && tables.are_listed(part.dc_table, part.ac_table)
    };
    let colours_are_clear = match Colours::new(frame, tables) {
        Colours::Grey => true,
        Colours::Ycc => {
            let named_rgb = frame.components.iter().map(|part| part.id).eq(*b"RGB");
            tables.adobe != Some(0) && !named_rgb
        }
        _ => false,
    };
    in_order
        && (scan.first, scan.last, scan.high, scan.low) == (0, 63, 0, 0)
        && scan.parts.iter().all(tables_are_there)
        && colours_are_clear
}

#[cfg(test)]
mod tests {
    use galley_core::MemoryBudget;

    use super::*;
    use crate::decode;

    fn bounds(memory: &MemoryBudget) -> Bounds<'_> {
        Bounds {
            max_pixels: 1 << 24,
            memory,
            wanted: &|| true,
        }
    }

    /// The length of a file of these that travels compressed.
    fn of(file: &[u8]) -> Option<usize> {
        Compressed::of(file, &bounds(&MemoryBudget::unlimited())).map(|compressed| compressed.len)
    }

    fn is_read(file: &[u8]) -> bool {
        decode(file, &bounds(&MemoryBudget::unlimited())).is_ok()
    }

    /// Grey, of two blocks.
    const SMALL: &[u8] = include_bytes!("../../tests/data/compressed/grey_16x8.jpg");
    /// Colours of half the resolution, a restart after every two MCUs.
    const COLOURED: &[u8] = include_bytes!("../../tests/data/compressed/colour_48x32.jpg");

    #[test]
    fn whole_files_of_the_usual_kind_travel() {
        for file in [SMALL, COLOURED, crate::EXAMPLE] {
            assert_eq!(of(file), Some(file.len()));
            assert!(is_read(file));
            // What stands behind the end stays here.
            let trailed = [file, b"and a maker's trailer \xFF\xD9"].concat();
            assert_eq!(of(&trailed), Some(file.len()));
        }
    }

    #[test]
    fn nothing_that_is_cut_off_travels() {
        for file in [SMALL, COLOURED] {
            for len in 0..file.len() {
                assert_eq!(of(&file[..len]), None, "{len} of {} bytes", file.len());
            }
        }
    }

    /// With any byte changed to any other of a few values: what travels is read here without an error.
    #[test]
    fn what_travels_is_read_here_too() {
        let mut travelled = 0;
        for file in [SMALL, COLOURED] {
            for at in 0..file.len() {
                for value in [
                    0x00,
                    0x01,
                    0x7F,
                    0xD0,
                    0xFF,
                    !file[at],
                    file[at] ^ 1,
                    file[at] ^ 0x10,
                ] {
                    let mut changed = file.to_vec();
                    changed[at] = value;
                    if of(&changed).is_some() {
                        travelled += 1;
                        assert!(is_read(&changed), "byte {at} made {value}");
                    }
                }
            }
        }
        assert!(travelled > 100, "{travelled} travelled");
    }

    #[test]
    fn bounds_are_those_of_the_decoder() {
        let memory = MemoryBudget::unlimited();
        let few = Bounds {
            max_pixels: 16 * 8 - 1,
            ..bounds(&memory)
        };
        assert!(Compressed::of(SMALL, &few).is_none());
        let unwanted = Bounds {
            wanted: &|| false,
            ..bounds(&memory)
        };
        assert!(Compressed::of(SMALL, &unwanted).is_none());
    }

    #[test]
    fn kinds_that_decoders_differ_on_stay_here() {
        let at = |marker: u8| {
            SMALL
                .windows(2)
                .position(|bytes| bytes == [0xFF, marker])
                .unwrap()
        };
        let changed = |at: usize, value: u8| {
            let mut file = SMALL.to_vec();
            file[at] = value;
            file
        };
        // Extended, and sampled for no reason: the decoder here reads both.
        for file in [
            changed(at(BASELINE) + 1, 0xC1),
            changed(at(BASELINE) + 11, 0x22),
        ] {
            assert!(is_read(&file));
            assert_eq!(of(&file), None);
        }
        // Without its Huffman tables, which are the usual ones, as motion pictures come.
        let (mut file, start) = (SMALL.to_vec(), at(0xC4));
        while file[start..start + 2] == [0xFF, 0xC4] {
            let len = usize::from(u16::from_be_bytes([file[start + 2], file[start + 3]]));
            file.drain(start..start + 2 + len);
        }
        assert!(is_read(&file));
        assert_eq!(of(&file), None);
    }
}
