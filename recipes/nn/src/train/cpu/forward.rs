//! A layer on its way there.

use super::{Numbers, Pass, State, part};
use crate::{
    aligned::Aligned,
    graph::Activation,
    ops::{
        Onto, activation,
        batch_norm::{self, Statistics},
        dropout::Dropout,
        pixels::{self, Change},
        pool::{self, Fields},
        shuffle,
    },
    train::{Operation, plan::MOMENTUM},
};

// SAFETY, for all operators: the level is the processor's. Steps run one after the other. The plan gives slots that are needed at
// the same time places of their own, but for those that are written over value by value; and no step reads what it writes
// otherwise.
impl Pass<'_> {
    pub(super) fn forward(&self, state: &mut State, numbers: &mut Numbers) {
        let (level, layer, memory) = (self.level, self.layer, self.memory);
        let (from, to) = (layer.inputs[0], layer.output);
        let [x, y] = [from, to].map(|operand| memory.images(operand));
        let batch = self.plan.batch;
        let len = batch * to.shape.values();
        match &layer.operation {
            Operation::Convolution(_) => {
                let State::Convolution(trained) = state else {
                    unreachable!("a convolution has its own state")
                };
                let [weight, bias] = self.weights(&numbers.parameters);
                // SAFETY: as above.
                let (x, y) = unsafe { (memory.read(from.slot), memory.write(to.slot)) };
                trained.forward(level, weight.unwrap_or_default(), bias, x, y);
            }
            Operation::BatchNorm { eps, activation } => {
                let [scale, shift] = self
                    .weights(&numbers.parameters)
                    .map(Option::unwrap_or_default);
                // SAFETY: as above.
                let (x, residual, y) = unsafe {
                    let residual = layer.inputs.get(1).map(|input| memory.read(input.slot));
                    (memory.read(from.slot), residual, memory.write(to.slot))
                };
                let channels = from.shape.channels;
                let statistics = batch_norm::forward(
                    level,
                    x,
                    channels,
                    scale,
                    shift,
                    *eps,
                    residual,
                    *activation,
                    y,
                );
                self.run_on(&statistics, &mut numbers.buffers);
                *state = State::Statistics(statistics);
            }
            Operation::Activation(activation) => {
                // SAFETY: as above.
                unsafe { activation::forward(level, *activation, [x.values, y.values], len) };
            }
            Operation::Pool(pool) => {
                // SAFETY: as above.
                unsafe { pool::run(level, batch, [x, y], &Fields::Pool(pool)) };
            }
            Operation::Mean => {
                // SAFETY: as above.
                unsafe { pool::run(level, batch, [x, y], &Fields::Even) };
            }
            Operation::Add => {
                let other = memory.images(layer.inputs[1]);
                let add = Change::Add(other, Activation::None);
                // SAFETY: as above.
                unsafe { pixels::run(level, batch, [x, y], add) };
            }
            Operation::Concat => {
                let mut first = 0;
                for input in &layer.inputs {
                    let channels = input.shape.channels;
                    let both = [memory.images(*input), part(y, first, channels)];
                    // SAFETY: as above.
                    unsafe { pixels::run(level, batch, both, Change::Copy) };
                    first += channels;
                }
            }
            Operation::Slice { first } => {
                let both = [part(x, *first, y.channels), y];
                // SAFETY: as above.
                unsafe { pixels::run(level, batch, both, Change::Copy) };
            }
            Operation::Shuffle { groups } => {
                // SAFETY: as above.
                let (x, y) = unsafe { (memory.read(from.slot), memory.write(to.slot)) };
                shuffle::run(*groups, to.shape.channels, x, y, Onto::Write);
            }
            Operation::Gate => {
                let gates = memory.images(layer.inputs[1]);
                // SAFETY: as above.
                unsafe { pixels::run(level, batch, [x, y], Change::Gate(gates)) };
            }
            Operation::Dropout { share, .. } => {
                let share = if self.drops { *share } else { 0.0 };
                let dropout = Dropout::new(share, self.stream);
                // SAFETY: as above.
                unsafe { dropout.run(level, [x.values, y.values], Onto::Write, len) };
            }
            Operation::Embedding(_)
            | Operation::LayerNorm { .. }
            | Operation::Attention { .. }
            | Operation::Lstm
            | Operation::Pick(_) => self.forward_sequence(state, numbers),
        }
    }

    /// Updates running statistics.
    fn run_on(&self, statistics: &Statistics, buffers: &mut Aligned) {
        let shape = self.layer.output.shape;
        let count = (self.plan.batch * shape.pixels()) as f32;
        let unbiased = count / (count - 1.0);
        let [mean, variance] =
            [0, 1].map(|i| self.plan.buffers[self.layer.buffers[i]].range.clone());
        let buffers = buffers.as_mut_slice();
        for (running, new) in buffers[mean].iter_mut().zip(&statistics.mean) {
            *running += MOMENTUM * (new - *running);
        }
        for (running, new) in buffers[variance].iter_mut().zip(&statistics.variance) {
            *running += MOMENTUM * (new * unbiased - *running);
        }
    }
}
