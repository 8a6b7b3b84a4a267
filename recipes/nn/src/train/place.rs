//! Where the values of a training step lie: a value lives until the last step back that reads it.

use std::ops::RangeInclusive;

use super::{Onto, Operation, Plan, Slot};
use crate::plan::memory;

/// A slot that has no place yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) len: usize,
    /// The slot that it is written over.
    pub(super) over: Option<usize>,
}

/// Finds what can be made in place: an activation of what nobody else reads, and gradients that are another one, or a function
/// of it value by value.
pub(super) fn share(plan: &Plan, places: &mut [Place]) {
    let accesses = plan.accesses();
    let mut readers = vec![0; places.len()];
    for slot in accesses.iter().flat_map(|access| &access.reads) {
        readers[*slot] += 1;
    }
    for layer in &plan.layers {
        let input = layer.inputs[0].slot;
        // Whoever reads it on the way back, its own layer included, would find something else.
        if layer.operation.is_elementwise() && readers[input] == 1 && input != plan.input {
            places[layer.output.slot].over = Some(input);
        }
    }
    for backward in &plan.backward {
        let operation = &plan.layers[backward.layer].operation;
        let passes = operation.is_elementwise() || *operation == Operation::Add;
        if let Some((slot, Onto::Write)) = backward.inputs[0]
            && passes
        {
            places[slot].over = Some(backward.output);
        }
    }
}

/// Gives each slot its place, and says how much memory that takes.
pub(super) fn place(plan: &Plan, places: &[Place]) -> (Vec<Slot>, usize) {
    // The slot whose place each one has.
    let mut roots: Vec<usize> = Vec::with_capacity(places.len());
    for (slot, place) in places.iter().enumerate() {
        // What is written over is older.
        let root = place.over.map_or(slot, |over| roots[over]);
        roots.push(root);
    }
    let lives = lives(plan, &roots);
    let kept: Vec<usize> = (0..places.len())
        .filter(|slot| roots[*slot] == *slot)
        .collect();
    let lens: Vec<usize> = kept.iter().map(|slot| places[*slot].len).collect();
    let lives: Vec<_> = kept.iter().map(|slot| lives[*slot].clone()).collect();
    let (offsets, len) = memory::allocate(&lens, &lives);
    let slots = places.iter().zip(&roots).map(|(place, root)| Slot {
        len: place.len,
        offset: offsets[kept.partition_point(|slot| slot < root)],
        over: place.over,
    });
    (slots.collect(), len)
}

impl Plan {
    /// Its slots, and the memory for all of them, where values of a slot are so many times as wide as others.
    #[cfg_attr(
        not(any(test, feature = "cuda")),
        expect(dead_code, reason = "for devices")
    )]
    pub(super) fn laid_out(&self, width: impl Fn(usize) -> usize) -> (Vec<Slot>, usize) {
        let places = self.slots.iter().enumerate().map(|(i, slot)| Place {
            len: slot.len * width(i),
            over: slot.over,
        });
        place(self, &places.collect::<Vec<_>>())
    }
}

/// The first and the last moment at which each place is needed; step `i` is moment `i + 1`, and the input is there before.
fn lives(plan: &Plan, roots: &[usize]) -> Vec<RangeInclusive<usize>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; roots.len()];
    let mut needed = |slot: usize, moment: usize| {
        let (first, _) = *lives[roots[slot]].get_or_insert((moment, moment));
        lives[roots[slot]] = Some((first, moment));
    };
    needed(plan.input, 0);
    for (moment, access) in (1..).zip(plan.accesses()) {
        let slots = [access.reads, access.writes, access.adds].concat();
        for slot in slots {
            needed(slot, moment);
        }
    }
    let life = |life: Option<(usize, usize)>| {
        let (first, last) = life.unwrap_or_default();
        first..=last
    };
    lives.into_iter().map(life).collect()
}
