//! What the segments between a file's markers set: tables, restart intervals, the kind of colours.

use galley_nn::jpeg::Steps;

use super::{
    Damage,
    frame::Component,
    huffman::{self, Huffman},
};

/// What has been set so far.
pub(super) struct Tables {
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    steps: [Option<Steps>; 4],
    /// The Huffman tables that the file brings, a bit each by its kind.
    listed: u32,
    /// MCUs between two restart markers, or 0.
    pub(super) restart_interval: usize,
    /// Whether there is a JFIF segment.
    pub(super) is_jfif: bool,
    /// What Adobe's segment says of the colours.
    pub(super) adobe: Option<u8>,
}

impl Tables {
    pub(super) fn new() -> Self {
        Self {
            dc: std::array::from_fn(|slot| huffman::usual(false, slot)),
            ac: std::array::from_fn(|slot| huffman::usual(true, slot)),
            steps: [const { None }; 4],
            listed: 0,
            restart_interval: 0,
            is_jfif: false,
            adobe: None,
        }
    }

    /// Takes the segment of a marker, if it is one of these.
    pub(super) fn set(&mut self, marker: u8, segment: &[u8]) -> Result<(), Damage> {
        match marker {
            0xC4 => self.set_huffman(segment),
            0xDB => self.set_quantisation(segment),
            0xDD => {
                let &[high, low] = segment else {
                    return Err(Damage("a restart interval is not of two bytes"));
                };
                self.restart_interval = usize::from(u16::from_be_bytes([high, low]));
                Ok(())
            }
            0xE0 => {
                self.is_jfif |= segment.len() >= 14 && segment.starts_with(b"JFIF\0");
                Ok(())
            }
            0xEE => {
                if segment.len() >= 12 && segment.starts_with(b"Adobe") {
                    self.adobe = Some(segment[11]);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn set_huffman(&mut self, mut rest: &[u8]) -> Result<(), Damage> {
        let wrong = Damage("a Huffman table is cut short");
        while let Some((&kind, after)) = rest.split_first() {
            let (counts, after) = after.split_first_chunk::<16>().ok_or(wrong)?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, after) = after.split_at_checked(total).ok_or(wrong)?;
            rest = after;
            let tables = if kind < 16 {
                &mut self.dc
            } else {
                &mut self.ac
            };
            match tables.get_mut(usize::from(kind & 15)) {
                Some(table) if kind < 32 => {
                    *table = Some(Huffman::new(counts, symbols)?);
                    self.listed |= 1 << kind;
                }
                _ => return Err(Damage("a Huffman table has an impossible number")),
            }
        }
        Ok(())
    }

    fn set_quantisation(&mut self, mut rest: &[u8]) -> Result<(), Damage> {
        let wrong = Damage("a quantisation table is cut short");
        while let Some((&kind, after)) = rest.split_first() {
            let wide = kind >> 4 != 0;
            let size = if wide { 128 } else { 64 };
            let (values, after) = after.split_at_checked(size).ok_or(wrong)?;
            rest = after;
            let steps = self
                .steps
                .get_mut(usize::from(kind & 15))
                .ok_or(Damage("a quantisation table has an impossible number"))?;
            *steps = Some(Steps::new(&std::array::from_fn(|k| match wide {
                true => u16::from_be_bytes([values[2 * k], values[2 * k + 1]]),
                false => u16::from(values[k]),
            })));
        }
        Ok(())
    }

    /// Whether the file brings both of these tables.
    pub(super) fn are_listed(&self, dc: usize, ac: usize) -> bool {
        let both = 1 << dc | 1 << (16 + ac);
        self.listed & both == both
    }

    pub(super) fn dc(&self, number: usize) -> Result<&Huffman, Damage> {
        let table = self.dc[number].as_ref();
        table.ok_or(Damage("a Huffman table is missing"))
    }

    pub(super) fn ac(&self, number: usize) -> Result<&Huffman, Damage> {
        let table = self.ac[number].as_ref();
        table.ok_or(Damage("a Huffman table is missing"))
    }

    pub(super) fn steps(&self, component: &Component) -> Result<&Steps, Damage> {
        let steps = self.steps[component.quantisation].as_ref();
        steps.ok_or(Damage("a quantisation table is missing"))
    }
}
