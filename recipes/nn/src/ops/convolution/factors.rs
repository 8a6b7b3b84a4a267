//! What the innermost loop multiplies vectors of weights by.

use crate::simd::Vector;

/// What the vectors of each step are multiplied by, for each row.
pub(super) trait Factors: Copy {
    /// How often all steps are gone through.
    #[inline(always)]
    fn turns(self) -> usize {
        1
    }

    /// Where a turn's vectors begin, from the first one's.
    #[inline(always)]
    fn start(self, _: usize) -> usize {
        0
    }

    /// The factors of `N` vectors, from where the row is in its step.
    ///
    /// # Safety
    /// The instruction set is there, and there are the values that it reads.
    unsafe fn of<V: Vector, const N: usize>(
        self,
        at: *const f32,
        row: usize,
        turn: usize,
    ) -> [V; N];
}

/// One value for all lanes.
#[derive(Clone, Copy)]
pub(super) struct One;

impl Factors for One {
    #[inline(always)]
    unsafe fn of<V: Vector, const N: usize>(self, at: *const f32, _: usize, _: usize) -> [V; N] {
        // SAFETY: as the caller's.
        unsafe { [V::splat(*at); N] }
    }
}

/// In each lane a channel of its own group, where groups lie side by side in vectors: in each turn the next one.
///
/// So groups that are narrower than a vector take as many steps as one of them has channels.
#[derive(Clone, Copy)]
pub(super) struct Turns {
    /// Channels of a group.
    pub(super) width: usize,
    /// Values from a turn's vectors to the next one's.
    pub(super) apart: usize,
}

impl Factors for Turns {
    #[inline(always)]
    fn turns(self) -> usize {
        self.width
    }

    #[inline(always)]
    fn start(self, turn: usize) -> usize {
        turn * self.apart
    }

    #[inline(always)]
    unsafe fn of<V: Vector, const N: usize>(self, at: *const f32, _: usize, turn: usize) -> [V; N] {
        // SAFETY: as the caller's.
        unsafe { of_groups(at, self.width, turn) }
    }
}

/// The same, in each row the next one.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// Channels of a group.
    pub(super) width: usize,
    /// The first row's.
    pub(super) first: usize,
}

impl Factors for Rows {
    #[inline(always)]
    unsafe fn of<V: Vector, const N: usize>(self, at: *const f32, row: usize, _: usize) -> [V; N] {
        // SAFETY: as the caller's.
        unsafe { of_groups(at, self.width, self.first + row) }
    }
}

#[inline(always)]
unsafe fn of_groups<V: Vector, const N: usize>(at: *const f32, width: usize, nth: usize) -> [V; N] {
    // SAFETY: as the callers'.
    unsafe {
        let lanes = V::of_groups(width, nth);
        let mut factors = [V::splat(0.0); N];
        for (n, factor) in factors.iter_mut().enumerate() {
            *factor = V::load(at.add(n * V::LEN)).permute(lanes);
        }
        factors
    }
}
