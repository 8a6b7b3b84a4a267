//! Blocks that come whole, one after another: baseline and extended frames.

use super::{
    Damage,
    bits::Bits,
    frame::{Frame, Part, Scan},
    huffman::{Huffman, extend},
    idct::{self, Block},
    picture::{Picture, Planes},
    scan::Blocks,
    tables::Tables,
};

/// Where the coefficients of a block stand, in the order in which they come (T.81, figure A.6).
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// What one of a scan's components is read with.
struct Reader<'a> {
    component: usize,
    dc: &'a Huffman,
    ac: &'a Huffman,
    quantisation: &'a [i32; 64],
    /// The last block's first coefficient.
    dc_before: i32,
}

/// A scan, read into samples.
pub(super) struct Sequential<'a, 'b, 'c> {
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
                quantisation: tables.quantisation(&frame.components[part.component])?,
                dc_before: 0,
            })
        };
        Ok(Self {
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
        let last = reader.block(bits, &mut block)?;
        let plane = &mut self.planes[reader.component];
        let stride = plane.stride;
        idct::write(&mut block, last, plane.block(at), stride)
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
        return Err(Damage("a coefficient is larger than any of 8 bits"));
    }
    Ok(extend(bits.take(size), size))
}

impl Reader<'_> {
    /// Reads and dequantises a block, and gives the zigzag index of its last coefficient.
    #[inline(always)]
    fn block(&mut self, bits: &mut Bits, block: &mut Block) -> Result<usize, Damage> {
        self.dc_before += difference(bits, self.dc)?;
        if self.dc_before.abs() > 2047 {
            return Err(Damage("a coefficient is larger than any of 8 bits"));
        }
        block[0] = self.dc_before * self.quantisation[0];
        let (mut k, mut last) = (1, 0);
        while k < 64 {
            bits.fill();
            let value;
            if let Some(step) = self.ac.step(bits) {
                step.take(bits);
                k += step.zeros;
                value = step.value;
            } else {
                let symbol = self.ac.symbol(bits)?;
                let (zeros, size) = ((symbol >> 4) as usize, symbol & 15);
                if size == 0 {
                    // The end of the block, or sixteen zeros.
                    if zeros < 15 {
                        break;
                    }
                    k += 16;
                    continue;
                }
                if size > 10 {
                    return Err(Damage("a coefficient is larger than any of 8 bits"));
                }
                k += zeros;
                value = extend(bits.take(size), size);
            }
            if k > 63 {
                return Err(Damage("a block has more than 64 coefficients"));
            }
            block[usize::from(ZIGZAG[k])] = value * self.quantisation[k];
            last = k;
            k += 1;
        }
        Ok(last)
    }
}
