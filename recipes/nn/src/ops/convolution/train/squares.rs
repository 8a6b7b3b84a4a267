//! 3x3 convolutions of neighbouring pixels with a quarter of the multiplications, as in inference ([`winograd`]), in training
//! with the weights transformed in each step.
//!
//! The gradient of the weights is the same bilinear form seen from another side: squares of six by six pixels of the input and
//! of four by four pixels of the output's gradient are both transformed to 36 places, multiplied place by place, summed over all
//! squares, and only the sums are transformed back, to nine taps.

use rayon::prelude::*;

use super::{pack::Strips, sums::Sums, sweep::Phase};
use crate::{
    activation::Activation,
    aligned::Aligned,
    graph,
    host::Shared,
    ops::{
        Images, Onto,
        convolution::{Block, Convolution, Pass, winograd},
    },
    simd::{Level, Vector, dispatch},
};

/// Places of a square.
pub(super) const PLACES: usize = 36;
const TAPS: usize = 9;
/// Pixels of all images from which on it is worth it: the transformed weights are four times as many.
const LEAST_PIXELS: usize = 1024;
/// Channels from which on the products outweigh the transforms.
const LEAST_CHANNELS: usize = 16;

/// A convolution by squares, and the one that is its gradient.
#[derive(Debug)]
pub(super) struct Squares {
    forward: Convolution,
    backward: Convolution,
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
        let window = layer.window;
        let takes = (window.kernel, window.stride, layer.groups) == ([3; 2], [1; 2], 1)
            && window.padding.iter().all(|padding| *padding <= 2)
            && from.channels.min(to.channels) >= LEAST_CHANNELS
            && images * from.pixels().min(to.pixels()) >= LEAST_PIXELS;
        let [phase] = backward else { return None };
        let convolution = |padding, inputs, outputs| Convolution {
            weight: Aligned::default(),
            transformed: None,
            bias: Aligned::default(),
            before: None,
            activation: Activation::None,
            window: graph::Window { padding, ..window },
            inputs,
            outputs,
            block: Block { inputs, outputs },
            strip: 2 * Level::detect().lanes(),
        };
        takes.then(|| Self {
            forward: convolution(window.padding, from.channels, to.channels),
            backward: convolution(
                window.padding.map(|padding| 2 - padding),
                to.channels,
                from.channels,
            ),
            phase: phase.clone(),
        })
    }

    /// `weight * x + bias`.
    pub(super) fn forward(
        &mut self,
        level: Level,
        strips: &Strips,
        (weight, bias): (&[f32], Option<&[f32]>),
        (x, y): (&[f32], Shared),
        memory: &mut Aligned,
    ) {
        let layer = &mut self.forward;
        layer.pack_bias(bias.unwrap_or_default());
        let taps: Vec<usize> = (0..TAPS).collect();
        pack(level, strips, weight, &taps, memory);
        let sweep = &self.phase.sweep;
        // The phase goes from what is given to what was read.
        let sizes = [sweep.to, sweep.from];
        run(
            level,
            (layer, sweep.images),
            sizes,
            (x, y, Onto::Write),
            memory,
        );
    }

    /// The gradient of `x`.
    pub(super) fn backward_input(
        &mut self,
        level: Level,
        strips: &Strips,
        [weight, dy]: [&[f32]; 2],
        (dx, onto): (Shared, Onto),
        memory: &mut Aligned,
    ) {
        let layer = &mut self.backward;
        layer.pack_bias(&[]);
        let Phase { sweep, taps } = &self.phase;
        pack(level, strips, weight, taps, memory);
        let sizes = [sweep.from, sweep.to];
        run(level, (layer, sweep.images), sizes, (dy, dx, onto), memory);
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
            padding: self.forward.window.padding,
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

fn run(
    level: Level,
    (layer, images): (&Convolution, usize),
    [from, to]: [graph::Shape; 2],
    (x, y, onto): (&[f32], Shared, Onto),
    weight: &Aligned,
) {
    let images_of = |values: Shared, shape: graph::Shape| Images {
        values,
        size: [shape.height, shape.width],
        channels: shape.channels,
        pitch: shape.channels,
    };
    let output = images_of(y, to);
    let pass = Pass {
        layer,
        images,
        input: images_of(Shared::reading(x), from),
        output,
        residual: (onto == Onto::Add).then_some(output),
        after: Activation::None,
    };
    // SAFETY: the level is the processor's; the caller has checked the lengths and has `y` for itself. A residual's value is
    // read just before it is written.
    unsafe { winograd::run(&pass, level, weight) };
}

/// Lays transformed weights out, `[strips, places, sums, strip]`.
fn pack(level: Level, strips: &Strips, weight: &[f32], taps: &[usize], memory: &mut Aligned) {
    let places = strips.places(weight, taps);
    let len = strips.strip_len();
    let to = memory.at_least(PLACES / TAPS * strips.len());
    (to.par_chunks_exact_mut(PLACES / TAPS * len).enumerate()).for_each(|(index, to)| {
        // The taps go where the last places will be: those of a channel are read before its places are written.
        let last = to.len() - len;
        strips.pack_one(level, weight, &places, index, &mut to[last..]);
        // SAFETY: the level is the processor's, and a strip has these places.
        unsafe { spread(level, strips, to) };
    });
}

dispatch! {
    /// From a strip's taps, in its last places, to all its places.
    fn spread(strips: &Strips, values: &mut [f32]) = spread_kernel
}

#[inline(always)]
unsafe fn spread_kernel<V: Vector>(strips: &Strips, values: &mut [f32]) {
    let apart = strips.sums * strips.strip;
    let values = values.as_mut_ptr();
    for at in (0..apart).step_by(V::LEN) {
        // SAFETY: as the caller's: there is a whole vector at each place.
        unsafe {
            let mut rows = [[V::splat(0.0); 3]; 6];
            for column in 0..3 {
                let tap = |row: usize| values.add((PLACES - TAPS + row * 3 + column) * apart + at);
                let taps = to_places([V::load(tap(0)), V::load(tap(1)), V::load(tap(2))]);
                for (row, place) in rows.iter_mut().zip(taps) {
                    row[column] = place;
                }
            }
            for (y, row) in rows.into_iter().enumerate() {
                for (x, place) in to_places(row).into_iter().enumerate() {
                    place.store(values.add((y * 6 + x) * apart + at));
                }
            }
        }
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

/// A filter's three values to six places.
#[inline(always)]
unsafe fn to_places<V: Vector>([a, b, c]: [V; 3]) -> [V; 6] {
    // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
    unsafe {
        let sixth = V::splat(-1.0 / 6.0);
        let (ends, middle) = (a.add(c).mul(sixth), b.mul(sixth));
        let far = a.mul_add(V::splat(1.0 / 24.0), c.mul(V::splat(1.0 / 6.0)));
        let twelfth = b.mul(V::splat(1.0 / 12.0));
        [
            a.mul(V::splat(0.25)),
            ends.add(middle),
            middle.mul_add(V::splat(-1.0), ends),
            far.add(twelfth),
            twelfth.mul_add(V::splat(-1.0), far),
            c,
        ]
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
