//! Which buffers can share memory: those that are never needed at the same time.

use std::{cmp::Reverse, ops::RangeInclusive};

use super::Step;

/// Values of which every place is a whole number: a cache line.
pub(crate) const UNIT: usize = 16;

/// The first and the last moment at which each buffer is needed; step `i` is moment `i + 1`, and the input is there before.
pub(super) fn lives(steps: &[Step], buffers: usize, output: usize) -> Vec<RangeInclusive<usize>> {
    let mut lives = vec![None; buffers];
    let mut needed = |buffer: usize, moment: usize| {
        let (first, _) = *lives[buffer].get_or_insert((moment, moment));
        lives[buffer] = Some((first, moment));
    };
    needed(0, 0);
    for (moment, step) in (1..).zip(steps) {
        needed(step.output.buffer, moment);
        for view in step.operation.reads() {
            needed(view.buffer, moment);
        }
    }
    needed(output, steps.len() + 1);
    let life = |life: Option<(usize, usize)>| {
        let (first, last) = life.unwrap_or_default();
        first..=last
    };
    lives.into_iter().map(life).collect()
}

/// A place for each of these lengths, the largest first and each as low as it fits beside those that live with it; and how
/// much memory that takes.
pub(crate) fn allocate(lens: &[usize], lives: &[RangeInclusive<usize>]) -> (Vec<usize>, usize) {
    let size = |i: usize| lens[i].next_multiple_of(UNIT);
    let mut order: Vec<usize> = (0..lens.len()).collect();
    order.sort_by_key(|i| Reverse(lens[*i]));
    let mut offsets = vec![0; lens.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut end = 0;
    for i in order {
        let together = |j: &&usize| {
            lives[i].start() <= lives[**j].end() && lives[**j].start() <= lives[i].end()
        };
        // In the order of their places.
        let mut offset = 0;
        for j in placed.iter().filter(together) {
            if offset + size(i) <= offsets[*j] {
                break;
            }
            offset = offset.max(offsets[*j] + size(*j));
        }
        offsets[i] = offset;
        end = end.max(offset + size(i));
        let at = placed.partition_point(|j| offsets[*j] <= offset);
        placed.insert(at, i);
    }
    (offsets, end)
}
