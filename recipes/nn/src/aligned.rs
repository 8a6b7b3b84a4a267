//! Memory that begins on a cache line.

use std::fmt;

/// A cache line of values. Whole lines keep vectors from straddling two of them, which would double each load.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Values of a line.
const LINE: usize = 16;

/// Values that begin on a cache line.
#[derive(Clone, Default)]
pub(crate) struct Aligned(Vec<Line>);

impl fmt::Debug for Aligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aligned[{}]", self.0.len() * LINE)
    }
}

impl Aligned {
    pub(crate) fn zeros(len: usize) -> Self {
        Self(vec![Line::default(); len.div_ceil(LINE)])
    }

    /// Makes room for `len` values and keeps those that are there; the new ones are zero.
    pub(crate) fn resize(&mut self, len: usize) {
        self.0.resize(len.div_ceil(LINE), Line::default());
    }

    /// The first `len` values, of any content; makes room for them first where that is needed.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() * LINE < len {
            // Not `resize`: it would copy what nobody wants.
            *self = Self::zeros(len);
        }
        &mut self.as_mut_slice()[..len]
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: a line is sixteen values and nothing else, so lines in a row are values in a row.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LINE) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LINE) }
    }
}
