//! A layer on its way back.

use super::{Numbers, Pass, State, images, part};
use crate::{
    graph::Activation,
    ops::{
        Images, Onto, activation, batch_norm,
        dropout::Dropout,
        gate,
        pixels::{self, Change},
        pool::{self, Fields},
        shuffle,
    },
    train::{Backward, Operation},
};

// SAFETY, for all operators: the level is the processor's. Steps run one after the other. The plan gives slots that are needed at
// the same time places of their own, but for those that are written over value by value; and no step reads what it writes
// otherwise.
impl Pass<'_> {
    pub(super) fn backward(&self, state: &mut State, numbers: &mut Numbers, backward: &Backward) {
        let (level, layer, memory) = (self.level, self.layer, self.memory);
        let (from, to) = (layer.inputs[0], layer.output);
        let dy = memory.at(backward.output);
        let batch = self.plan.batch;
        let len = batch * to.shape.values();
        // SAFETY: as above. What an operator does not read may be gone, and something else be written there.
        let (x_read, y_read, dy_read) = unsafe {
            let read = |is_read: bool, slot| if is_read { memory.read(slot) } else { &[] };
            (
                read(layer.operation.reads_input(0), from.slot),
                read(layer.operation.reads_output(), to.slot),
                read(!layer.operation.is_elementwise(), backward.output),
            )
        };
        let input = backward.inputs[0];
        match &layer.operation {
            Operation::Convolution(_) => {
                let State::Convolution(trained) = state else {
                    unreachable!("a convolution has its own state")
                };
                let [weight, bias] = self.gradients(&mut numbers.gradients);
                trained.backward_weight(level, x_read, dy_read, weight.unwrap_or_default(), bias);
                if let Some((slot, onto)) = input {
                    let [weight, _] = self.weights(&numbers.parameters);
                    // SAFETY: as above.
                    let dx = unsafe { memory.write(slot) };
                    trained.backward_input(level, weight.unwrap_or_default(), dy_read, dx, onto);
                }
            }
            Operation::BatchNorm { activation, .. } => {
                // Without an activation nothing is cut.
                let y_read = if y_read.is_empty() { dy_read } else { y_read };
                let State::Statistics(statistics) = state else {
                    unreachable!("BatchNorm has run forward")
                };
                let [scale, _] = self
                    .weights(&numbers.parameters)
                    .map(Option::unwrap_or_default);
                let [dscale, dshift] = self
                    .gradients(&mut numbers.gradients)
                    .map(Option::unwrap_or_default);
                // SAFETY: as above.
                let gradient = |(slot, onto)| unsafe { (memory.write(slot), onto) };
                let residual = backward.inputs.get(1).copied().flatten().map(gradient);
                // What nobody wants to know goes nowhere.
                let mut nowhere = Vec::new();
                let dx = input.map(gradient).unwrap_or_else(|| {
                    nowhere.resize(x_read.len(), 0.0);
                    (nowhere.as_mut_slice(), Onto::Write)
                });
                batch_norm::backward(
                    level,
                    x_read,
                    statistics,
                    scale,
                    y_read,
                    *activation,
                    dy_read,
                    dx,
                    residual,
                    dscale,
                    dshift,
                );
            }
            Operation::Activation(activation) => {
                let known = if layer.operation.reads_output() {
                    to
                } else {
                    from
                };
                if let Some((slot, onto)) = input {
                    let values = [memory.at(known.slot), dy, memory.at(slot)];
                    // SAFETY: as above.
                    unsafe { activation::backward(level, *activation, values, onto, len) };
                }
            }
            Operation::Pool(pool) => {
                self.pool_backward(&Fields::Pool(pool), [x_read, y_read, dy_read], input);
            }
            Operation::Mean => {
                self.pool_backward(&Fields::Even, [x_read, y_read, dy_read], input);
            }
            Operation::Add => {
                for (slot, onto) in backward.inputs.iter().flatten() {
                    // The first may be the sum's own gradient.
                    if memory.plan.slots[*slot].over != Some(backward.output) || *onto == Onto::Add
                    {
                        self.give(
                            images(dy, to.shape),
                            images(memory.at(*slot), to.shape),
                            *onto,
                        );
                    }
                }
            }
            Operation::Concat => {
                let mut first = 0;
                for (input, gradient) in layer.inputs.iter().zip(&backward.inputs) {
                    let channels = input.shape.channels;
                    if let Some((slot, onto)) = gradient {
                        let from = part(images(dy, to.shape), first, channels);
                        self.give(from, images(memory.at(*slot), input.shape), *onto);
                    }
                    first += channels;
                }
            }
            Operation::Slice { first } => {
                if let Some((slot, onto)) = input {
                    if onto == Onto::Write {
                        // SAFETY: as above.
                        unsafe { memory.write(slot) }.fill(0.0);
                    }
                    let all = images(memory.at(slot), from.shape);
                    let to = part(all, *first, to.shape.channels);
                    self.give(images(dy, layer.output.shape), to, onto);
                }
            }
            Operation::Shuffle { groups } => {
                if let Some((slot, onto)) = input {
                    let channels = to.shape.channels;
                    // SAFETY: as above.
                    let dx = unsafe { memory.write(slot) };
                    shuffle::run(channels / groups, channels, dy_read, dx, onto);
                }
            }
            Operation::Gate => {
                let values = from.shape.values();
                // SAFETY: as above.
                let gates = unsafe { memory.read(layer.inputs[1].slot) };
                if let Some((slot, onto)) = input {
                    // SAFETY: as above.
                    let dx = unsafe { memory.write(slot) };
                    gate::backward_input(gates, values, dy_read, dx, onto);
                }
                if let Some((slot, onto)) = backward.inputs[1] {
                    // SAFETY: as above.
                    let dgates = unsafe { memory.write(slot) };
                    gate::backward_gates(x_read, values, dy_read, dgates, onto);
                }
            }
            Operation::Dropout { share, .. } => {
                if let Some((slot, onto)) = input {
                    let dropout = Dropout::new(*share, self.stream);
                    // SAFETY: as above.
                    unsafe { dropout.run(level, [dy, memory.at(slot)], onto, len) };
                }
            }
            Operation::Embedding(_)
            | Operation::LayerNorm { .. }
            | Operation::Attention { .. }
            | Operation::Lstm
            | Operation::Pick(_) => self.backward_sequence(state, numbers, backward),
        }
    }

    fn pool_backward(
        &self,
        fields: &Fields<'_>,
        [x, y, dy]: [&[f32]; 3],
        input: Option<(usize, Onto)>,
    ) {
        if let Some((slot, onto)) = input {
            let backward = pool::Backward {
                fields,
                from: self.layer.inputs[0].shape,
                to: self.layer.output.shape,
                x,
                y,
                dy,
            };
            // SAFETY: as above.
            backward.run(self.level, unsafe { self.memory.write(slot) }, onto);
        }
    }

    /// Hands a gradient on.
    fn give(&self, from: Images, to: Images, onto: Onto) {
        let change = match onto {
            Onto::Write => Change::Copy,
            Onto::Add => Change::Add(to, Activation::None),
        };
        // SAFETY: as above.
        unsafe { pixels::run(self.level, self.plan.batch, [from, to], change) };
    }
}
