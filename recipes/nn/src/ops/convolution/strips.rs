//! Between the layout of state dicts, `[outputs, inputs / groups, kernel]`, and strips of two vectors of channels, as the
//! kernels read weights and leave their gradients.
//!
//! Both ways are a transposition, of squares of as many values as a vector has each way. In training they run in each step, so
//! that they are shared out over the threads by strips.

use rayon::prelude::*;

use crate::{
    host::Shared,
    simd::{Level, MAX_LEN, Vector, dispatch, load_up_to, store_up_to},
};

/// Weights in strips: `[blocks, strips, taps, block sums, strip]`.
///
/// Groups that are narrower than a strip lie in a block together, with zeros between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strips {
    /// Taps of the filter.
    filter: usize,
    /// Those of them that are in the strips.
    pub(super) taps: usize,
    pub(super) groups: usize,
    /// Channels of a group that are summed over.
    pub(super) sums: usize,
    /// Channels of a group that lie in strips.
    pub(super) lanes: usize,
    /// Groups of a block.
    pub(super) together: usize,
    /// Lanes of a strip.
    pub(super) strip: usize,
    /// Whether strips are of the layer's outputs, and not of its inputs.
    pub(super) outputs: bool,
}

impl Strips {
    /// Of all taps of a layer with so many channels in all groups; strips are of its outputs, or else of its inputs.
    pub(super) fn new(filter: usize, groups: usize, channels: [usize; 2], outputs: bool) -> Self {
        let [inputs, given] = channels.map(|channels| channels / groups);
        let (sums, lanes) = if outputs {
            (inputs, given)
        } else {
            (given, inputs)
        };
        let strip = 2 * Level::detect().lanes();
        // As many groups as fill a strip.
        let together = (1..=groups)
            .filter(|count| groups.is_multiple_of(*count))
            .take_while(|count| *count == 1 || count * lanes <= strip)
            .last()
            .unwrap_or(1);
        Self {
            filter,
            taps: filter,
            groups,
            sums,
            lanes,
            together,
            strip,
            outputs,
        }
    }

    /// The same of some taps.
    pub(super) fn of_taps(self, taps: usize) -> Self {
        Self { taps, ..self }
    }

    /// Numbers of a state dict's weight.
    fn numbers(&self) -> usize {
        self.groups * self.sums * self.lanes * self.filter
    }

    /// Channels of a block that are summed over.
    pub(super) fn block_sums(&self) -> usize {
        self.sums * self.together
    }

    /// Channels of a block that lie in strips.
    pub(super) fn block_lanes(&self) -> usize {
        self.lanes * self.together
    }

    pub(super) fn blocks(&self) -> usize {
        self.groups / self.together
    }

    /// Strips of a block.
    pub(super) fn block_strips(&self) -> usize {
        self.block_lanes().div_ceil(self.strip)
    }

    /// Strips of all blocks.
    pub(super) fn count(&self) -> usize {
        self.blocks() * self.block_strips()
    }

    /// Values of a strip.
    pub(super) fn strip_len(&self) -> usize {
        self.taps * self.block_sums() * self.strip
    }

    /// Values of all strips.
    pub(super) fn len(&self) -> usize {
        self.count() * self.strip_len()
    }

    /// The channels in a strip, counted through all blocks.
    pub(super) fn channels(&self, index: usize) -> std::ops::Range<usize> {
        let (block, strip) = (index / self.block_strips(), index % self.block_strips());
        let first = strip * self.strip;
        let count = self.strip.min(self.block_lanes() - first);
        let first = block * self.block_lanes() + first;
        first..first + count
    }

    /// Where in a state dict's weight a pair of a group's channels is, at the first tap.
    fn place(&self, group: usize, sum: usize, lane: usize) -> usize {
        let (sums, lanes) = (self.sums, self.lanes);
        let pair = if self.outputs {
            (group * lanes + lane) * sums + sum
        } else {
            (group * sums + sum) * lanes + lane
        };
        pair * self.filter
    }

    /// Where in strips each tap of the filter is; `taps` are those that are wanted, in the strips' order.
    ///
    /// # Panics
    /// The weight has another length than the layer says.
    pub(super) fn places(&self, weight: &[f32], taps: &[usize]) -> Vec<Option<usize>> {
        assert_eq!(weight.len(), self.numbers(), "weight's length");
        assert_eq!(taps.len(), self.taps, "taps");
        let mut places = vec![None; self.filter];
        for (place, tap) in taps.iter().enumerate() {
            places[*tap] = Some(place);
        }
        places
    }

    /// Lays weights in strips on rayon's pool.
    pub(super) fn pack(&self, level: Level, weight: &[f32], taps: &[usize], to: &mut [f32]) {
        let places = self.places(weight, taps);
        to.par_chunks_exact_mut(self.strip_len().max(1))
            .take(self.count())
            .enumerate()
            .for_each(|(index, to)| self.pack_one(level, weight, &places, index, to));
    }

    /// Lays a strip; `places` are [`Self::places`].
    pub(super) fn pack_one(
        &self,
        level: Level,
        weight: &[f32],
        places: &[Option<usize>],
        index: usize,
        to: &mut [f32],
    ) {
        assert_eq!(to.len(), self.strip_len(), "strip's length");
        if self.together > 1 {
            self.pack_groups(weight, places, index, to);
        } else {
            // SAFETY: the level is the processor's; the lengths were checked.
            unsafe { pack_strip(level, self, weight, places, index, to) };
        }
    }

    /// A strip of several groups.
    fn pack_groups(&self, weight: &[f32], places: &[Option<usize>], index: usize, to: &mut [f32]) {
        to.fill(0.0);
        self.each(index, |from, tap, within| {
            if let Some(place) = places[tap] {
                to[place * self.block_sums() * self.strip + within] = weight[from + tap];
            }
        });
    }

    /// All of a strip of several groups: the place of a filter's first tap, the tap, and where among the tap's values.
    fn each(&self, index: usize, mut of: impl FnMut(usize, usize, usize)) {
        for group in 0..self.together {
            for sum in 0..self.sums {
                for lane in 0..self.lanes {
                    let place = self.place(index * self.together + group, sum, lane);
                    let row = group * self.sums + sum;
                    let within = row * self.strip + group * self.lanes + lane;
                    (0..self.filter).for_each(|tap| of(place, tap, within));
                }
            }
        }
    }

    /// From sums in strips, of which there are some parts one after the other, to a state dict's layout, on rayon's pool.
    ///
    /// # Panics
    /// There is no whole number of parts, or the weight has another length than the layer says.
    pub(super) fn unpack(&self, level: Level, parts: &[f32], weight: &mut [f32]) {
        assert_eq!(parts.len() % self.len(), 0, "whole parts");
        assert_eq!(weight.len(), self.numbers(), "weight's length");
        let to = Shared::new(weight);
        (0..self.count()).into_par_iter().for_each(|index| {
            let parts: Vec<&[f32]> = (parts.chunks_exact(self.len()))
                .map(|part| &part[index * self.strip_len()..][..self.strip_len()])
                .collect();
            // SAFETY: the level is the processor's, and the strip's channels are this task's alone.
            unsafe { self.unpack_one(level, &parts, index, to) };
        });
    }

    /// The sum of a strip's parts.
    ///
    /// # Safety
    /// The processor has the level; the state dict's weight has the layer's length, and nobody else uses the strip's channels of it
    /// meanwhile.
    pub(super) unsafe fn unpack_one(
        &self,
        level: Level,
        parts: &[&[f32]],
        index: usize,
        to: Shared,
    ) {
        assert!(self.outputs, "gradients lie in strips of outputs");
        assert!(
            parts.iter().all(|part| part.len() == self.strip_len()),
            "strip's length"
        );
        if self.together == 1 {
            // SAFETY: as the caller's; the lengths were checked.
            return unsafe { unpack_strip(level, self, parts, index, to) };
        }
        self.each(index, |place, tap, within| {
            let at = tap * self.block_sums() * self.strip + within;
            let sum: f32 = parts.iter().map(|part| part[at]).sum();
            // SAFETY: as the caller's.
            unsafe { *to.at(place + tap) = sum };
        });
    }

    /// The channel of its group that a strip begins with, its group and its channels.
    #[inline(always)]
    fn of_group(&self, index: usize) -> [usize; 3] {
        let (group, strip) = (index / self.block_strips(), index % self.block_strips());
        let first = strip * self.strip;
        [group, first, self.strip.min(self.lanes - first)]
    }
}

dispatch!(fn pack_strip(strips: &Strips, weight: &[f32], places: &[Option<usize>], index: usize, to: &mut [f32]) = pack_strip_kernel);

#[inline(always)]
unsafe fn pack_strip_kernel<V: Vector>(
    strips: &Strips,
    weight: &[f32],
    places: &[Option<usize>],
    index: usize,
    to: &mut [f32],
) {
    let [group, first, lanes] = strips.of_group(index);
    let Strips {
        filter,
        sums,
        strip,
        ..
    } = *strips;
    let to = to.as_mut_ptr();
    // SAFETY: as the caller's: each square lies within the weight, and its rows go to those of the strip.
    unsafe {
        for lane in (0..strip).step_by(V::LEN) {
            let count = V::LEN.min(lanes.saturating_sub(lane));
            let from = |sum| {
                let place = strips.place(group, sum, first + lane.min(lanes));
                weight.as_ptr().wrapping_add(place)
            };
            if strips.outputs {
                // A lane's weights lie side by side, over all sums and taps.
                let len = sums * filter;
                let mut next = Walk::default();
                for k in (0..len).step_by(V::LEN) {
                    let width = V::LEN.min(len - k);
                    let square = load_square::<V>(from(0).wrapping_add(k), len, [count, width]);
                    for row in square.into_iter().take(width) {
                        let (tap, sum) = next.step(filter);
                        if let Some(place) = places[tap] {
                            row.store(to.add((place * sums + sum) * strip + lane));
                        }
                    }
                }
            } else if filter == 1 {
                for sum in 0..sums {
                    let row: V = load_up_to(from(sum), count);
                    row.store(to.add(sum * strip + lane));
                }
            } else {
                for sum in 0..sums {
                    for tap in (0..filter).step_by(V::LEN) {
                        let width = V::LEN.min(filter - tap);
                        let from = from(sum).wrapping_add(tap);
                        let square = load_square::<V>(from, filter, [count, width]);
                        for (place, row) in places[tap..].iter().zip(square).take(width) {
                            if let Some(place) = place {
                                row.store(to.add((place * sums + sum) * strip + lane));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Goes through the weights of an output: tap by tap, and sum by sum.
#[derive(Clone, Copy, Default)]
struct Walk {
    tap: usize,
    sum: usize,
}

impl Walk {
    /// The next tap and sum.
    #[inline(always)]
    fn step(&mut self, taps: usize) -> (usize, usize) {
        let Self { tap, sum } = *self;
        self.tap += 1;
        if self.tap == taps {
            *self = Self {
                tap: 0,
                sum: sum + 1,
            };
        }
        (tap, sum)
    }
}

/// A square of `[rows, columns]` at most, with zeros behind, its columns as rows.
#[inline(always)]
unsafe fn load_square<V: Vector>(
    from: *const f32,
    apart: usize,
    [rows, columns]: [usize; 2],
) -> [V; MAX_LEN] {
    // SAFETY: as the caller's: there are as many rows, and values of each.
    unsafe {
        let mut square = [V::splat(0.0); MAX_LEN];
        for (r, row) in square.iter_mut().enumerate().take(V::LEN) {
            if r < rows {
                *row = load_up_to(from.add(r * apart), columns);
            }
        }
        V::transpose(&mut square);
        square
    }
}

dispatch!(fn unpack_strip(strips: &Strips, parts: &[&[f32]], index: usize, to: Shared) = unpack_strip_kernel);

#[inline(always)]
unsafe fn unpack_strip_kernel<V: Vector>(
    strips: &Strips,
    parts: &[&[f32]],
    index: usize,
    to: Shared,
) {
    let [group, first, lanes] = strips.of_group(index);
    let Strips {
        filter,
        sums,
        strip,
        ..
    } = *strips;
    let len = sums * filter;
    let Some((part, others)) = parts.split_first() else {
        return;
    };
    // SAFETY: as the caller's: each part has the strip's rows, and the lanes' weights are this strip's.
    unsafe {
        for lane in (0..lanes).step_by(V::LEN) {
            let rows = V::LEN.min(lanes - lane);
            let to = to.at(strips.place(group, 0, first + lane));
            let mut next = Walk::default();
            for k in (0..len).step_by(V::LEN) {
                let width = V::LEN.min(len - k);
                let mut square = [V::splat(0.0); MAX_LEN];
                for row in square.iter_mut().take(width) {
                    let (tap, sum) = next.step(filter);
                    let at = (tap * sums + sum) * strip + lane;
                    *row = V::load(part.as_ptr().add(at));
                    for part in others {
                        *row = row.add(V::load(part.as_ptr().add(at)));
                    }
                }
                V::transpose(&mut square);
                for (r, row) in square.into_iter().enumerate().take(rows) {
                    store_up_to(row, to.add(r * len + k), width);
                }
            }
        }
    }
}
