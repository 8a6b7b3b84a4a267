//! A walk through a plan: whether everything that a step reads is there.

use std::ops::Range;

use super::{Access, Plan};
use crate::plan::memory::UNIT;

impl Plan {
    /// Walks through the step: what is read has been written and nothing was written over it since, no step writes what it
    /// reads but value by value, and each parameter gets one gradient. It is so for every plan that is made; tests of networks
    /// hold it.
    ///
    /// # Errors
    /// The first step of which that is not so.
    pub fn verify(&self) -> Result<(), String> {
        let mut walk = Walk {
            plan: self,
            intact: vec![false; self.slots.len()],
        };
        for (i, slot) in self.slots.iter().enumerate() {
            if slot.offset + slot.len > self.len || !slot.offset.is_multiple_of(UNIT) {
                return Err(format!("slot {i} does not lie in the memory: {slot:?}"));
            }
        }
        walk.write(self.input);
        for (index, access) in self.accesses().iter().enumerate() {
            walk.step(access)
                .map_err(|what| format!("{}: {what}", self.describe(index)))?;
        }
        self.verify_parameters()
    }

    fn describe(&self, step: usize) -> String {
        let (layers, losses) = (self.layers.len(), self.losses.len());
        if step < layers {
            return self.layers[step].name.clone();
        }
        match step - layers {
            loss if loss < losses => format!("the loss of {}", self.losses[loss].name),
            step => {
                let layer = self.backward[step - losses].layer;
                format!("the way back through {}", self.layers[layer].name)
            }
        }
    }

    fn verify_parameters(&self) -> Result<(), String> {
        let mut end = 0;
        for tensor in &self.parameters {
            let len: usize = tensor.shape.iter().product();
            if tensor.range.start < end || tensor.range.len() != len {
                return Err(format!("{tensor:?} does not begin after {end}"));
            }
            end = tensor.range.end;
        }
        let mut given = vec![0; self.parameters.len()];
        for backward in &self.backward {
            for parameter in &self.layers[backward.layer].parameters {
                given[*parameter] += 1;
            }
        }
        match given.iter().position(|count| *count != 1) {
            Some(i) => Err(format!(
                "{} has {} gradients",
                self.parameters[i].name, given[i]
            )),
            None => Ok(()),
        }
    }
}

struct Walk<'a> {
    plan: &'a Plan,
    /// Whether a slot has what was written to it.
    intact: Vec<bool>,
}

impl Walk<'_> {
    fn place(&self, slot: usize) -> Range<usize> {
        let slot = self.plan.slots[slot];
        slot.offset..slot.offset + slot.len
    }

    fn overlap(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.place(a), self.place(b));
        a.start < b.end && b.start < a.end
    }

    fn write(&mut self, slot: usize) {
        for other in 0..self.intact.len() {
            if self.intact[other] && self.overlap(slot, other) {
                self.intact[other] = false;
            }
        }
        self.intact[slot] = true;
    }

    fn step(&mut self, access: &Access) -> Result<(), String> {
        let Access {
            reads,
            writes,
            adds,
        } = access;
        if let Some(slot) = reads.iter().chain(adds).find(|slot| !self.intact[**slot]) {
            return Err(format!("slot {slot} was not written, or written over"));
        }
        let changed: Vec<usize> = [&writes[..], &adds[..]].concat();
        for (i, to) in changed.iter().enumerate() {
            let over = self.plan.slots[*to].over;
            let from = reads.iter().filter(|from| over != Some(**from));
            if let Some(from) = from
                .chain(&changed[..i])
                .find(|from| self.overlap(*to, **from))
            {
                return Err(format!("slot {to} is written over slot {from}"));
            }
        }
        for slot in writes {
            self.write(*slot);
        }
        Ok(())
    }
}
