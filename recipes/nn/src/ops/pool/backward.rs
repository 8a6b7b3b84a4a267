//! What a loss changes with the values that a pool read.
//!
//! Windows overlap, so that some channels of an image are a task, and no two tasks write the same values.

use rayon::prelude::*;

use super::{Axis, Fields};
use crate::{
    graph::{Pool, Reduction, Shape},
    host::Shared,
    ops::Onto,
    simd::{Level, Vector, dispatch, load_up_to, store_up_to},
};

/// Channels of a task.
const TASK_CHANNELS: usize = 64;

/// A pool on its way back. All values are `[images, height, width, channels]`.
#[derive(Clone, Copy)]
pub(crate) struct Backward<'a> {
    pub(crate) fields: &'a Fields<'a>,
    pub(crate) from: Shape,
    pub(crate) to: Shape,
    /// What it read.
    pub(crate) x: &'a [f32],
    /// What it gave.
    pub(crate) y: &'a [f32],
    pub(crate) dy: &'a [f32],
}

impl Backward<'_> {
    /// Computes `dx` on rayon's pool. A maximum's gradient is that of the first value of its window which is as large; a mean
    /// reads neither `x` nor `y`, which may be empty then.
    ///
    /// # Panics
    /// Lengths do not fit.
    pub(crate) fn run(&self, level: Level, dx: &mut [f32], onto: Onto) {
        let (from, to) = (self.from, self.to);
        let images = dx.len() / from.values();
        let is_max = matches!(
            self.fields,
            Fields::Pool(Pool {
                reduction: Reduction::Max,
                ..
            })
        );
        assert_eq!(from.channels, to.channels, "channels");
        assert_eq!(self.dy.len(), images * to.values(), "images");
        if is_max {
            assert_eq!([self.x.len(), self.y.len()], [dx.len(), self.dy.len()]);
        }
        let axis = |axis, size, outputs| Axis::new(self.fields, axis, size, outputs);
        let axes = [
            axis(0, from.height, to.height),
            axis(1, from.width, to.width),
        ];
        let dx = Shared::new(dx);
        let parts = from.channels.div_ceil(TASK_CHANNELS);
        (0..images * parts).into_par_iter().for_each(|task| {
            let (image, first) = (task / parts, task % parts * TASK_CHANNELS);
            let task = Task {
                pool: self,
                axes: &axes,
                image,
                first,
                channels: TASK_CHANNELS.min(from.channels - first),
                dx,
                onto,
            };
            // SAFETY: the level is the processor's; these channels of the image are this task's alone, and the lengths have been
            // checked.
            unsafe {
                if is_max {
                    largest(level, &task);
                } else {
                    mean(level, &task);
                }
            }
        });
    }
}

/// Some channels of an image.
struct Task<'a> {
    pool: &'a Backward<'a>,
    axes: &'a [Axis; 2],
    image: usize,
    first: usize,
    channels: usize,
    dx: Shared,
    onto: Onto,
}

dispatch!(fn largest(task: &Task<'_>) = largest_kernel);
dispatch!(fn mean(task: &Task<'_>) = mean_kernel);

#[inline(always)]
unsafe fn largest_kernel<V: Vector>(task: &Task<'_>) {
    // SAFETY: as the caller's.
    unsafe { task.spread::<V, true>() }
}

#[inline(always)]
unsafe fn mean_kernel<V: Vector>(task: &Task<'_>) {
    // SAFETY: as the caller's.
    unsafe { task.spread::<V, false>() }
}

impl Task<'_> {
    #[inline(always)]
    unsafe fn spread<V: Vector, const MAX: bool>(&self) {
        let Backward { from, to, .. } = *self.pool;
        // SAFETY: the instruction set is there, as the caller promises.
        let [none, all_more] = unsafe { [V::splat(0.0), V::splat(f32::INFINITY)] };
        let all = from.channels;
        // SAFETY: as the caller's: the images have these pixels, and `count` channels from there on.
        unsafe {
            if self.onto == Onto::Write {
                for pixel in 0..from.pixels() {
                    let at = (self.image * from.pixels() + pixel) * all + self.first;
                    std::ptr::write_bytes(self.dx.at(at), 0, self.channels);
                }
            }
            for (row, (down, tall)) in self.axes[0].fields.iter().enumerate() {
                for (column, (across, wide)) in self.axes[1].fields.iter().enumerate() {
                    let share = V::splat(1.0 / (tall * wide).max(1) as f32);
                    let output = self.image * to.pixels() + row * to.width + column;
                    for channel in (0..self.channels).step_by(V::LEN) {
                        let count = V::LEN.min(self.channels - channel);
                        let channel = self.first + channel;
                        let place = output * all + channel;
                        let mut rest: V = load_up_to(self.pool.dy.as_ptr().add(place), count);
                        let mut y = V::splat(0.0);
                        if MAX {
                            y = load_up_to(self.pool.y.as_ptr().add(place), count);
                        } else {
                            rest = rest.mul(share);
                        }
                        for line in down.clone() {
                            let line = self.image * from.pixels() + line * from.width;
                            for pixel in across.clone() {
                                let at = (line + pixel) * all + channel;
                                let mut part = rest;
                                if MAX {
                                    let x: V = load_up_to(self.pool.x.as_ptr().add(at), count);
                                    // Where this value is the largest, nothing is left for those after it.
                                    let less = x.mul_add(V::splat(-1.0), y);
                                    rest = rest.where_between(less, none, all_more);
                                    part = rest.mul_add(V::splat(-1.0), part);
                                }
                                let dx = self.dx.at(at);
                                store_up_to(load_up_to::<V>(dx, count).add(part), dx, count);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{flat, random};

    #[test]
    fn levels_agree_to_the_bit() {
        let from = Shape {
            channels: 75,
            height: 7,
            width: 6,
        };
        for pool in [
            Pool::max(3).stride(2).padding(1),
            Pool::max(2).ceil(),
            Pool::mean(3).padding(1),
        ] {
            let size = pool.window.over([from.height, from.width], pool.ceil);
            let [height, width] = size.unwrap();
            let to = Shape {
                height,
                width,
                ..from
            };
            // Many values are equal, and what a maximum gave is one of them.
            let x: Vec<f32> = flat(&random(&[2, from.values()], 3))
                .iter()
                .map(|x| x.round())
                .collect();
            let y = vec![1.0; 2 * to.values()];
            let dy = flat(&random(&[2, to.values()], 5));
            let run = |level, onto| {
                let mut dx = vec![0.5; x.len()];
                let backward = Backward {
                    fields: &Fields::Pool(&pool),
                    from,
                    to,
                    x: &x,
                    y: &y,
                    dy: &dy,
                };
                backward.run(level, &mut dx, onto);
                dx
            };
            let expected = run(Level::Portable, Onto::Write);
            assert!(expected.iter().any(|dx| *dx != 0.0));
            for level in Level::all() {
                assert_eq!(run(level, Onto::Write), expected, "{level:?}, {pool:?}");
                let added = run(level, Onto::Add);
                for (added, written) in added.iter().zip(&expected) {
                    assert!((added - written - 0.5).abs() < 1e-5, "{level:?}, {pool:?}");
                }
            }
        }
    }
}
