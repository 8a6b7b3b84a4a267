//! Pixels laid out for sums over them: where they are, channels that are a power of two push each other out of the nearest cache,
//! and each tile would wait for memory anew.

use std::ops::Range;

use crate::simd::{Vector, dispatch, load_up_to};

/// Pixels of some lines.
pub(super) struct Pixels {
    /// Where their first pixels are.
    pub(super) lines: Vec<usize>,
    /// Pixels of a line.
    pub(super) columns: usize,
    /// Values from one to the next.
    pub(super) apart: usize,
}

dispatch! {
    /// Copies pixels strip by strip, whose channels are given: `[strips, pixels, strip]`, with zeros where a strip is not full.
    ///
    /// # Safety
    /// The processor has the level; the values have these pixels, and there is room for them.
    pub(super) fn in_strips(
        values: &[f32],
        pixels: &Pixels,
        strips: &[Range<usize>],
        strip: usize,
        to: &mut [f32],
    ) = in_strips_kernel
}

#[inline(always)]
unsafe fn in_strips_kernel<V: Vector>(
    values: &[f32],
    pixels: &Pixels,
    strips: &[Range<usize>],
    strip: usize,
    to: &mut [f32],
) {
    let apart = pixels.lines.len() * pixels.columns * strip;
    let mut to = to.as_mut_ptr();
    for line in &pixels.lines {
        for column in 0..pixels.columns {
            // SAFETY: as the caller's: there is the pixel, and there is room for it in each strip.
            unsafe {
                let from = values.as_ptr().add(line + column * pixels.apart);
                for (nth, channels) in strips.iter().enumerate() {
                    for lane in (0..strip).step_by(V::LEN) {
                        let count = V::LEN.min(channels.len().saturating_sub(lane));
                        let from = from.wrapping_add(channels.start + lane);
                        let vector: V = load_up_to(from, count);
                        vector.store(to.add(nth * apart + lane));
                    }
                }
                to = to.add(strip);
            }
        }
    }
}

dispatch! {
    /// Copies some channels of pixels, to as far apart as `pitch`; whole vectors are written.
    ///
    /// # Safety
    /// As [`in_strips`]'s.
    pub(super) fn in_rows(
        values: &[f32],
        pixels: &Pixels,
        channels: Range<usize>,
        pitch: usize,
        to: &mut [f32],
    ) = in_rows_kernel
}

#[inline(always)]
unsafe fn in_rows_kernel<V: Vector>(
    values: &[f32],
    pixels: &Pixels,
    channels: Range<usize>,
    pitch: usize,
    to: &mut [f32],
) {
    let mut to = to.as_mut_ptr();
    for line in &pixels.lines {
        for column in 0..pixels.columns {
            // SAFETY: as the caller's: there is the pixel, and there is room for it.
            unsafe {
                let from = values
                    .as_ptr()
                    .add(line + column * pixels.apart + channels.start);
                for channel in (0..channels.len()).step_by(V::LEN) {
                    let count = V::LEN.min(channels.len() - channel);
                    let vector: V = load_up_to(from.add(channel), count);
                    vector.store(to.add(channel));
                }
                to = to.wrapping_add(pitch);
            }
        }
    }
}
