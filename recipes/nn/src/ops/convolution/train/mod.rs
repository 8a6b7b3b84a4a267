//! A convolution whose weights change with each step, and its gradients.
//!
//! Values are `[images, height, width, channels]`, contiguous; weights are as state dicts have them.

use rayon::prelude::*;

use crate::{
    graph::{Convolution, Shape},
    ops::Onto,
    simd::Level,
};

/// A convolution that is trained, for so many images at a time.
#[derive(Debug)]
pub(crate) struct Trained {
    layer: Convolution,
    from: Shape,
    to: Shape,
    images: usize,
}

/// A weight, and the values that it joins.
struct Tap {
    weight: usize,
    x: usize,
    y: usize,
}

impl Trained {
    /// Of images `from`, which become `to`.
    pub(crate) fn new(layer: &Convolution, from: Shape, to: Shape, images: usize) -> Self {
        let layer = layer.clone();
        Self {
            layer,
            from,
            to,
            images,
        }
    }

    /// `y = weight * x + bias`.
    pub(crate) fn forward(
        &mut self,
        _: Level,
        weight: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
    ) {
        let (from, to) = (self.from.values(), self.to.values());
        debug_assert_eq!(y.len(), self.images * to, "images");
        let images = y.par_chunks_exact_mut(to).zip(x.par_chunks_exact(from));
        images.for_each(|(y, x)| {
            for pixel in y.chunks_exact_mut(self.to.channels) {
                match bias {
                    Some(bias) => pixel.copy_from_slice(bias),
                    None => pixel.fill(0.0),
                }
            }
            self.taps(|tap| y[tap.y] += weight[tap.weight] * x[tap.x]);
        });
    }

    /// What a loss changes with `x`.
    pub(crate) fn backward_input(
        &mut self,
        _: Level,
        weight: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        onto: Onto,
    ) {
        let (from, to) = (self.from.values(), self.to.values());
        let images = dx.par_chunks_exact_mut(from).zip(dy.par_chunks_exact(to));
        images.for_each(|(dx, dy)| {
            if onto == Onto::Write {
                dx.fill(0.0);
            }
            self.taps(|tap| dx[tap.x] += weight[tap.weight] * dy[tap.y]);
        });
    }

    /// What a loss changes with weights and bias.
    pub(crate) fn backward_weight(
        &mut self,
        _: Level,
        x: &[f32],
        dy: &[f32],
        dweight: &mut [f32],
        dbias: Option<&mut [f32]>,
    ) {
        let (from, to) = (self.from.values(), self.to.values());
        dweight.fill(0.0);
        for (dy, x) in dy.chunks_exact(to).zip(x.chunks_exact(from)) {
            self.taps(|tap| dweight[tap.weight] += x[tap.x] * dy[tap.y]);
        }
        if let Some(dbias) = dbias {
            dbias.fill(0.0);
            for pixel in dy.chunks_exact(self.to.channels) {
                for (dbias, dy) in dbias.iter_mut().zip(pixel) {
                    *dbias += dy;
                }
            }
        }
    }

    /// All that an image's values are multiplied by.
    fn taps(&self, mut each: impl FnMut(Tap)) {
        let (from, to, window) = (self.from, self.to, self.layer.window);
        let [down, across] = window.kernel;
        let groups = self.layer.groups;
        let [inputs, outputs] = [from.channels / groups, to.channels / groups];
        for (pixel, tap) in (0..to.pixels()).flat_map(|y| (0..down * across).map(move |t| (y, t))) {
            let (row, column) = (pixel / to.width, pixel % to.width);
            let row = (row * window.stride[0] + tap / across).checked_sub(window.padding[0]);
            let column = (column * window.stride[1] + tap % across).checked_sub(window.padding[1]);
            let (Some(row), Some(column)) = (row, column) else {
                continue;
            };
            if row >= from.height || column >= from.width {
                continue;
            }
            let x = (row * from.width + column) * from.channels;
            for output in 0..to.channels {
                let first = output / outputs * inputs;
                for input in 0..inputs {
                    each(Tap {
                        weight: (output * inputs + input) * down * across + tap,
                        x: x + first + input,
                        y: pixel * to.channels + output,
                    });
                }
            }
        }
    }
}
