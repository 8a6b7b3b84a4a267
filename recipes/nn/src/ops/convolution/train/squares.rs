//! 3x3 convolutions of neighbouring pixels with a quarter of the multiplications, as in inference ([`winograd`]), in training
//! with the weights transformed in each step.
//!
//! The gradient of the weights is the same bilinear form seen from another side: squares of six by six pixels of the input and
//! of four by four pixels of the output's gradient are both transformed to 36 places, multiplied place by place, summed over all
//! squares, and only the sums are transformed back, to nine taps.

use rayon::prelude::*;

use super::{
    super::{
        finish::Finish,
        strips::Strips,
        sweep::Phase,
        winograd::{self, PLACES, Pass, TAPS},
    },
    images,
    sums::Sums,
};
use crate::{
    aligned::Aligned,
    graph,
    host::Shared,
    ops::Onto,
    simd::{Level, Vector, dispatch},
};

/// Pixels of all images from which on it is worth it: the transformed weights are four times as many.
const LEAST_PIXELS: usize = 1024;

/// A convolution by squares, and the one that is its gradient.
#[derive(Debug)]
pub(super) struct Squares {
    padding: [usize; 2],
    /// The way back.
    phase: Phase,
}

impl Squares {
    /// If a layer is better computed so; `backward` is the way back to its input.
    pub(super) fn of(
        layer: &graph::Convolution,
        [from, to]: [graph::Shape; 2],
        images: usize,
        backward: &[Phase],
    ) -> Option<Self> {
        let takes = winograd::takes(layer, from.channels)
            && images * from.pixels().min(to.pixels()) >= LEAST_PIXELS;
        let [phase] = backward else { return None };
        takes.then(|| Self {
            padding: layer.window.padding,
            phase: phase.clone(),
        })
    }

    /// `weight * x + bias`.
    pub(super) fn forward(
        &self,
        level: Level,
        strips: &Strips,
        (weight, bias): (&[f32], Option<&[f32]>),
        (x, y): (&[f32], Shared),
        memory: &mut Aligned,
    ) {
        let sweep = &self.phase.sweep;
        let taps: Vec<usize> = (0..TAPS).collect();
        let laid = memory.at_least(winograd::len(strips));
        winograd::pack(level, strips, weight, &taps, laid);
        let pass = Pass {
            strips,
            weight: laid,
            padding: self.padding,
            before: None,
            images: sweep.images,
            // The phase goes from what is given to what was read.
            x: images(Shared::reading(x), sweep.to),
            finish: Finish::plain(images(y, sweep.from), bias, false),
        };
        // SAFETY: the level is the processor's; the caller has checked the lengths and has `y` for itself.
        unsafe { pass.run(level) };
    }

    /// The gradient of `x`.
    pub(super) fn backward_input(
        &self,
        level: Level,
        strips: &Strips,
        [weight, dy]: [&[f32]; 2],
        (dx, onto): (Shared, Onto),
        memory: &mut Aligned,
    ) {
        let Phase { sweep, taps } = &self.phase;
        let laid = memory.at_least(winograd::len(strips));
        winograd::pack(level, strips, weight, taps, laid);
        let pass = Pass {
            strips,
            weight: laid,
            padding: self.padding.map(|padding| 2 - padding),
            before: None,
            images: sweep.images,
            x: images(Shared::reading(dy), sweep.from),
            finish: Finish::plain(images(dx, sweep.to), None, onto == Onto::Add),
        };
        // SAFETY: as above.
        unsafe { pass.run(level) };
    }

    /// The gradient of weights.
    pub(super) fn backward_weight(
        &self,
        level: Level,
        strips: &Strips,
        [x, dy]: [&[f32]; 2],
        dweight: &mut [f32],
        memory: &mut Aligned,
    ) {
        let sweep = &self.phase.sweep;
        let sums = Sums {
            images: sweep.images,
            x: (x, sweep.to),
            dy: (dy, sweep.from),
            padding: self.padding,
            strips: *strips,
        };
        let parts = sums.parts();
        let len = PLACES / TAPS * strips.len();
        let memory = memory.at_least(parts * len);
        sums.run(level, memory);
        let (first, others) = memory.split_at_mut(len);
        let strip_len = PLACES / TAPS * strips.strip_len();
        let dweight = Shared::new(dweight);
        (first.par_chunks_exact_mut(strip_len).enumerate()).for_each(|(index, sums)| {
            let others = &others[(index * strip_len).min(others.len())..];
            // SAFETY: the level is the processor's, each part has the strip, and the strip's weights are this task's alone.
            unsafe {
                gather(level, strips, sums, others, len);
                strips.unpack_one(level, &[&sums[..strips.strip_len()]], index, dweight);
            }
        });
    }
}

dispatch! {
    /// From the sums at a strip's places, those of other parts `apart` values further each, to its taps, which take the first
    /// places.
    fn gather(strips: &Strips, sums: &mut [f32], others: &[f32], apart: usize) = gather_kernel
}

#[inline(always)]
unsafe fn gather_kernel<V: Vector>(
    strips: &Strips,
    sums: &mut [f32],
    others: &[f32],
    apart: usize,
) {
    let place_len = strips.sums * strips.strip;
    let parts = others.len().div_ceil(apart);
    let sums = sums.as_mut_ptr();
    for at in (0..place_len).step_by(V::LEN) {
        // SAFETY: as the caller's: there is a whole vector at each place of each part.
        unsafe {
            let mut rows = [[V::splat(0.0); 6]; 3];
            for column in 0..6 {
                let mut places = [V::splat(0.0); 6];
                for (y, place) in places.iter_mut().enumerate() {
                    let at = (y * 6 + column) * place_len + at;
                    *place = V::load(sums.add(at));
                    for part in 0..parts {
                        *place = place.add(V::load(others.as_ptr().add(part * apart + at)));
                    }
                }
                for (row, tap) in rows.iter_mut().zip(to_taps(places)) {
                    row[column] = tap;
                }
            }
            for (y, row) in rows.into_iter().enumerate() {
                for (x, tap) in to_taps(row).into_iter().enumerate() {
                    tap.store(sums.add((y * 3 + x) * place_len + at));
                }
            }
        }
    }
}

/// The sums at six places to those of three taps.
#[inline(always)]
unsafe fn to_taps<V: Vector>(m: [V; 6]) -> [V; 3] {
    // SAFETY: as for `to_places`.
    unsafe {
        let minus = V::splat(-1.0);
        let near = m[1].add(m[2]).mul(V::splat(-1.0 / 6.0));
        let far = m[3].add(m[4]);
        let between = m[4].mul_add(minus, m[3]).mul(V::splat(1.0 / 12.0));
        let apart = m[1].mul_add(minus, m[2]);
        [
            m[0].mul_add(V::splat(0.25), far.mul_add(V::splat(1.0 / 24.0), near)),
            apart.mul_add(V::splat(1.0 / 6.0), between),
            far.mul_add(V::splat(1.0 / 6.0), near).add(m[5]),
        ]
    }
}
