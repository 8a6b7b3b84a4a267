//! 3x3 convolutions of neighbouring pixels with a quarter of the multiplications: Winograd's F(4x4, 3x3) (Lavin and Gray,
//! "Fast Algorithms for Convolutional Neural Networks").
//!
//! Six by six pixels are transformed, multiplied with weights that were transformed likewise, place by place, and what comes
//! out is transformed to four by four pixels of the output. Per place that is a matrix product over channels, of as many
//! rows as there are such squares. The numbers of the transforms are small (up to 8), so that in f32 the result is good to a
//! few millionths of its inputs' scale.
//!
//! Few weights stay in a thread's cache while it goes through its squares, some at a time. Many would come from memory again for
//! every few squares; then all threads go through as many squares as the shared cache holds, one step after the other, and each
//! weight is read once for all of these.

mod kernel;

use std::ops::Range;

use rayon::prelude::*;

pub(super) use self::kernel::to_places;
use self::kernel::{multiply, spread, transform, untransform};
use super::{Before, finish::Finish, strips::Strips};
use crate::{
    aligned::Aligned,
    graph, host,
    ops::Images,
    simd::Level,
    workspace::{Workspaces, with_thread_memory},
};

/// Pixels of the output that are computed together, down and across.
const OUT: usize = 4;
/// Pixels of the input that they see.
const IN: usize = OUT + 2;
/// Places of a square.
pub(super) const PLACES: usize = IN * IN;
/// Taps of a filter.
pub(super) const TAPS: usize = 9;
/// Channels from which on the products outweigh the transforms.
const LEAST_CHANNELS: usize = 16;
/// Values of a task's transformed input, about.
const NEAR: usize = 96 << 10;
/// Values of the weights from which on all threads share their squares.
const MANY_WEIGHTS: usize = 1 << 20;
/// Values that these may take then, transformed and multiplied.
const SHARED: usize = 3 << 20;
/// Rows of a task's products come in multiples of this.
const ROWS: usize = 12;
/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 3;
/// Values of a cache line.
const LINE: usize = 16;

/// Whether there is such a convolution, and enough channels for it.
pub(super) fn takes(layer: &graph::Convolution, inputs: usize) -> bool {
    layer.window.kernel == [3, 3]
        && layer.window.stride == [1, 1]
        && layer.window.padding.iter().all(|padding| *padding <= 2)
        && layer.groups == 1
        && inputs.min(layer.outputs) >= LEAST_CHANNELS
}

/// Values of the transformed weights.
pub(super) fn len(strips: &Strips) -> usize {
    PLACES / TAPS * strips.len()
}

/// Lays transformed weights out, `[strips, places, sums, strip]`, on rayon's pool; `taps` are the filter's in the window's order.
///
/// # Panics
/// The weight has another length than the layer says.
pub(super) fn pack(level: Level, strips: &Strips, weight: &[f32], taps: &[usize], to: &mut [f32]) {
    let places = strips.places(weight, taps);
    let len = strips.strip_len();
    (to.par_chunks_exact_mut(PLACES / TAPS * len).enumerate())
        .take(strips.count())
        .for_each(|(index, to)| {
            // The taps go where the last places will be: those of a channel are read before its places are written.
            let last = to.len() - len;
            strips.pack_one(level, weight, &places, index, &mut to[last..]);
            // SAFETY: the level is the processor's, and a strip has these places.
            unsafe { spread(level, strips, to) };
        });
}

/// Images on their way through a convolution.
pub(super) struct Pass<'a> {
    pub(super) strips: &'a Strips,
    /// See [`pack`].
    pub(super) weight: &'a [f32],
    pub(super) padding: [usize; 2],
    /// What is done to values before they are convolved.
    pub(super) before: Option<&'a Before>,
    pub(super) images: usize,
    pub(super) x: Images,
    pub(super) finish: Finish<'a>,
}

/// What squares are computed in.
#[derive(Clone, Copy)]
struct Memory {
    transformed: Values,
    products: Values,
    /// The strip that products begin with.
    first: usize,
}

/// Values `[places, squares, channels]`.
#[derive(Clone, Copy)]
struct Values {
    start: *mut f32,
    /// From one square to the next.
    pitch: usize,
    /// From one place to the next.
    apart: usize,
}

impl Values {
    /// Of so many squares. A square's values at all places should not push each other out of the nearest cache: places are an odd
    /// number of cache lines apart.
    fn new(pitch: usize, count: usize) -> Self {
        Self {
            start: std::ptr::null_mut(),
            pitch,
            apart: ((pitch * count).div_ceil(LINE) | 1) * LINE,
        }
    }

    fn len(&self) -> usize {
        PLACES * self.apart
    }
}

impl Memory {
    /// Calls `run` with two kinds of values in memory of their length.
    fn within<R>(
        [transformed, products]: [Values; 2],
        memory: &mut [f32],
        run: impl FnOnce(Self) -> R,
    ) -> R {
        let (first, second) = memory.split_at_mut(transformed.len());
        assert!(second.len() >= products.len(), "room for products");
        run(Self {
            transformed: Values {
                start: first.as_mut_ptr(),
                ..transformed
            },
            products: Values {
                start: second.as_mut_ptr(),
                ..products
            },
            first: 0,
        })
    }
}

// SAFETY: tasks write parts of their own.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

/// What squares are computed in, if threads share them.
static MEMORY: Workspaces<Aligned> = Workspaces::new();

impl Pass<'_> {
    /// Computes it on rayon's pool.
    ///
    /// # Safety
    /// The processor has the level; images and weights are as large as they say; nobody else uses the output meanwhile, and it is
    /// none of what is read but for the residual.
    pub(super) unsafe fn run(&self, level: Level) {
        let [down, across] = self.squares();
        let all = self.images * down * across;
        // SAFETY: as the caller's.
        unsafe {
            if len(self.strips) >= MANY_WEIGHTS {
                self.run_shared(level, all);
            } else {
                self.run_apart(level, all);
            }
        }
    }

    /// Squares of an image, down and across.
    fn squares(&self) -> [usize; 2] {
        self.finish.to.size.map(|size| size.div_ceil(OUT))
    }

    /// Values from one square's channels to the next's, of the same place: whole cache lines, and not so many that rows push each
    /// other out of the nearest cache.
    fn pitch(&self) -> usize {
        let lines = self.strips.sums.div_ceil(LINE);
        LINE * if lines.is_multiple_of(16) {
            lines + 1
        } else {
            lines
        }
    }

    /// Each thread goes through squares of its own.
    unsafe fn run_apart(&self, level: Level, all: usize) {
        let (pitch, width) = (self.pitch(), self.strips.strip);
        let threads = rayon::current_num_threads();
        let wanted = if threads > 1 {
            threads * TASKS_PER_THREAD
        } else {
            1
        };
        let most = (NEAR / (PLACES * pitch))
            .max(ROWS)
            .next_multiple_of(ROWS)
            .min(4 * ROWS);
        // Where one task could take all squares, each reads its part of the weights instead, if there are enough.
        let (parts, strips) = if all <= most {
            let strips = threads.min(self.strips.count());
            (threads.div_ceil(strips), strips)
        } else {
            let parts = all.div_ceil(most).max(wanted.min(all.div_ceil(ROWS)));
            (parts.next_multiple_of(threads), 1)
        };
        let parts = host::split(all, if all / parts >= ROWS { ROWS } else { 1 }, parts);
        let strips = host::split(self.strips.count(), 1, strips);
        (0..parts.len() * strips.len())
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| {
                let squares = &parts[task / strips.len()];
                let strips = &strips[task % strips.len()];
                let count = squares.len();
                let values = [pitch, width].map(|pitch| Values::new(pitch, count));
                with_thread_memory(values[0].len() + values[1].len(), |memory| {
                    Memory::within(values, memory, |mut memory| {
                        // SAFETY: as the caller's; no two tasks share both squares and strips; there is room for both.
                        unsafe {
                            transform(level, self, memory, squares, 0..count);
                            for strip in strips.clone() {
                                memory.first = strip;
                                let strips = strip..strip + 1;
                                multiply(level, self, memory, count, (0..PLACES, strips.clone()));
                                untransform(level, self, memory, squares, (0..count, strips));
                            }
                        }
                    });
                });
            });
    }

    /// All threads go through the same squares.
    unsafe fn run_shared(&self, level: Level, all: usize) {
        let (pitch, strips) = (self.pitch(), self.strips.count());
        let width = strips * self.strips.strip;
        let most = (SHARED / (PLACES * (pitch + width))).max(ROWS);
        for squares in host::split(all, 1, all.div_ceil(most)) {
            let count = squares.len();
            let values = [pitch, width].map(|pitch| Values::new(pitch, count));
            MEMORY.with(|memory| {
                let memory = memory.at_least(values[0].len() + values[1].len());
                Memory::within(values, memory, |memory| {
                    // SAFETY: as the caller's; no two tasks share squares.
                    each(count, |some| unsafe {
                        transform(level, self, memory, &squares, some);
                    });
                    each(PLACES * strips, |some| {
                        for place in some.start / strips..some.end.div_ceil(strips) {
                            let first = some.start.max(place * strips) - place * strips;
                            let end = some.end.min((place + 1) * strips) - place * strips;
                            let some = (place..place + 1, first..end);
                            // SAFETY: as the caller's; no two tasks share both a place and a strip.
                            unsafe { multiply(level, self, memory, count, some) };
                        }
                    });
                    // SAFETY: as for the first.
                    each(count, |some| unsafe {
                        untransform(level, self, memory, &squares, (some, 0..strips));
                    });
                });
            });
        }
    }

    /// The image of a square, counted through all images, and its first pixel of the output.
    #[inline(always)]
    fn place(&self, square: usize) -> (usize, [usize; 2]) {
        let [down, across] = self.squares();
        (
            square / (down * across),
            [square / across % down * OUT, square % across * OUT],
        )
    }
}

/// Runs parts of so many pieces on rayon's pool.
fn each(total: usize, run: impl Fn(Range<usize>) + Send + Sync) {
    let wanted = TASKS_PER_THREAD * rayon::current_num_threads();
    let parts = host::split(total, 1, wanted);
    parts.into_par_iter().with_max_len(1).for_each(run);
}
