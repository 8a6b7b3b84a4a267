//! Maxima and means under a window, or over fields of pixels.

mod backward;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use std::ops::Range;

use rayon::prelude::*;

use super::Images;
use crate::{
    graph::{Pool, Reduction, Window, field},
    simd::{Level, Vector, dispatch, load_up_to, store_up_to},
};
pub(crate) use backward::Backward;

/// The pixels that become one.
pub(crate) enum Fields<'a> {
    /// Those under a moving window.
    Pool(&'a Pool),
    /// As many as the output has pixels.
    Even,
}

/// The pixels of a line or a column of the output.
struct Axis {
    /// Of each output, the pixels, and how many a mean takes them for.
    fields: Vec<(Range<usize>, usize)>,
}

impl Axis {
    fn new(fields: &Fields<'_>, axis: usize, size: usize, outputs: usize) -> Self {
        let of = |index| match fields {
            Fields::Pool(pool) => {
                let window: Window = pool.window;
                let (pixels, covered) = window.pixels(axis, size, index);
                let counted = match pool.reduction {
                    Reduction::Mean {
                        count_padding: false,
                    } => pixels.len(),
                    _ => covered,
                };
                (pixels, counted)
            }
            Fields::Even => {
                let pixels = field(size, outputs, index);
                let counted = pixels.len();
                (pixels, counted)
            }
        };
        Self {
            fields: (0..outputs).map(of).collect(),
        }
    }
}

/// Computes it on rayon's pool.
///
/// # Safety
/// Nobody else uses the images meanwhile; the output is none of the input.
pub(crate) unsafe fn run(
    level: Level,
    images: usize,
    [from, to]: [Images; 2],
    fields: &Fields<'_>,
) {
    assert_eq!(from.channels, to.channels, "channels");
    let axes = [0, 1].map(|axis| Axis::new(fields, axis, from.size[axis], to.size[axis]));
    let max = matches!(
        fields,
        Fields::Pool(Pool {
            reduction: Reduction::Max,
            ..
        })
    );
    let [height, width] = to.size;
    // A line is a task.
    (0..images * height).into_par_iter().for_each(|line| {
        let (image, row) = (line / height, line % height);
        let task = Task {
            from,
            first: image * from.pixels(),
            down: &axes[0].fields[row],
            across: &axes[1],
            to,
            pixel: line * width,
        };
        // SAFETY: the level is the processor's, and the line of the output is this task's alone.
        unsafe {
            if max {
                largest(level, &task);
            } else {
                mean(level, &task);
            }
        }
    });
}

/// A line of the output.
struct Task<'a> {
    from: Images,
    /// The image's first pixel.
    first: usize,
    down: &'a (Range<usize>, usize),
    across: &'a Axis,
    to: Images,
    /// The line's first pixel.
    pixel: usize,
}

dispatch!(fn largest(task: &Task<'_>) = largest_kernel);
dispatch!(fn mean(task: &Task<'_>) = mean_kernel);

#[inline(always)]
unsafe fn largest_kernel<V: Vector>(task: &Task<'_>) {
    // SAFETY: as the caller's.
    unsafe { task.reduce::<V, true>() }
}

#[inline(always)]
unsafe fn mean_kernel<V: Vector>(task: &Task<'_>) {
    // SAFETY: as the caller's.
    unsafe { task.reduce::<V, false>() }
}

impl Task<'_> {
    #[inline(always)]
    unsafe fn reduce<V: Vector, const MAX: bool>(&self) {
        let channels = self.from.channels;
        for (column, (across, wide)) in self.across.fields.iter().enumerate() {
            let share = 1.0 / (self.down.1 * wide).max(1) as f32;
            for channel in (0..channels).step_by(V::LEN) {
                let count = V::LEN.min(channels - channel);
                // SAFETY: as the caller's: the image has these pixels, and `count` channels from there on.
                unsafe {
                    let mut result = V::splat(if MAX { f32::NEG_INFINITY } else { 0.0 });
                    for row in self.down.0.clone() {
                        let line = self.first + row * self.from.size[1];
                        for x in across.clone() {
                            let x: V = load_up_to(self.from.pixel(line + x).add(channel), count);
                            result = if MAX { x.max(result) } else { x.add(result) };
                        }
                    }
                    if !MAX {
                        result = result.mul(V::splat(share));
                    }
                    let to = self.to.pixel(self.pixel + column).add(channel);
                    store_up_to(result, to, count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{
        Shared,
        tests::{flat, random},
    };

    /// Images of `[height, width, channels]` between others' channels.
    fn run_on(pool: &Pool, [height, width, channels]: [usize; 3], level: Level) -> Vec<f32> {
        let (images, pitch) = (2, channels + 3);
        let mut x = flat(&random(&[images, height, width, pitch], 1));
        let out = pool.window.over([height, width], pool.ceil).unwrap();
        let mut y = vec![f32::NAN; images * out[0] * out[1] * (channels + 1)];
        let from = Images {
            values: Shared::new(&mut x).from(2),
            size: [height, width],
            channels,
            pitch,
        };
        let to = Images {
            values: Shared::new(&mut y).from(1),
            size: out,
            channels,
            pitch: channels + 1,
        };
        // SAFETY: the memory is there, and nobody else uses it.
        unsafe { run(level, images, [from, to], &Fields::Pool(pool)) };
        // What lies between is untouched.
        assert!(y.iter().step_by(channels + 1).all(|x| x.is_nan()));
        y.chunks_exact(channels + 1)
            .flat_map(|y| y[1..].to_vec())
            .collect()
    }

    #[test]
    fn levels_agree_to_the_bit_between_other_channels() {
        for pool in [
            Pool::max(3).stride(2).padding(1),
            Pool::max(3).stride(2).ceil(),
            Pool::mean(3).padding(1),
            Pool {
                reduction: Reduction::Mean {
                    count_padding: false,
                },
                ..Pool::mean([3, 2]).stride([1, 2]).padding(1).ceil()
            },
        ] {
            for shape in [[7, 8, 5], [5, 6, 32], [3, 3, 19]] {
                let expected = run_on(&pool, shape, Level::Portable);
                assert!(expected.iter().all(|x| x.is_finite()));
                for level in Level::all() {
                    assert_eq!(
                        run_on(&pool, shape, level),
                        expected,
                        "{level:?}, {pool:?}, {shape:?}"
                    );
                }
            }
        }
    }
}
