//! The gradient of weights: for each tap, sums over all pixels of the input's channels times those of the output's gradient.
//!
//! Some hundred pixels at a time, so that both stay near: the gradient is laid in strips of two vectors for that, while the
//! input is read where windows see it, as in the forward pass. The sums of a task stay in its second-level cache. Where there
//! are few weights for many pixels, pixels are shared out as well, always alike, so that sums do not depend on the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    super::{
        product::TASKS_PER_THREAD,
        strips::Strips,
        sweep::Sweep,
        tile::{Sink, Tile},
    },
    images,
    lay::{self, Pixels},
};
use crate::{
    host::{self, Shared},
    matmul::tiles,
    simd::{Level, Vector, dispatch},
    workspace::with_thread_memory,
};

/// Pixels that are summed over at a time, about: a strip of them fills half of the nearest cache.
const PIXELS: usize = 192;
/// Pixels of a part, at least.
const PART_PIXELS: usize = 1024;
/// Values of the sums of all parts together, at most, if there is more than one.
const SUMS: usize = 1 << 20;
/// Strips of a task, at most.
const STRIPS: usize = 8;

/// Channels of a task where each window is a pixel, at most: they stay in the second-level cache with the gradient's strips and
/// the sums of both.
const CHANNELS: usize = 384;
/// Values of a cache line.
const LINE: usize = 16;
/// Channels of a task come in multiples of this: of whole cache lines, and of tiles.
const UNIT: usize = 48;

/// The sums over windows and the gradient of what came of them.
pub(super) struct Sums<'a> {
    pub(super) sweep: &'a Sweep,
    pub(super) strips: Strips,
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
}

/// Some pixels by some channels of the input by some strips.
#[derive(Clone)]
struct Share {
    /// Lines of windows; where windows are pixels in their order, pixels.
    lines: Range<usize>,
    /// Of the input, where each window is a pixel; otherwise all.
    channels: Range<usize>,
    /// Counted through all blocks.
    strips: Range<usize>,
    /// The part's sums of all strips.
    to: Shared,
}

/// A share of which both sides have been laid out.
struct Task<'a> {
    strips: &'a Strips,
    share: &'a Share,
    /// What lines are places in.
    x: *const f32,
    /// Where the first value under the first window of each line is.
    lines: &'a [usize],
    /// Windows of a line.
    columns: usize,
    /// Values from one window to the next.
    step: usize,
    /// Where the rows of a window begin, from its first value on.
    rows: &'a [usize],
    /// Values of a row.
    row: usize,
    /// The gradient under these windows, `[strips, pixels, strip]`.
    dy: *const f32,
    /// Whether sums are added to what is there.
    add: bool,
    /// What the next pixels are laid out from.
    ahead: Option<[Ahead; 2]>,
}

/// Values that a later block begins with: while it is their turn it would be memory that is waited for.
#[derive(Clone, Copy)]
struct Ahead {
    first: *const f32,
    pixels: usize,
    /// Values of a pixel that are wanted.
    values: usize,
    /// Values from one pixel to the next.
    apart: usize,
}

impl Ahead {
    /// What one of so many tiles fetches: where it begins, and how much further each step goes.
    #[inline(always)]
    fn of(&self, tile: usize, tiles: usize, steps: usize) -> (*const f32, usize) {
        let (start, len) = if self.values == self.apart {
            let all = self.pixels * self.values;
            (all * tile / tiles, all.div_ceil(tiles))
        } else {
            (self.pixels * tile / tiles * self.apart, self.values)
        };
        let step = len.div_ceil(steps.max(1)).min(LINE);
        (self.first.wrapping_add(start), step)
    }
}

impl Sums<'_> {
    /// Into how many parts the pixels are shared out.
    pub(super) fn parts(sweep: &Sweep, strips: &Strips) -> usize {
        let pixels = sweep.lines() * sweep.windows[1];
        let most = SUMS / strips.len().max(1);
        (pixels / PART_PIXELS)
            .min(most)
            .clamp(1, sweep.lines().max(1))
    }

    /// Computes `[parts, strips]` on rayon's pool.
    ///
    /// # Safety
    /// The processor has the level; the slices have the lengths that the sweep states.
    pub(super) unsafe fn run(&self, level: Level, sums: &mut [f32]) {
        let sweep = self.sweep;
        let count = Self::parts(sweep, &self.strips);
        assert_eq!(sums.len(), count * self.strips.len(), "sums");
        let sums = Shared::new(sums);
        let flat = sweep.is_pointwise();
        let lines = if flat {
            sweep.lines() * sweep.windows[1]
        } else {
            sweep.lines()
        };
        let inputs = sweep.from.channels;
        let wanted = TASKS_PER_THREAD * rayon::current_num_threads();
        let mut groups = self.strips.count().div_ceil(STRIPS);
        let channels = if sweep.is_direct() && self.strips.blocks() == 1 {
            let least = inputs.div_ceil(CHANNELS);
            // Each task lays out its part of both: what there is more of is shared out further.
            let further = inputs > sweep.to.channels;
            let more = if further {
                wanted.div_ceil(count * groups)
            } else {
                1
            };
            host::split(inputs, UNIT, least.max(more))
        } else {
            host::split(inputs, 1, 1)
        };
        groups = groups.max(wanted.div_ceil(count * channels.len()));
        let strips = host::split(self.strips.count(), 1, groups);
        let mut shares = Vec::new();
        for (part, lines) in host::split(lines, 1, count).into_iter().enumerate() {
            for channels in &channels {
                shares.extend(strips.iter().map(|strips| Share {
                    lines: lines.clone(),
                    channels: channels.clone(),
                    strips: strips.clone(),
                    to: sums.from(part * self.strips.len()),
                }));
            }
        }
        shares.into_par_iter().with_max_len(1).for_each(|share| {
            let columns = if flat { 1 } else { sweep.windows[1].max(1) };
            let at_once = (PIXELS / columns).max(1);
            let lines = share.lines.clone();
            let blocks = host::split(lines.len(), 1, lines.len().div_ceil(at_once));
            for (index, block) in blocks.iter().enumerate() {
                let next = blocks.get(index + 1).filter(|_| flat);
                let next = next.map(|next| lines.start + next.start..lines.start + next.end);
                let share = Share {
                    lines: lines.start + block.start..lines.start + block.end,
                    ..share.clone()
                };
                // SAFETY: as the caller's, and no two tasks share a part, channels and strips.
                unsafe { self.block(level, &share, next, block.start > 0) };
            }
        });
    }

    /// Lays out some lines of a share, and sums over them, while the next ones are fetched if there are such.
    unsafe fn block(&self, level: Level, share: &Share, next: Option<Range<usize>>, add: bool) {
        let (sweep, lines) = (self.sweep, share.lines.clone());
        let (from, to) = (sweep.from.channels, sweep.to.channels);
        let (direct, flat) = (sweep.is_direct(), sweep.is_pointwise());
        let pixels = lines.len() * if flat { 1 } else { sweep.windows[1] };
        // An odd number of cache lines from pixel to pixel, so that pixels do not push each other out of the nearest cache.
        let pitch = (share.channels.len().div_ceil(LINE) | 1) * LINE;
        let room = if direct {
            pixels * pitch
        } else {
            sweep.len(lines.clone(), from).next_multiple_of(LINE)
        };
        let len = room + share.strips.len() * pixels * self.strips.strip;
        with_thread_memory(len, |memory| {
            let (x, dy) = memory.split_at_mut(room);
            let given = Pixels {
                lines: if flat {
                    vec![lines.start * to]
                } else {
                    sweep.given(lines.clone()).map(|pixel| pixel * to).collect()
                },
                columns: if flat { pixels } else { sweep.windows[1] },
                apart: to,
            };
            let places = if flat {
                vec![lines.start * from]
            } else if direct {
                sweep
                    .direct(lines.clone())
                    .map(|pixel| pixel * from)
                    .collect()
            } else {
                let images = images(Shared::reading(self.x), sweep.from);
                // SAFETY: as the caller's.
                unsafe { sweep.fill(level, (&images, None), lines.clone(), from, x) };
                sweep.filled(lines, from).collect()
            };
            let read = Pixels {
                lines: places,
                columns: given.columns,
                apart: sweep.stride[1] * from,
            };
            let strips = share.strips.clone();
            let lanes: Vec<Range<usize>> = strips.map(|i| self.strips.channels(i)).collect();
            // SAFETY: as the caller's: both have these pixels, and there is room for them.
            unsafe {
                lay::in_strips(level, self.dy, &given, &lanes, self.strips.strip, dy);
                if direct {
                    lay::in_rows(level, self.x, &read, share.channels.clone(), pitch, x);
                }
            }
            let rows = if direct {
                vec![0]
            } else {
                sweep.runs(self.strips.blocks() == 1, from)
            };
            let task = Task {
                strips: &self.strips,
                share,
                x: x.as_ptr(),
                lines: if direct { &[0] } else { &read.lines },
                columns: if direct { pixels } else { read.columns },
                step: if direct { pitch } else { read.apart },
                rows: &rows,
                row: match (direct, self.strips.blocks()) {
                    (true, 1) => share.channels.len(),
                    _ => self.strips.taps * self.strips.block_sums() / rows.len(),
                },
                dy: dy.as_ptr(),
                add,
                ahead: next.map(|pixels| self.ahead(share, pixels)),
            };
            // SAFETY: as the caller's; what was laid out reaches as far as windows do.
            unsafe { run_task(level, &task) };
        });
    }
}

impl Sums<'_> {
    /// A share's values of pixels that follow each other.
    fn ahead(&self, share: &Share, pixels: Range<usize>) -> [Ahead; 2] {
        let ahead = |values: &[f32], apart: usize, channels: Range<usize>| Ahead {
            first: values
                .as_ptr()
                .wrapping_add(pixels.start * apart + channels.start),
            pixels: pixels.len(),
            values: channels.len(),
            apart,
        };
        let (from, to) = (self.sweep.from.channels, self.sweep.to.channels);
        let outputs = self.strips.channels(share.strips.start).start
            ..self.strips.channels(share.strips.end - 1).end;
        [
            ahead(self.x, from, share.channels.clone()),
            ahead(self.dy, to, outputs),
        ]
    }
}

dispatch!(fn run_task(task: &Task<'_>) = task_kernel);

#[inline(always)]
unsafe fn task_kernel<V: Vector>(task: &Task<'_>) {
    let (strips, share) = (task.strips, task.share);
    let pixels = task.lines.len() * task.columns;
    let all = share.strips.len() * task.rows.len() * task.row.div_ceil(V::ROWS);
    let mut done = 0;
    for (nth, index) in share.strips.clone().enumerate() {
        let first = index / strips.block_strips() * strips.block_sums();
        let lanes = strips.channels(index).len();
        for (run, start) in task.rows.iter().enumerate() {
            let mut tiles = tiles::<V>(0..task.row);
            while let Some(tile) = tiles.next() {
                let row = share.channels.start + run * task.row + tile.start;
                let ahead = task
                    .ahead
                    .map(|both| both.map(|ahead| ahead.of(done, all, pixels)));
                done += 1;
                for lane in (0..lanes).step_by(2 * V::LEN) {
                    // SAFETY: as the caller's: the rows are those under the windows, and the sums the task's.
                    unsafe {
                        let sink = index * strips.strip_len() + row * strips.strip + lane;
                        let to = share.to.at(sink);
                        let sink = Sink::plain(to, strips.strip, lanes - lane, task.add);
                        let product = Tile {
                            x: task.x.add(start + first + tile.start),
                            runs: task.lines,
                            steps: task.columns,
                            step: task.step,
                            row: 1,
                            weight: task.dy.add(nth * pixels * strips.strip + lane),
                            pitch: strips.strip,
                            ahead,
                        };
                        product.sum::<V>(tile.len(), sink);
                    }
                }
            }
        }
    }
}
