//! What a frame's and a scan's headers say.

use super::Damage;

/// The frame: sizes, and components in the order of their listing.
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) is_progressive: bool,
    pub(super) components: Vec<Component>,
    /// The largest factors of sampling.
    pub(super) h_max: usize,
    pub(super) v_max: usize,
}

/// A component: brightness, or a colour.
#[derive(Clone, Debug)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Factors of sampling: blocks of an MCU, across and down.
    pub(super) h: usize,
    pub(super) v: usize,
    /// Its table of quantisation.
    pub(super) quantisation: usize,
    /// Its own size in samples.
    pub(super) width: usize,
    pub(super) height: usize,
    /// The blocks of whole MCUs.
    pub(super) padded_columns: usize,
    pub(super) padded_rows: usize,
}

impl Component {
    /// The blocks that a scan of this component alone has.
    pub(super) fn blocks(&self) -> [usize; 2] {
        [self.width.div_ceil(8), self.height.div_ceil(8)]
    }

    pub(super) fn padded_blocks(&self) -> usize {
        self.padded_columns * self.padded_rows
    }
}

impl Frame {
    /// Reads a frame header of eight-bit samples.
    pub(super) fn new(header: &[u8], is_progressive: bool) -> Result<Self, String> {
        let short = || Damage("the frame header is cut short").to_string();
        let Some(([precision, h1, h0, w1, w0, count], listed)) = header.split_first_chunk() else {
            return Err(short());
        };
        let (height, width) = (
            usize::from(u16::from_be_bytes([*h1, *h0])),
            usize::from(u16::from_be_bytes([*w1, *w0])),
        );
        if *precision != 8 {
            return Err(format!("expected a JPEG of 8 bits, got one of {precision}"));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(format!(
                "expected a JPEG of 1, 3 or 4 components, got one of {count}"
            ));
        }
        if listed.len() != 3 * usize::from(*count) {
            return Err(short());
        }
        let mut frame = Self {
            width,
            height,
            is_progressive,
            components: Vec::with_capacity(4),
            h_max: 1,
            v_max: 1,
        };
        for part in listed.chunks_exact(3) {
            let (mut h, mut v) = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
            if !(1..=4).contains(&h) || !(1..=4).contains(&v) || part[2] > 3 {
                return Err(Damage("a component has impossible factors or tables").to_string());
            }
            if frame.components.iter().any(|other| other.id == part[0]) {
                return Err(Damage("two components have one name").to_string());
            }
            // Where there is but one, it is never sampled down.
            if *count == 1 {
                (h, v) = (1, 1);
            }
            (frame.h_max, frame.v_max) = (frame.h_max.max(h), frame.v_max.max(v));
            frame.components.push(Component {
                id: part[0],
                h,
                v,
                quantisation: usize::from(part[2]),
                width: 0,
                height: 0,
                padded_columns: 0,
                padded_rows: 0,
            });
        }
        let [across, down] = frame.mcus();
        for part in &mut frame.components {
            if !frame.h_max.is_multiple_of(part.h) || !frame.v_max.is_multiple_of(part.v) {
                return Err("its components are sampled at a fraction of each other".into());
            }
            part.width = (width * part.h).div_ceil(frame.h_max);
            part.height = (height * part.v).div_ceil(frame.v_max);
            part.padded_columns = across * part.h;
            part.padded_rows = down * part.v;
        }
        Ok(frame)
    }

    pub(super) fn size(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    /// How many there are across and down.
    pub(super) fn mcus(&self) -> [usize; 2] {
        [
            self.width.div_ceil(8 * self.h_max),
            self.height.div_ceil(8 * self.v_max),
        ]
    }
}

/// A scan's header.
pub(super) struct Scan {
    pub(super) parts: Vec<Part>,
    /// The coefficients that it brings, in zigzag order.
    pub(super) first: usize,
    pub(super) last: usize,
    /// The lowest bit that is known already, and that it brings. 0 and 0 where it brings all.
    pub(super) high: u8,
    pub(super) low: u8,
}

/// A component's part in a scan.
pub(super) struct Part {
    /// Its place in the frame.
    pub(super) component: usize,
    pub(super) dc_table: usize,
    pub(super) ac_table: usize,
}

impl Scan {
    pub(super) fn new(header: &[u8], frame: &Frame) -> Result<Self, Damage> {
        let wrong = Damage("a scan header is wrong");
        let (&count, rest) = header.split_first().ok_or(wrong)?;
        let (listed, rest) = rest.split_at_checked(2 * usize::from(count)).ok_or(wrong)?;
        let &[first, last, bits] = rest else {
            return Err(wrong);
        };
        let mut parts: Vec<Part> = Vec::with_capacity(4);
        for part in listed.chunks_exact(2) {
            let mut all = frame.components.iter();
            let component = all.position(|other| other.id == part[0]).ok_or(wrong)?;
            let (dc_table, ac_table) = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
            if parts.iter().any(|other| other.component == component)
                || dc_table > 3
                || ac_table > 3
            {
                return Err(wrong);
            }
            parts.push(Part {
                component,
                dc_table,
                ac_table,
            });
        }
        let blocks = parts.iter().map(|part| &frame.components[part.component]);
        let blocks: usize = blocks.map(|component| component.h * component.v).sum();
        if parts.is_empty() || parts.len() > 1 && blocks > 10 {
            return Err(wrong);
        }
        let scan = Self {
            parts,
            first: usize::from(first),
            last: usize::from(last),
            high: bits >> 4,
            low: bits & 15,
        };
        if frame.is_progressive {
            let alone = scan.parts.len() == 1;
            let bands = if first == 0 {
                last == 0
            } else {
                alone && first <= last && last < 64
            };
            if !bands || scan.low > 13 || scan.high > 0 && scan.high != scan.low + 1 {
                return Err(wrong);
            }
        }
        Ok(scan)
    }
}
