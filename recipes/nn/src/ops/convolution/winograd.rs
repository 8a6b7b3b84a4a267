//! 3x3 convolutions of neighbouring pixels with a quarter of the multiplications: Winograd's F(4x4, 3x3) (Lavin and Gray,
//! "Fast Algorithms for Convolutional Neural Networks").
//!
//! Six by six pixels are transformed, multiplied with weights that were transformed likewise, place by place, and what comes
//! out is transformed to four by four pixels of the output. Per place that is a matrix product over channels, of as many
//! rows as there are such squares. The numbers of the transforms are small (up to 8), so that in f32 the result is good to a
//! few millionths of its inputs' scale.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Convolution, Pass, Weights,
    kernel::{Finish, Product},
};
use crate::{
    aligned::Aligned,
    graph, host,
    matmul::tiles,
    simd::{Level, Vector, dispatch, load_up_to, store_up_to},
    workspace::with_thread_memory,
};

/// Pixels of the output that are computed together, down and across.
const OUT: usize = 4;
/// Pixels of the input that they see.
const IN: usize = OUT + 2;
/// Places of a square.
const PLACES: usize = IN * IN;
/// Pixels of an image from which on it is worth it: the transformed weights are four times as many to read. The many layers
/// that deep networks have on fewer pixels would add up their errors besides.
const LEAST_PIXELS: usize = 576;
/// Channels from which on the products outweigh the transforms.
const LEAST_CHANNELS: usize = 16;
/// Values of a task's transformed input, about.
const NEAR: usize = 96 << 10;
/// Rows of a task's products come in multiples of this.
const ROWS: usize = 12;
/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 3;

/// Whether a convolution of an image is computed so.
pub(super) fn takes(layer: &graph::Convolution, inputs: usize, pixels: usize) -> bool {
    layer.window.kernel == [3, 3]
        && layer.window.stride == [1, 1]
        && layer.groups == 1
        && inputs.min(layer.outputs) >= LEAST_CHANNELS
        && pixels >= LEAST_PIXELS
}

/// Weights `[strips, places, inputs, strip]`.
pub(super) fn pack(layer: &Convolution, weights: Weights<'_>) -> Aligned {
    /// From a filter's three values to the six places.
    const TO_PLACES: [[f64; 3]; IN] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    let (inputs, strip) = (layer.inputs, layer.strip);
    let len = PLACES * inputs * strip;
    let mut packed = Aligned::zeros(layer.strips() * len);
    let strips = packed.as_mut_slice().par_chunks_exact_mut(len);
    strips
        .take(layer.strips())
        .enumerate()
        .for_each(|(index, to)| {
            for lane in 0..strip.min(layer.outputs - index * strip) {
                let from = &weights.weight[(index * strip + lane) * inputs * 9..][..inputs * 9];
                for input in 0..inputs {
                    let source = weights.order.map_or(input, |order| order[input]);
                    let filter = &from[source * 9..][..9];
                    for place in 0..PLACES {
                        let [down, across] = [TO_PLACES[place / IN], TO_PLACES[place % IN]];
                        let term =
                            |tap: usize| f64::from(filter[tap]) * down[tap / 3] * across[tap % 3];
                        let sum: f64 = (0..9).map(term).sum();
                        to[(place * inputs + input) * strip + lane] = sum as f32;
                    }
                }
            }
        });
    packed
}

/// Computes a pass on rayon's pool.
///
/// # Safety
/// As [`Pass::run`]'s.
pub(super) unsafe fn run(pass: &Pass<'_>, level: Level, weight: &Aligned) {
    let layer = pass.layer;
    let squares = pass.output.size.map(|size| size.div_ceil(OUT));
    let all = pass.images * squares[0] * squares[1];
    let threads = rayon::current_num_threads();
    let wanted = if threads > 1 {
        threads * TASKS_PER_THREAD
    } else {
        1
    };
    let most = (NEAR / (PLACES * layer.inputs))
        .max(ROWS)
        .next_multiple_of(ROWS)
        .min(4 * ROWS);
    // Where one task could take all squares, each reads its part of the weights instead.
    let (parts, strips) = if all <= most {
        (1, threads)
    } else {
        (all.div_ceil(most).max(wanted.min(all.div_ceil(ROWS))), 1)
    };
    let parts = host::split(all, if all / parts >= ROWS { ROWS } else { 1 }, parts);
    let strips = host::split(layer.strips(), 1, strips);
    (0..parts.len() * strips.len())
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| {
            let tiles = parts[task / strips.len()].clone();
            let strips = strips[task % strips.len()].clone();
            let transformed = PLACES * tiles.len() * layer.inputs;
            let products = PLACES * tiles.len() * layer.strip;
            with_thread_memory(transformed.next_multiple_of(16) + products, |memory| {
                let (transformed, products) = memory.split_at_mut(transformed.next_multiple_of(16));
                let block = Block {
                    pass,
                    weight,
                    squares,
                    tiles,
                    strips,
                };
                // SAFETY: as the caller's; no two tasks share both squares and strips; there is room for both.
                unsafe { compute(level, &block, transformed, products) };
            });
        });
}

/// Some squares by some strips.
struct Block<'a> {
    pass: &'a Pass<'a>,
    weight: &'a Aligned,
    /// Squares of an image, down and across.
    squares: [usize; 2],
    /// Squares, counted through all images.
    tiles: Range<usize>,
    strips: Range<usize>,
}

dispatch!(fn compute(block: &Block<'_>, transformed: &mut [f32], products: &mut [f32]) = compute_kernel);

#[inline(always)]
unsafe fn compute_kernel<V: Vector>(
    block: &Block<'_>,
    transformed: &mut [f32],
    products: &mut [f32],
) {
    let layer = block.pass.layer;
    let (inputs, count) = (layer.inputs, block.tiles.len());
    let transformed = transformed.as_mut_ptr();
    let products = products.as_mut_ptr();
    // SAFETY: as `run`'s: there are `[PLACES, count, inputs]` transformed values and `[PLACES, count, 2 * LEN]` products.
    unsafe {
        for index in 0..count {
            block.transform::<V>(index, transformed.add(index * inputs));
        }
        for strip in block.strips.clone() {
            let outputs = layer.strip.min(layer.outputs - strip * layer.strip);
            for column in (0..outputs).step_by(2 * V::LEN) {
                let weight = block.weight.as_slice().as_ptr();
                let weight = weight.add(strip * PLACES * inputs * layer.strip + column);
                for place in 0..PLACES {
                    let product = Product {
                        runs: &[0],
                        words: inputs,
                        stride: inputs,
                        pitch: layer.strip,
                    };
                    let mut rows = tiles::<V>(0..count);
                    while let Some(rows) = rows.next() {
                        let x = transformed.add((place * count + rows.start) * inputs);
                        let weight = weight.add(place * inputs * layer.strip);
                        let to = products.add((place * count + rows.start) * 2 * V::LEN);
                        product.sum::<V>(x, weight, [rows.len(), outputs - column], to);
                    }
                }
                for index in 0..count {
                    let sums = products.add(index * 2 * V::LEN);
                    let finish = Finish {
                        pass: block.pass,
                        bias: layer.bias.as_slice()[strip * layer.strip + column..].as_ptr(),
                        first: strip * layer.strip + column,
                    };
                    for half in (0..outputs - column).step_by(V::LEN).take(2) {
                        block.untransform::<V>(
                            index,
                            sums.add(half),
                            &finish,
                            half,
                            V::LEN.min(outputs - column - half),
                        );
                    }
                }
            }
        }
    }
}

impl Block<'_> {
    /// A square's image and its first pixel of the output.
    #[inline(always)]
    fn place(&self, index: usize) -> (usize, [usize; 2]) {
        let tile = self.tiles.start + index;
        let [down, across] = self.squares;
        (
            tile / (down * across),
            [tile / across % down * OUT, tile % across * OUT],
        )
    }

    /// A square's pixels to its places: `to` is the first one's, and they are `tiles * inputs` apart.
    #[inline(always)]
    unsafe fn transform<V: Vector>(&self, index: usize, to: *mut f32) {
        let (input, layer) = (&self.pass.input, self.pass.layer);
        let (image, [top, left]) = self.place(index);
        let [height, width] = input.size;
        let [above, before] = layer.window.padding;
        let apart = self.tiles.len() * layer.inputs;
        for channel in (0..layer.inputs).step_by(V::LEN) {
            let count = V::LEN.min(layer.inputs - channel);
            // SAFETY: as the caller's: pixels within the image are read, `count` channels of each; there is room for as many at
            // each place.
            unsafe {
                let zero = V::splat(0.0);
                let mut rows = [[zero; IN]; IN];
                for column in 0..IN {
                    // Wraps around to what is outside, before the first one.
                    let x = (left + column).wrapping_sub(before);
                    if x < width {
                        let mut pixels = [zero; IN];
                        for (y, pixel) in pixels.iter_mut().enumerate() {
                            let y = (top + y).wrapping_sub(above);
                            if y < height {
                                let at = (image * height + y) * width + x;
                                *pixel = load_up_to(input.pixel(at).add(channel), count);
                                if let Some(scaling) = &layer.before {
                                    let scale =
                                        load_up_to(scaling.scale.as_ptr().add(channel), count);
                                    let shift =
                                        load_up_to(scaling.shift.as_ptr().add(channel), count);
                                    *pixel = scaling.activation.apply(pixel.mul_add(scale, shift));
                                }
                            }
                        }
                        for (row, place) in rows.iter_mut().zip(to_places(pixels)) {
                            row[column] = place;
                        }
                    }
                }
                for (y, row) in rows.into_iter().enumerate() {
                    for (x, value) in to_places(row).into_iter().enumerate() {
                        let to = to.add((y * IN + x) * apart + channel);
                        store_up_to(value, to, count);
                    }
                }
            }
        }
    }

    /// A square's sums, of which those of the places are `tiles` vectors' pairs apart, to its pixels of the output.
    #[inline(always)]
    unsafe fn untransform<V: Vector>(
        &self,
        index: usize,
        sums: *const f32,
        finish: &Finish<'_>,
        half: usize,
        count: usize,
    ) {
        let apart = self.tiles.len() * 2 * V::LEN;
        let (image, [top, left]) = self.place(index);
        let [height, width] = self.pass.output.size;
        // SAFETY: as the caller's; only pixels of the output are written.
        unsafe {
            let zero = V::splat(0.0);
            let mut rows = [[zero; IN]; OUT];
            for column in 0..IN {
                let mut places = [zero; IN];
                for (y, place) in places.iter_mut().enumerate() {
                    *place = V::load(sums.add((y * IN + column) * apart));
                }
                for (row, pixel) in rows.iter_mut().zip(to_pixels(places)) {
                    row[column] = pixel;
                }
            }
            for (y, row) in rows.into_iter().enumerate().take(height - top) {
                let pixels = to_pixels(row);
                let first = (image * height + top + y) * width + left;
                for (x, value) in pixels.into_iter().enumerate().take(width - left) {
                    finish.store(value, first + x, half, count);
                }
            }
        }
    }
}

/// `a - b * factor`.
#[inline(always)]
unsafe fn less<V: Vector>(a: V, b: V, factor: f32) -> V {
    // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
    unsafe { b.mul_add(V::splat(-factor), a) }
}

/// Six pixels to six places.
#[inline(always)]
pub(super) unsafe fn to_places<V: Vector>(d: [V; IN]) -> [V; IN] {
    // SAFETY: as for `less`.
    unsafe {
        let four = V::splat(4.0);
        let even = less(d[4], d[2], 4.0);
        let odd = less(d[3], d[1], 4.0);
        let near = less(d[4], d[2], 1.0);
        let far = less(d[3], d[1], 1.0);
        [
            d[0].mul_add(four, less(d[4], d[2], 5.0)),
            even.add(odd),
            less(even, odd, 1.0),
            far.mul_add(V::splat(2.0), near),
            less(near, far, 2.0),
            d[1].mul_add(four, less(d[5], d[3], 5.0)),
        ]
    }
}

/// Six places to four pixels.
#[inline(always)]
unsafe fn to_pixels<V: Vector>(m: [V; IN]) -> [V; OUT] {
    // SAFETY: as for `less`.
    unsafe {
        let (sum, difference) = (m[1].add(m[2]), less(m[1], m[2], 1.0));
        let (further, apart) = (m[3].add(m[4]), less(m[3], m[4], 1.0));
        [
            m[0].add(sum).add(further),
            apart.mul_add(V::splat(2.0), difference),
            further.mul_add(V::splat(4.0), sum),
            apart.mul_add(V::splat(8.0), difference).add(m[5]),
        ]
    }
}
