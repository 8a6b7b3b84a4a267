//! What follows a sum: bias, activation, a residual, and another activation.

use std::{mem::MaybeUninit, ops::Range};

use super::tile::{Sink, Tile};
use crate::{
    activation::Activation,
    matmul::{MOST_ROWS, PANEL},
    ops::Images,
    simd::{Vector, load_up_to, store_up_to},
};

/// Where sums of pixels go, and what becomes of them: `after(activation(sum + bias) + residual)`.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub(super) to: Images,
    /// A term for each channel.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) activation: Activation,
    /// What is added; it may be what is there.
    pub(super) residual: Option<Images>,
    /// What follows that.
    pub(super) after: Activation,
}

impl<'a> Finish<'a> {
    /// Nothing but a bias, and the sum with what is there if that is wanted.
    pub(super) fn plain(to: Images, bias: Option<&'a [f32]>, add: bool) -> Self {
        Self {
            to,
            bias,
            activation: Activation::None,
            residual: add.then_some(to),
            after: Activation::None,
        }
    }

    /// Sums a tile of so many rows, which go to pixels that are `step` apart, from `first` on.
    ///
    /// # Safety
    /// As [`Tile::sum`]'s; the output, and all that is added, has these pixels and channels, and nobody else uses the output's.
    #[inline(always)]
    pub(super) unsafe fn sum<V: Vector>(
        &self,
        tile: Tile<'_>,
        rows: usize,
        [first, step]: [usize; 2],
        channels: Range<usize>,
    ) {
        let mut memory = Memory(MaybeUninit::uninit());
        let sums = memory.0.as_mut_ptr().cast::<f32>();
        // SAFETY: as the caller's; a tile has no more rows and columns than there is memory for.
        unsafe {
            let to = self.to.pixel(first).add(channels.start);
            let mut sink = Sink::plain(to, step * self.to.pitch, channels.len(), false);
            let bounds = (self.activation.bounds(), self.after.bounds());
            if let (Some(bounds), Some(after)) = bounds {
                sink.bounds = bounded(bounds);
                sink.after = bounded(after);
                sink.residual = self.residual.map(|residual| {
                    let from = residual.pixel(first).add(channels.start).cast_const();
                    (from, step * residual.pitch)
                });
            } else {
                // Functions that take longer see sums again that are still near.
                sink.to = sums;
                sink.pitch = PANEL;
            }
            sink.bias = (self.bias).map(|bias| bias.as_ptr().wrapping_add(channels.start));
            tile.sum::<V>(rows, sink);
            if sink.to != sums {
                return;
            }
            let columns = channels.len().min(2 * V::LEN);
            for row in 0..rows {
                for column in (0..columns).step_by(V::LEN) {
                    let count = V::LEN.min(columns - column);
                    let sum: V = load_up_to(sums.add(row * PANEL + column), count);
                    self.finish(sum, first + row * step, channels.start + column, count);
                }
            }
        }
    }

    /// Stores a sum of a pixel, for `count` channels from `channel` on.
    ///
    /// # Safety
    /// The instruction set is there; the output, and all that is added, has these channels, and nobody else uses the output's.
    #[inline(always)]
    pub(super) unsafe fn store<V: Vector>(
        &self,
        sum: V,
        pixel: usize,
        channel: usize,
        count: usize,
    ) {
        // SAFETY: as the caller's.
        unsafe {
            let sum = match self.bias {
                Some(bias) => sum.add(load_up_to(bias.as_ptr().add(channel), count)),
                None => sum,
            };
            self.finish(sum, pixel, channel, count);
        }
    }

    /// The same with the bias in the sum.
    #[inline(always)]
    unsafe fn finish<V: Vector>(&self, sum: V, pixel: usize, channel: usize, count: usize) {
        // SAFETY: as `store`'s.
        unsafe {
            let mut value: V = self.activation.apply(sum);
            if let Some(residual) = self.residual {
                let residual = load_up_to(residual.pixel(pixel).add(channel), count);
                value = self.after.apply(value.add(residual));
            }
            store_up_to(value, self.to.pixel(pixel).add(channel), count);
        }
    }
}

/// The sums of a tile.
#[repr(align(64))]
struct Memory(MaybeUninit<[f32; MOST_ROWS * PANEL]>);

/// Bounds that bound something.
#[inline(always)]
fn bounded(bounds: [f32; 2]) -> Option<[f32; 2]> {
    (bounds != [f32::NEG_INFINITY, f32::INFINITY]).then_some(bounds)
}
