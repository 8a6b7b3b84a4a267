//! Antialiased bicubic resizing and a centre crop, to the bit as Pillow does them.
//!
//! The models were trained on images resized by Pillow; without antialiasing, or with another filter, probabilities
//! move by 0.2. Pillow resizes in two passes, columns first, each rounding to 8 bits from fixed-point weights of
//! 22 bits (`src/libImaging/Resample.c`). Here only those rows and columns are computed that the crop keeps.

use std::ops::Range;

use galley_nn::picture;
use pulp::{Arch, Simd, WithSimd};

use crate::{Rgb, orientation::Orientation};

/// Fraction bits of a weight: what is left of 32 bits beside 8 of the pixel and 2 of overshoot.
const FRACTION: u32 = 32 - 8 - 2;
/// The filter reaches so many pixels to each side, at the larger of both scales.
const SUPPORT: f64 = 2.0;
/// Lines that are resized along their length beside each other: a pixel of all of them is a vector or several.
const LINES: usize = 32;

/// What the network sees of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The shorter side after resizing.
    pub resize: usize,
    /// The side of the square cut from its middle; at most `resize`.
    pub crop: usize,
}

impl View {
    /// The view of an image: `crop * crop` pixels of red, green and blue.
    pub fn of(self, image: &Rgb) -> Vec<u8> {
        let [columns, rows] = self.axes([image.width, image.height]);
        Arch::new().dispatch(Resizing {
            image,
            columns: &columns,
            rows: &rows,
        })
    }

    /// How a device makes the same of an image of this size, which it decodes itself: it is turned first. None where it has no room
    /// for that.
    pub(crate) fn on_device(
        self,
        size: [usize; 2],
        orientation: Orientation,
    ) -> Option<picture::Resize> {
        let Orientation {
            upside_down,
            mirrored,
            swapped,
        } = orientation;
        let [mut width, mut height] = size;
        if swapped {
            std::mem::swap(&mut width, &mut height);
        }
        let axes = self.axes([width, height]).map(|axis| axis.on_device());
        picture::Resize::new(size, [upside_down, mirrored, swapped], axes)
    }

    /// Along and across the lines of an image of this size.
    fn axes(self, size: [usize; 2]) -> [Axis; 2] {
        let short = size[0].min(size[1]);
        // As torchvision: the longer side is rounded down.
        let scaled = |side: usize| (self.resize as u128 * side as u128 / short as u128) as usize;
        size.map(|side| Axis::new(side, scaled(side), self.crop))
    }
}

/// Both passes, compiled for the vectors that there are.
struct Resizing<'a> {
    image: &'a Rgb,
    columns: &'a Axis,
    rows: &'a Axis,
}

impl WithSimd for Resizing<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let kept = self.rows.under();
        let line = self.image.width * 3;
        let lines = &self.image.pixels[kept.start * line..kept.end * line];
        let narrow = self.columns.resize_lines(lines, line);
        let line = self.columns.taps.len() * 3;
        self.rows.resize_columns(&narrow, line, kept.start)
    }
}

/// The weights of the output pixels along one axis.
struct Axis {
    taps: Vec<Tap>,
    weights: Vec<i32>,
}

/// The input pixels that make up an output pixel.
struct Tap {
    start: usize,
    count: usize,
    /// Where its weights begin.
    weights: usize,
}

/// The cubic filter of Keys with `a = -0.5`.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Half, to the even one: Python's `round`, by which the references place the crop.
fn half(n: usize) -> usize {
    let down = n / 2;
    down + (n % 2) * (down % 2)
}

impl Axis {
    /// From `size` pixels to the middle `crop` of `scaled`.
    fn new(size: usize, scaled: usize, crop: usize) -> Self {
        let first = half(scaled - crop);
        let scale = size as f64 / scaled as f64;
        let stretch = scale.max(1.0);
        let support = SUPPORT * stretch;
        let mut axis = Self {
            taps: Vec::with_capacity(crop),
            weights: Vec::new(),
        };
        for out in first..first + crop {
            let center = (out as f64 + 0.5) * scale;
            // The casts cut off what is left of the image, and its fractions, as C's do.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(size);
            let exact: Vec<f64> = (start..end)
                .map(|i| bicubic((i as f64 - center + 0.5) * (1.0 / stretch)))
                .collect();
            let sum: f64 = exact.iter().sum();
            axis.taps.push(Tap {
                start,
                count: end - start,
                weights: axis.weights.len(),
            });
            axis.weights.extend(exact.iter().map(|weight| {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                (weight * f64::from(1 << FRACTION) + 0.5f64.copysign(weight)) as i32
            }));
        }
        axis
    }

    fn weights(&self, tap: &Tap) -> &[i32] {
        &self.weights[tap.weights..][..tap.count]
    }

    fn on_device(&self) -> picture::Axis {
        let taps = self.taps.iter().map(|tap| (tap.start, self.weights(tap)));
        picture::Axis::new(&taps.collect::<Vec<_>>())
    }

    /// The input pixels that any of the output's are made of.
    fn under(&self) -> Range<usize> {
        let first = self.taps.first().map_or(0, |tap| tap.start);
        let end = self.taps.last().map_or(0, |tap| tap.start + tap.count);
        first..end
    }

    /// Resizes each line of `line` bytes along its length.
    #[inline(always)]
    fn resize_lines(&self, lines: &[u8], line: usize) -> Vec<u8> {
        let (kept, width) = (self.under(), self.taps.len() * 3);
        let mut out = vec![0; lines.len() / line.max(1) * width];
        let mut turned = vec![0; kept.len() * LINES * 3];
        let groups = lines.chunks(LINES * line.max(1));
        for (group, out) in groups.zip(out.chunks_mut(LINES * width)) {
            let column = group.len() / line * 3;
            for (i, line) in group.chunks_exact(line).enumerate() {
                let pixels = line[kept.start * 3..].as_chunks::<3>().0.iter();
                for (pixel, column) in pixels.zip(turned.chunks_exact_mut(column)) {
                    column[i * 3..i * 3 + 3].copy_from_slice(pixel);
                }
            }
            let mut sums = vec![0; column];
            for (x, tap) in self.taps.iter().enumerate() {
                let under = &turned[(tap.start - kept.start) * column..];
                self.sum(tap, under, &mut sums);
                let pixels = sums.as_chunks::<3>().0.iter();
                for (sums, line) in pixels.zip(out.chunks_exact_mut(width)) {
                    line[x * 3..x * 3 + 3].copy_from_slice(&sums.map(to_byte));
                }
            }
        }
        out
    }

    /// Resizes lines of `line` bytes across, the first of them being line `first` of the image.
    #[inline(always)]
    fn resize_columns(&self, lines: &[u8], line: usize, first: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.taps.len() * line);
        let mut sums = vec![0; line];
        for tap in &self.taps {
            self.sum(tap, &lines[(tap.start - first) * line..], &mut sums);
            out.extend(sums.iter().map(|sum| to_byte(*sum)));
        }
        out
    }

    /// The weighted sums of lines, as many as there are weights, each as long as the sums.
    #[inline(always)]
    fn sum(&self, tap: &Tap, lines: &[u8], sums: &mut [i32]) {
        let lines = lines.chunks_exact(sums.len());
        sums.fill(1 << (FRACTION - 1));
        for (line, weight) in lines.zip(self.weights(tap)) {
            for (sum, byte) in sums.iter_mut().zip(line) {
                *sum += i32::from(*byte) * weight;
            }
        }
    }
}

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_are_placed_as_python_rounds() {
        assert_eq!([0, 1, 2, 3, 4, 5, 7].map(half), [0, 0, 1, 2, 2, 2, 4]);
    }

    #[test]
    fn an_image_of_the_right_size_stays_as_it_is() {
        let pixels: Vec<u8> = (0..5 * 4 * 3).map(|i| (i * 37 % 256) as u8).collect();
        let image = Rgb::of_pixels(5, 4, pixels.clone());
        let view = View { resize: 4, crop: 4 };
        let expected: Vec<u8> = pixels
            .chunks(15)
            .flat_map(|row| row[..12].to_vec())
            .collect();
        assert_eq!(view.of(&image), expected);
    }

    /// What `cuda/resize.cu` does, with the same numbers.
    fn as_a_device_does(stored: &Rgb, resize: &picture::Resize) -> Vec<u8> {
        let side = resize.side();
        let [columns, rows] = resize.axes();
        let (sides, steps) = (resize.shown(), resize.steps());
        let under = |axis: &picture::Axis, i: usize, size: usize| {
            let start = axis.words()[i] as usize;
            (0..axis.taps().min(size - start))
                .map(|k| (start + k, axis.words()[side * (1 + k) + i]))
                .collect::<Vec<_>>()
        };
        let half = 1 << (FRACTION - 1);
        let across = |x: usize, y: usize, colour: usize| {
            let taps = under(columns, x, sides[0]);
            let sum = taps.iter().map(|&(column, weight)| {
                let right = column as isize * steps[0];
                let at = resize.first() as isize + right + y as isize * steps[1];
                i32::from(stored.pixels[at as usize * 3 + colour]) * weight
            });
            i32::from(to_byte(half + sum.sum::<i32>()))
        };
        let mut out = Vec::new();
        for y in 0..side {
            let taps = under(rows, y, sides[1]);
            for x in 0..side {
                for colour in 0..3 {
                    let sum = taps
                        .iter()
                        .map(|&(row, weight)| across(x, row, colour) * weight);
                    out.push(to_byte(half + sum.sum::<i32>()));
                }
            }
        }
        out
    }

    #[test]
    fn a_device_makes_the_same_of_the_same_pixels() {
        let view = View {
            resize: 40,
            crop: 36,
        };
        for (width, height) in [(1, 1), (3, 2), (37, 90), (100, 41), (64, 200)] {
            let pixels: Vec<u8> = (0..width * height * 3)
                .map(|i| (i * i % 251) as u8)
                .collect();
            for number in 1..=8 {
                let orientation = Orientation::new(number);
                let stored = Rgb::of_pixels(width, height, pixels.clone());
                let resize = view.on_device([width, height], orientation).unwrap();
                let on_device = as_a_device_does(&stored, &resize);
                let here = view.of(&stored.turned(orientation));
                assert_eq!(on_device, here, "{width}x{height}, turned by {number}");
            }
        }
    }

    #[test]
    fn one_colour_stays_that_colour_at_any_size() {
        for (width, height) in [(1, 1), (3, 2), (37, 500), (1, 900), (640, 427), (1000, 999)] {
            let image = Rgb::of_pixels(width, height, [200, 0, 255].repeat(width * height));
            let view = View {
                resize: 40,
                crop: 32,
            };
            assert_eq!(
                view.of(&image),
                [200, 0, 255].repeat(32 * 32),
                "{width}x{height}"
            );
        }
    }
}
