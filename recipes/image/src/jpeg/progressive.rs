//! Blocks that come in several scans, of some coefficients or some bits each (T.81, annex G).

use galley_nn::jpeg::{Block, Kernels, PLACES, Steps};
use pulp::{Simd, WithSimd};

use super::{
    Damage,
    bits::Bits,
    frame::{Component, Frame, Part, Scan},
    huffman::Huffman,
    picture::{Picture, Plane},
    scan::Blocks,
    sequential::difference,
    tables::Tables,
};

/// What is known of a component.
pub(super) struct Coefficients {
    /// Of whole MCUs.
    blocks: Vec<Block>,
    columns: usize,
    /// For each coefficient the lowest bit that is known.
    known: [Option<u8>; 64],
    /// In force when the first of its scans began.
    steps: Option<Steps>,
}

impl Coefficients {
    pub(super) fn new(component: &Component) -> Self {
        Self {
            blocks: vec![[0; 64]; component.padded_blocks()],
            columns: component.padded_columns,
            known: [None; 64],
            steps: None,
        }
    }

    /// Whether every bit of every coefficient is known.
    pub(super) fn are_complete(&self) -> bool {
        self.known.iter().all(|&low| low == Some(0))
    }

    /// Samples of a row of MCUs, `v` rows of blocks.
    #[inline(always)]
    fn write(
        &self,
        kernels: Kernels,
        plane: &mut Plane,
        row: usize,
        v: usize,
    ) -> Result<(), Damage> {
        let Some(steps) = &self.steps else {
            return Ok(());
        };
        for y in row * v..(row + 1) * v {
            for x in 0..self.columns {
                let block = &self.blocks[y * self.columns + x];
                let is_flat = block[1..].iter().fold(0, |all, one| all | one) == 0;
                plane.write(kernels, block, is_flat, steps, [x, y])?;
            }
        }
        Ok(())
    }
}

/// Making a picture of coefficients that are all known.
pub(super) struct Showing<'a, 'b> {
    pub(super) frame: &'a Frame,
    pub(super) all: &'a [Coefficients],
    pub(super) picture: &'a mut Picture<'b>,
}

impl WithSimd for Showing<'_, '_> {
    type Output = Result<(), Damage>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let kernels = Kernels::default();
        let mut planes = self.picture.few_rows();
        for row in 0..self.frame.mcus()[1] {
            let components = self.frame.components.iter().zip(self.all);
            for ((component, coefficients), plane) in components.zip(&mut planes) {
                coefficients.write(kernels, plane, row, component.v)?;
            }
            self.picture.row_is_there(&planes, row)?;
        }
        Ok(())
    }
}

/// A scan.
pub(super) struct Progressive<'a> {
    all: &'a mut [Coefficients],
    /// The components that have part in it.
    components: Vec<usize>,
    /// Their tables, where the scan needs any.
    tables: Vec<Option<&'a Huffman>>,
    dc_before: Vec<i32>,
    first: usize,
    last: usize,
    low: u8,
    refines: bool,
    /// Blocks to come that have nothing new but refinements.
    empty_blocks: u32,
    wanted: &'a dyn Fn() -> bool,
}

impl<'a> Progressive<'a> {
    pub(super) fn new(
        frame: &Frame,
        scan: &Scan,
        tables: &'a Tables,
        all: &'a mut [Coefficients],
        wanted: &'a dyn Fn() -> bool,
    ) -> Result<Self, Damage> {
        let refines = scan.high > 0;
        for part in &scan.parts {
            let coefficients = &mut all[part.component];
            for known in &mut coefficients.known[scan.first..=scan.last] {
                if *known != refines.then_some(scan.high) {
                    return Err(Damage(
                        "a scan refines what is not there, or is there twice",
                    ));
                }
                *known = Some(scan.low);
            }
            if coefficients.steps.is_none() {
                let component = &frame.components[part.component];
                coefficients.steps = Some(tables.steps(component)?.clone());
            }
        }
        let table = |part: &Part| match (scan.first, refines) {
            (0, false) => tables.dc(part.dc_table).map(Some),
            (0, true) => Ok(None),
            _ => tables.ac(part.ac_table).map(Some),
        };
        Ok(Self {
            all,
            components: scan.parts.iter().map(|part| part.component).collect(),
            tables: scan.parts.iter().map(table).collect::<Result<_, _>>()?,
            dc_before: vec![0; scan.parts.len()],
            first: scan.first,
            last: scan.last,
            low: scan.low,
            refines,
            empty_blocks: 0,
            wanted,
        })
    }

    /// The number of blocks to come that a symbol of this `size` announces.
    #[inline(always)]
    fn run(bits: &mut Bits, size: u32) -> u32 {
        (1 << size) + bits.take(size)
    }
}

impl Blocks for Progressive<'_> {
    #[inline(always)]
    fn read(&mut self, bits: &mut Bits, part: usize, [x, y]: [usize; 2]) -> Result<(), Damage> {
        let coefficients = &mut self.all[self.components[part]];
        let block = &mut coefficients.blocks[y * coefficients.columns + x];
        match (self.tables[part], self.first, self.refines) {
            (Some(table), 0, false) => {
                self.dc_before[part] += difference(bits, table)?;
                if self.dc_before[part].abs() > 2047 {
                    return Err(Damage("a coefficient is larger than any of 8 bits"));
                }
                block[0] = (self.dc_before[part] << self.low) as i16;
                Ok(())
            }
            (None, ..) => {
                bits.fill();
                block[0] |= (bits.take(1) << self.low) as i16;
                Ok(())
            }
            (Some(table), _, false) => self.first_bits(bits, table, part, [x, y]),
            (Some(table), _, true) => self.next_bit(bits, table, part, [x, y]),
        }
    }

    fn restart(&mut self) {
        self.dc_before.fill(0);
        self.empty_blocks = 0;
    }

    fn end_row(&mut self, _: usize) -> Result<(), Damage> {
        super::go_on(self.wanted)
    }
}

impl Progressive<'_> {
    /// The first bits of a block's coefficients.
    #[inline(always)]
    fn first_bits(
        &mut self,
        bits: &mut Bits,
        table: &Huffman,
        part: usize,
        [x, y]: [usize; 2],
    ) -> Result<(), Damage> {
        if self.empty_blocks > 0 {
            self.empty_blocks -= 1;
            return Ok(());
        }
        let coefficients = &mut self.all[self.components[part]];
        let block = &mut coefficients.blocks[y * coefficients.columns + x];
        let mut k = self.first;
        while k <= self.last {
            bits.fill();
            let symbol = table.symbol(bits)?;
            let (zeros, size) = ((symbol >> 4) as usize, symbol & 15);
            if size == 0 {
                if zeros < 15 {
                    self.empty_blocks = Self::run(bits, zeros as u32) - 1;
                    break;
                }
                k += 16;
                continue;
            }
            k += zeros;
            if k > self.last || size > 10 {
                return Err(Damage("a coefficient is larger than any, or out of place"));
            }
            let value = super::huffman::extend(bits.take(size), size);
            block[place(k)] = (value << self.low) as i16;
            k += 1;
        }
        Ok(())
    }

    /// One more bit of a block's coefficients.
    #[inline(always)]
    fn next_bit(
        &mut self,
        bits: &mut Bits,
        table: &Huffman,
        part: usize,
        [x, y]: [usize; 2],
    ) -> Result<(), Damage> {
        let coefficients = &mut self.all[self.components[part]];
        let block = &mut coefficients.blocks[y * coefficients.columns + x];
        let bit = 1i16 << self.low;
        let mut k = self.first;
        while self.empty_blocks == 0 && k <= self.last {
            bits.fill();
            let symbol = table.symbol(bits)?;
            let (mut zeros, size) = (symbol >> 4, symbol & 15);
            let mut new = 0;
            match size {
                0 if zeros < 15 => {
                    self.empty_blocks = Self::run(bits, zeros);
                    break;
                }
                0 => {}
                1 => new = if bits.take(1) == 1 { bit } else { -bit },
                _ => return Err(Damage("a refinement is of more than one bit")),
            }
            // Past so many zeros, with a bit for each coefficient that is known to be another.
            while k <= self.last {
                let value = &mut block[place(k)];
                if *value != 0 {
                    refine(value, bits, bit);
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                k += 1;
            }
            if new != 0 {
                if k > self.last {
                    return Err(Damage("a block has more coefficients than its scan"));
                }
                block[place(k)] = new;
            }
            k += 1;
        }
        if self.empty_blocks > 0 {
            for k in k..=self.last {
                let value = &mut block[place(k)];
                if *value != 0 {
                    refine(value, bits, bit);
                }
            }
            self.empty_blocks -= 1;
        }
        Ok(())
    }
}

/// Where a coefficient stands in its block.
#[inline(always)]
fn place(k: usize) -> usize {
    usize::from(PLACES[k] & 63)
}

#[inline(always)]
fn refine(value: &mut i16, bits: &mut Bits, bit: i16) {
    bits.fill();
    if bits.take(1) == 1 && *value & bit == 0 {
        *value += if *value > 0 { bit } else { -bit };
    }
}
