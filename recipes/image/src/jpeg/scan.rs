//! A scan's data, taken apart at its restart markers, and the order of its blocks.

use pulp::{Simd, WithSimd};

use super::{
    Damage,
    bits::{Bits, PADDING},
    frame::{Frame, Scan},
};

/// What is done with a scan's blocks, in their order.
pub(super) trait Blocks {
    /// Reads the block at a column and a row of the scan's `part`.
    fn read(&mut self, bits: &mut Bits, part: usize, at: [usize; 2]) -> Result<(), Damage>;

    /// What is carried from block to block begins anew.
    fn restart(&mut self);

    /// A row of MCUs is complete.
    fn end_row(&mut self, row: usize) -> Result<(), Damage>;
}

/// Where a scan's data lies in its file.
pub(super) struct Data<'a> {
    file: &'a [u8],
    at: usize,
    /// Without stuffing, with [`PADDING`], up to the next marker.
    bytes: Vec<u8>,
    /// Whole bytes before that marker that were not needed.
    left: usize,
}

impl<'a> Data<'a> {
    pub(super) fn new(file: &'a [u8], at: usize) -> Self {
        Self {
            file,
            at,
            bytes: Vec::new(),
            left: 0,
        }
    }

    /// Where the marker after the data stands, or where the file ends.
    pub(super) fn end(&self) -> usize {
        self.at
    }

    /// How many bytes before the marker after the data were not needed.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Reads up to the next marker.
    fn next(&mut self) {
        self.bytes.clear();
        if self.bytes.capacity() == 0 {
            // All at once: growing it again and again takes longer than anything else here.
            let left = self.file.len().saturating_sub(self.at);
            self.bytes.reserve_exact(left + PADDING);
        }
        loop {
            let rest = self.file.get(self.at..).unwrap_or_default();
            let plain = memchr::memchr(0xFF, rest).unwrap_or(rest.len());
            self.bytes.extend_from_slice(&rest[..plain]);
            self.at += plain;
            match rest.get(plain + 1) {
                Some(0) => {
                    self.bytes.push(0xFF);
                    self.at += 2;
                }
                // Markers may begin with several.
                Some(0xFF) => self.at += 1,
                _ => break,
            }
        }
        self.bytes.resize(self.bytes.len() + PADDING, 0);
    }

    /// Takes the restart marker that has this number.
    fn take_restart(&mut self, number: usize) -> Result<(), Damage> {
        let expected = 0xD0 | (number & 7) as u8;
        match self.file.get(self.at..self.at + 2) {
            Some([0xFF, marker]) if *marker == expected => {
                self.at += 2;
                Ok(())
            }
            _ => Err(Damage("a restart marker is not where it should be")),
        }
    }
}

/// Going through all blocks of a scan, compiled for the vectors that there are.
pub(super) struct Reading<'a, 'b, B> {
    pub(super) frame: &'a Frame,
    pub(super) scan: &'a Scan,
    /// MCUs between two restart markers, or 0.
    pub(super) interval: usize,
    pub(super) data: &'a mut Data<'b>,
    pub(super) blocks: B,
}

impl<B: Blocks> WithSimd for Reading<'_, '_, B> {
    type Output = Result<(), Damage>;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> Self::Output {
        read(
            self.frame,
            self.scan,
            self.interval,
            self.data,
            &mut self.blocks,
        )
    }
}

#[inline(always)]
fn read<B: Blocks>(
    frame: &Frame,
    scan: &Scan,
    interval: usize,
    data: &mut Data<'_>,
    blocks: &mut B,
) -> Result<(), Damage> {
    // Of a component alone, an MCU is a block, and there are none but its own.
    let alone = scan.parts.len() == 1;
    let [across, down] = match &scan.parts[..] {
        [part] => frame.components[part.component].blocks(),
        _ => frame.mcus(),
    };
    let shapes: Vec<[usize; 2]> = scan
        .parts
        .iter()
        .map(|part| match &frame.components[part.component] {
            _ if alone => [1, 1],
            component => [component.h, component.v],
        })
        .collect();
    let mut place = Place {
        mcu: 0,
        across,
        total: across * down,
    };
    let mut restarts = 0;
    while place.mcu < place.total {
        data.next();
        let end = match interval {
            0 => place.total,
            _ => place.total.min(place.mcu + interval),
        };
        let mut bits = Bits::new(&data.bytes);
        blocks.restart();
        let done = place.read_until(end, &shapes, &mut bits, blocks);
        // Zeros after the end may look like anything.
        if bits.is_overrun() {
            return Err(Damage("a scan's data ends too early"));
        }
        done?;
        data.left = bits.left();
        if place.mcu < place.total {
            // Data that nobody takes within a scan has been read wrongly. After it, cameras leave all kinds of things.
            if data.left > 0 {
                return Err(Damage("there is data left before a restart marker"));
            }
            data.take_restart(restarts)?;
            restarts += 1;
        }
    }
    Ok(())
}

/// How far a scan has come.
struct Place {
    mcu: usize,
    across: usize,
    total: usize,
}

impl Place {
    #[inline(always)]
    fn read_until<B: Blocks>(
        &mut self,
        end: usize,
        shapes: &[[usize; 2]],
        bits: &mut Bits,
        blocks: &mut B,
    ) -> Result<(), Damage> {
        while self.mcu < end {
            let (row, first) = (self.mcu / self.across, self.mcu % self.across);
            let columns = first..self.across.min(first + (end - self.mcu));
            self.mcu += columns.len();
            for column in columns {
                for (part, &[h, v]) in shapes.iter().enumerate() {
                    for y in 0..v {
                        for x in 0..h {
                            blocks.read(bits, part, [column * h + x, row * v + y])?;
                        }
                    }
                }
            }
            if bits.is_overrun() {
                return Ok(());
            }
            if self.mcu.is_multiple_of(self.across) {
                blocks.end_row(row)?;
            }
        }
        Ok(())
    }
}
