//! Whether a scan is whole, without making samples of it: its codes are walked through to the end.
//!
//! A device's decoder takes what is missing for zeros and says nothing. What passes here the decoder beside it reads without an error
//! too; it may refuse a little more, for it knows a value's bits and not the value.

use std::{array::from_fn, sync::Arc};

use galley_nn::jpeg::Steps;

use super::{
    Damage,
    bits::Bits,
    frame::{Frame, Part, Scan},
    huffman::{Huffman, Pairs},
    scan::Blocks,
    sequential::{TOO_LARGE, difference},
    tables::Tables,
};

/// What one of a scan's components is read with.
struct Reader<'a> {
    dc: &'a Huffman,
    ac: &'a Huffman,
    pairs: Arc<Pairs>,
    /// The bits that each coefficient's value may have, in the order in which they come.
    bits: [u8; 64],
    /// The fewest of these.
    fewest: u32,
    /// What the first coefficient is multiplied by.
    step: i32,
    /// The last block's first coefficient.
    dc_before: i32,
}

/// A walk through a scan.
pub(super) struct Whole<'a> {
    readers: Vec<Reader<'a>>,
    wanted: &'a dyn Fn() -> bool,
}

impl<'a> Whole<'a> {
    pub(super) fn new(
        frame: &Frame,
        scan: &Scan,
        tables: &'a Tables,
        wanted: &'a dyn Fn() -> bool,
    ) -> Result<Self, Damage> {
        let mut made: [Option<Arc<Pairs>>; 4] = Default::default();
        let reader = |part: &Part| -> Result<Reader<'a>, Damage> {
            let steps = tables.steps(&frame.components[part.component])?;
            let ac = tables.ac(part.ac_table)?;
            let pairs = made[part.ac_table].get_or_insert_with(|| Pairs::of(ac));
            let bits: [u8; 64] = from_fn(|k| Steps::bits(steps.step(k)));
            Ok(Reader {
                dc: tables.dc(part.dc_table)?,
                ac,
                pairs: Arc::clone(pairs),
                bits,
                fewest: bits[1..].iter().copied().min().unwrap_or(0).into(),
                step: steps.step(0),
                dc_before: 0,
            })
        };
        Ok(Self {
            readers: scan.parts.iter().map(reader).collect::<Result<_, _>>()?,
            wanted,
        })
    }
}

impl Blocks for Whole<'_> {
    #[inline(always)]
    fn read(&mut self, bits: &mut Bits, part: usize, _: [usize; 2]) -> Result<(), Damage> {
        self.readers[part].block(bits)
    }

    fn restart(&mut self) {
        for reader in &mut self.readers {
            reader.dc_before = 0;
        }
    }

    fn end_row(&mut self, _: usize) -> Result<(), Damage> {
        super::go_on(self.wanted)
    }
}

impl Reader<'_> {
    #[inline(always)]
    fn block(&mut self, bits: &mut Bits) -> Result<(), Damage> {
        self.dc_before += difference(bits, self.dc)?;
        if self.dc_before.abs() > 2047 || !Steps::fits(self.dc_before * self.step) {
            return Err(TOO_LARGE);
        }
        let mut k = 1;
        loop {
            bits.fill();
            // Nearly all is passed here; the block's last coefficient and the end of the block after it never are at once.
            if let Some((coefficients, ends)) = self.pairs.pass(bits, 63 - k, self.fewest) {
                k += coefficients;
                if ends {
                    return Ok(());
                }
                continue;
            }
            let (zeros, size) = self.ac.pass(bits)?;
            k += zeros;
            if k > 63 {
                return match size {
                    0 => Ok(()),
                    _ => Err(Damage("a block has more than 64 coefficients")),
                };
            }
            if size > u32::from(self.bits[k]) {
                return Err(TOO_LARGE);
            }
            k += 1;
            if k > 63 {
                return Ok(());
            }
        }
    }
}
