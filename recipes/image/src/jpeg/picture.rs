//! From samples to pixels, a row of MCUs at a time, so that a file of one scan takes little more memory than its picture.

use galley_nn::jpeg::{Block, Kernels, Steps};
use pulp::{Simd, WithSimd};

use super::{
    Damage,
    colour::Colours,
    frame::{Component, Frame},
    scale::Scale,
};

/// A component's samples.
pub(super) struct Plane {
    samples: Vec<u8>,
    stride: usize,
    /// Only so many rows of blocks are kept, less one; each takes the place of an earlier one.
    mask: usize,
}

pub(super) type Planes = Vec<Plane>;

impl Plane {
    fn new(component: &Component, rows: usize, mask: usize) -> Self {
        let stride = component.padded_columns * 8;
        Self {
            samples: vec![0; stride * rows * 8],
            stride,
            mask,
        }
    }

    /// Takes the samples of the block at a column and a row. `is_flat` says that it has no coefficient but the first.
    #[inline(always)]
    pub(super) fn write(
        &mut self,
        kernels: Kernels,
        block: &Block,
        is_flat: bool,
        steps: &Steps,
        [x, y]: [usize; 2],
    ) -> Result<(), Damage> {
        let (start, stride) = ((y & self.mask) * 8 * self.stride + x * 8, self.stride);
        // Eight lines, of which the last ends with the samples.
        let lines = &mut self.samples[start..start + 7 * stride + 8];
        let is_written = match is_flat {
            true => kernels.flat_block(block[0], steps, lines, stride),
            false => kernels.block(block, steps, lines, stride),
        };
        match is_written {
            true => Ok(()),
            false => Err(Damage("a coefficient is larger than any of 8 bits")),
        }
    }

    /// A line of samples.
    #[inline(always)]
    pub(super) fn line(&self, y: usize) -> &[u8] {
        let line = ((y / 8) & self.mask) * 8 + y % 8;
        &self.samples[line * self.stride..][..self.stride]
    }
}

/// Samples of a component that a plane of few rows holds.
fn few_rows(component: &Component) -> usize {
    // A row of MCUs, the one before, and the end of the one before that.
    (3 * component.v).next_power_of_two()
}

/// Bytes that planes take: of the whole picture or of a few rows.
pub(super) fn planes_size(frame: &Frame, whole: bool) -> u64 {
    let bytes = |component: &Component| {
        let rows = match whole {
            true => component.padded_rows,
            false => few_rows(component),
        };
        (component.padded_columns * rows) as u64 * 64
    };
    frame.components.iter().map(bytes).sum()
}

/// A picture that is being made.
pub(super) struct Picture<'a> {
    frame: &'a Frame,
    kernels: Kernels,
    colours: Colours,
    scales: Vec<Scale>,
    /// A line of each component, at the picture's width.
    lines: Vec<Vec<u8>>,
    /// Line after line, as far as it has come: so that each is in the cache yet when it is written.
    pixels: Vec<u8>,
    wanted: &'a dyn Fn() -> bool,
}

impl<'a> Picture<'a> {
    pub(super) fn new(frame: &'a Frame, colours: Colours, wanted: &'a dyn Fn() -> bool) -> Self {
        let scales = frame.components.iter();
        let line = vec![0; frame.mcus()[0] * 8 * frame.h_max];
        Self {
            frame,
            kernels: Kernels::default(),
            colours,
            scales: scales.map(|part| Scale::new(frame, part)).collect(),
            lines: vec![line; frame.components.len()],
            pixels: Vec::with_capacity(frame.width * frame.height * 3),
            wanted,
        }
    }

    pub(super) fn few_rows(&self) -> Planes {
        let plane = |component| {
            let rows = few_rows(component);
            Plane::new(component, rows, rows - 1)
        };
        self.frame.components.iter().map(plane).collect()
    }

    pub(super) fn all_rows(&self) -> Planes {
        let plane =
            |component: &Component| Plane::new(component, component.padded_rows, usize::MAX);
        self.frame.components.iter().map(plane).collect()
    }

    /// The samples of a row of MCUs are in their planes: the row before it, which needed them, becomes pixels.
    #[inline(always)]
    pub(super) fn row_is_there(&mut self, planes: &Planes, row: usize) -> Result<(), Damage> {
        super::go_on(self.wanted)?;
        if row > 0 {
            self.write(planes, row - 1);
        }
        if row + 1 == self.frame.mcus()[1] {
            self.write(planes, row);
        }
        Ok(())
    }

    #[inline(always)]
    fn write(&mut self, planes: &Planes, row: usize) {
        let (width, deep) = (self.frame.width, 8 * self.frame.v_max);
        for y in row * deep..self.frame.height.min((row + 1) * deep) {
            let mut lines: [&[u8]; 4] = [&[]; 4];
            for (c, buffer) in self.lines.iter_mut().enumerate() {
                lines[c] = &self.scales[c].line(&planes[c], y, buffer)[..width];
            }
            self.pixels.resize((y + 1) * width * 3, 0);
            let pixels = &mut self.pixels[y * width * 3..];
            self.colours.convert(self.kernels, lines, pixels);
        }
    }

    /// All rows of all planes are there.
    pub(super) fn show(&mut self, planes: &Planes) -> Result<(), Damage> {
        let picture = self;
        pulp::Arch::new().dispatch(Showing { picture, planes })
    }

    pub(super) fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }
}

/// Making a picture of whole planes, compiled for the vectors that there are.
struct Showing<'a, 'b> {
    picture: &'a mut Picture<'b>,
    planes: &'a Planes,
}

impl WithSimd for Showing<'_, '_> {
    type Output = Result<(), Damage>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let rows = self.picture.frame.mcus()[1];
        (0..rows).try_for_each(|row| self.picture.row_is_there(self.planes, row))
    }
}
