//! Blocks that come whole, one after another: baseline and extended frames.

use galley_nn::jpeg::{Block, Kernels, PLACES, Steps};

use super::{
    Damage,
    bits::Bits,
    frame::{Frame, Part, Scan},
    huffman::{END, Huffman, extend},
    picture::{Picture, Planes},
    scan::Blocks,
    tables::Tables,
};

pub(super) const TOO_LARGE: Damage = Damage("a coefficient is larger than any of 8 bits");

/// What one of a scan's components is read with.
struct Reader<'a> {
    component: usize,
    dc: &'a Huffman,
    ac: &'a Huffman,
    steps: &'a Steps,
    /// The last block's first coefficient.
    dc_before: i32,
}

/// A scan, read into samples.
pub(super) struct Sequential<'a, 'b, 'c> {
    kernels: Kernels,
    readers: Vec<Reader<'a>>,
    planes: &'b mut Planes,
    /// Takes what is complete, where the scan has all components.
    picture: Option<&'b mut Picture<'c>>,
    wanted: &'b dyn Fn() -> bool,
}

impl<'a, 'b, 'c> Sequential<'a, 'b, 'c> {
    pub(super) fn new(
        frame: &Frame,
        scan: &Scan,
        tables: &'a Tables,
        planes: &'b mut Planes,
        picture: Option<&'b mut Picture<'c>>,
        wanted: &'b dyn Fn() -> bool,
    ) -> Result<Self, Damage> {
        let reader = |part: &Part| -> Result<Reader<'a>, Damage> {
            Ok(Reader {
                component: part.component,
                dc: tables.dc(part.dc_table)?,
                ac: tables.ac(part.ac_table)?,
                steps: tables.steps(&frame.components[part.component])?,
                dc_before: 0,
            })
        };
        Ok(Self {
            kernels: Kernels::default(),
            readers: scan.parts.iter().map(reader).collect::<Result<_, _>>()?,
            planes,
            picture,
            wanted,
        })
    }
}

impl Blocks for Sequential<'_, '_, '_> {
    #[inline(always)]
    fn read(&mut self, bits: &mut Bits, part: usize, at: [usize; 2]) -> Result<(), Damage> {
        let reader = &mut self.readers[part];
        let mut block: Block = [0; 64];
        let is_flat = reader.block(bits, &mut block)?;
        let plane = &mut self.planes[reader.component];
        plane.write(self.kernels, &block, is_flat, reader.steps, at)
    }

    fn restart(&mut self) {
        for reader in &mut self.readers {
            reader.dc_before = 0;
        }
    }

    #[inline(always)]
    fn end_row(&mut self, row: usize) -> Result<(), Damage> {
        match &mut self.picture {
            Some(picture) => picture.row_is_there(self.planes, row),
            None => super::go_on(self.wanted),
        }
    }
}

/// What a first coefficient differs by from the one before.
#[inline(always)]
pub(super) fn difference(bits: &mut Bits, table: &Huffman) -> Result<i32, Damage> {
    bits.fill();
    let size = table.symbol(bits)?;
    if size > 11 {
        return Err(TOO_LARGE);
    }
    Ok(extend(bits.take(size), size))
}

impl Reader<'_> {
    /// Reads a block, and tells whether it has no coefficient but the first.
    #[inline(always)]
    fn block(&mut self, bits: &mut Bits, block: &mut Block) -> Result<bool, Damage> {
        self.dc_before += difference(bits, self.dc)?;
        if self.dc_before.abs() > 2047 {
            return Err(TOO_LARGE);
        }
        block[0] = self.dc_before as i16;
        let mut k = 1;
        loop {
            bits.fill();
            // There are bits at hand for two.
            for _ in 0..2 {
                if k > 63 {
                    return Ok(false);
                }
                let (zeros, value) = self.ac.coefficient(bits)?;
                k += zeros;
                if k > 63 {
                    return match value {
                        0 => Ok(k == 1 + END),
                        _ => Err(Damage("a block has more than 64 coefficients")),
                    };
                }
                block[usize::from(PLACES[k] & 63)] = value;
                k += 1;
            }
        }
    }
}
