//! The transforms of squares and filters, and the products between.

use std::ops::Range;

use super::{IN, Memory, OUT, PLACES, Pass, TAPS, Values};
use crate::{
    matmul::tiles,
    ops::convolution::{
        strips::Strips,
        tile::{Sink, Tile},
    },
    simd::{Vector, dispatch, load_up_to},
};

dispatch! {
    /// Transforms some of the squares.
    pub(super) fn transform(pass: &Pass<'_>, memory: Memory, squares: &Range<usize>, some: Range<usize>) = transform_kernel
}
dispatch! {
    /// Multiplies so many squares by some places' weights of some strips.
    pub(super) fn multiply(pass: &Pass<'_>, memory: Memory, count: usize, some: (Range<usize>, Range<usize>)) = multiply_kernel
}
dispatch! {
    /// From the products of some of the squares by some strips to pixels of the output.
    pub(super) fn untransform(
        pass: &Pass<'_>,
        memory: Memory,
        squares: &Range<usize>,
        some: (Range<usize>, Range<usize>),
    ) = untransform_kernel
}

#[inline(always)]
unsafe fn transform_kernel<V: Vector>(
    pass: &Pass<'_>,
    memory: Memory,
    squares: &Range<usize>,
    some: Range<usize>,
) {
    let [height, width] = pass.x.size;
    let [above, before] = pass.padding;
    let Values {
        start,
        pitch,
        apart,
    } = memory.transformed;
    let inputs = pass.strips.sums;
    for index in some {
        let (image, [top, left]) = pass.place(squares.start + index);
        for channel in (0..inputs).step_by(V::LEN) {
            let count = V::LEN.min(inputs - channel);
            // SAFETY: as the caller's: pixels within the image are read, `count` channels of each; there is room for whole vectors
            // at each place.
            unsafe {
                let scaling = pass.before.map(|before| {
                    let scale: V = load_up_to(before.scale.as_ptr().add(channel), count);
                    let shift: V = load_up_to(before.shift.as_ptr().add(channel), count);
                    (scale, shift, before.activation)
                });
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
                                *pixel = load_up_to(pass.x.pixel(at).add(channel), count);
                                if let Some((scale, shift, activation)) = scaling {
                                    *pixel = activation.apply(pixel.mul_add(scale, shift));
                                }
                            }
                        }
                        for (row, place) in rows.iter_mut().zip(to_places(pixels)) {
                            row[column] = place;
                        }
                    }
                }
                let to = start.add(index * pitch + channel);
                for (y, row) in rows.into_iter().enumerate() {
                    for (x, value) in to_places(row).into_iter().enumerate() {
                        value.store(to.add((y * IN + x) * apart));
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn multiply_kernel<V: Vector>(
    pass: &Pass<'_>,
    memory: Memory,
    count: usize,
    (places, strips): (Range<usize>, Range<usize>),
) {
    let Strips { sums, strip, .. } = *pass.strips;
    let (from, to) = (memory.transformed, memory.products);
    for place in places {
        for index in strips.clone() {
            let channels = pass.strips.channels(index).len();
            let weight = pass.weight[(index * PLACES + place) * sums * strip..].as_ptr();
            for column in (0..channels).step_by(2 * V::LEN) {
                let mut rows = tiles::<V>(0..count);
                while let Some(rows) = rows.next() {
                    let x = place * from.apart + rows.start * from.pitch;
                    let y = place * to.apart + rows.start * to.pitch;
                    let y = y + (index - memory.first) * strip + column;
                    // SAFETY: as the caller's; whole vectors of the products are the strip's.
                    unsafe {
                        let tile = Tile {
                            x: from.start.add(x),
                            runs: &[0],
                            steps: sums,
                            step: 1,
                            row: from.pitch,
                            weight: weight.add(column),
                            pitch: strip,
                            ahead: None,
                        };
                        let columns = (channels - column).next_multiple_of(V::LEN);
                        let sink = Sink::plain(to.start.add(y), to.pitch, columns, false);
                        tile.sum::<V>(rows.len(), sink);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn untransform_kernel<V: Vector>(
    pass: &Pass<'_>,
    memory: Memory,
    squares: &Range<usize>,
    (some, strips): (Range<usize>, Range<usize>),
) {
    let [height, width] = pass.finish.to.size;
    let Values {
        start,
        pitch,
        apart,
    } = memory.products;
    for index in some {
        let (image, [top, left]) = pass.place(squares.start + index);
        for strip in strips.clone() {
            let channels = pass.strips.channels(strip);
            for column in (0..channels.len()).step_by(V::LEN) {
                let count = V::LEN.min(channels.len() - column);
                let at = index * pitch + (strip - memory.first) * pass.strips.strip + column;
                // SAFETY: as the caller's; only pixels of the output are written.
                unsafe {
                    let from = start.add(at);
                    let mut rows = [[V::splat(0.0); IN]; OUT];
                    for column in 0..IN {
                        let mut places = [V::splat(0.0); IN];
                        for (y, place) in places.iter_mut().enumerate() {
                            *place = V::load(from.add((y * IN + column) * apart));
                        }
                        for (row, pixel) in rows.iter_mut().zip(to_pixels(places)) {
                            row[column] = pixel;
                        }
                    }
                    for (y, row) in rows.into_iter().enumerate().take(height - top) {
                        let pixels = to_pixels(row);
                        let first = (image * height + top + y) * width + left;
                        for (x, value) in pixels.into_iter().enumerate().take(width - left) {
                            let channel = channels.start + column;
                            pass.finish.store(value, first + x, channel, count);
                        }
                    }
                }
            }
        }
    }
}

/// A filter's three values to six places.
#[inline(always)]
unsafe fn filter_places<V: Vector>([a, b, c]: [V; 3]) -> [V; 6] {
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

/// `a - b * factor`.
#[inline(always)]
unsafe fn less<V: Vector>(a: V, b: V, factor: f32) -> V {
    // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
    unsafe { b.mul_add(V::splat(-factor), a) }
}

/// Six pixels to six places.
#[inline(always)]
pub(in super::super) unsafe fn to_places<V: Vector>(d: [V; IN]) -> [V; IN] {
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

dispatch! {
    /// From a strip's taps, in its last places, to all its places.
    pub(super) fn spread(strips: &Strips, values: &mut [f32]) = spread_kernel
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
                let taps = filter_places([V::load(tap(0)), V::load(tap(1)), V::load(tap(2))]);
                for (row, place) in rows.iter_mut().zip(taps) {
                    row[column] = place;
                }
            }
            for (y, row) in rows.into_iter().enumerate() {
                for (x, place) in filter_places(row).into_iter().enumerate() {
                    place.store(values.add((y * 6 + x) * apart + at));
                }
            }
        }
    }
}
