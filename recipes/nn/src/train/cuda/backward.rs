//! A layer on its way back.

use candle_core::Result;

use super::Making;
use crate::{
    ops::{
        Onto, activation, batch_norm, gate,
        pixels::{self, cuda::Columns},
        pool, shuffle,
    },
    train::{Backward, Operation},
};

impl Making<'_> {
    /// Pushes a layer's way back.
    ///
    /// # Errors
    /// The batch is too large for a launch.
    pub(super) fn backward(&mut self, backward: &Backward) -> Result<()> {
        let (plan, places) = (self.plan, self.places);
        let layer = &plan.layers[backward.layer];
        let (from, to) = (layer.inputs[0].shape, layer.output.shape);
        let [x, y, dy] = [layer.inputs[0].slot, layer.output.slot, backward.output]
            .map(|slot| places.slot(slot));
        let images = plan.batch;
        let pixels = images * to.pixels();
        let len = pixels * to.channels;
        let gradient = |i: usize| {
            let (slot, onto) = (*backward.inputs.get(i)?)?;
            Some((places.slot(slot), onto))
        };
        let dx = gradient(0);
        match &layer.operation {
            Operation::Convolution(convolution) => {
                let trained = self.trained(convolution, from, to);
                let dweight = places.gradient(plan, layer.parameters[0]);
                let dbias = layer.parameters.get(1);
                let dbias = dbias.map(|bias| places.gradient(plan, *bias));
                trained.backward_weight(&mut self.draft, [x, dy], dweight, dbias)?;
                let Some(dx) = dx else { return Ok(()) };
                let weight = places.weight(plan, layer.parameters[0]);
                trained.backward_input(&mut self.draft, weight, dy, dx)
            }
            Operation::BatchNorm { activation, .. } => {
                let [dscale, dshift] = [0, 1].map(|i| places.gradient(plan, layer.parameters[i]));
                let norm = batch_norm::cuda::Backward {
                    pixels,
                    channels: to.channels,
                    x,
                    statistics: places.statistics(backward.layer),
                    scale: places.parameter(plan, layer.parameters[0]),
                    y: layer.operation.reads_output().then_some(y),
                    activation: *activation,
                    dy,
                    dx,
                    residual: gradient(1),
                    dscale,
                    dshift,
                };
                norm.push(&mut self.draft)
            }
            Operation::Activation(activation) => {
                let Some((dx, onto)) = dx else { return Ok(()) };
                let known = if layer.operation.reads_output() { y } else { x };
                let spans = [known, dy, dx];
                activation::cuda::backward(&mut self.draft, *activation, spans, onto, len)
            }
            Operation::Pool(_) | Operation::Mean => {
                let Some((dx, onto)) = dx else { return Ok(()) };
                let fields = match &layer.operation {
                    Operation::Pool(pool) => pool::Fields::Pool(pool),
                    _ => pool::Fields::Even,
                };
                let pooling = self.pooling(&fields, [from, to]);
                pooling.backward(&mut self.draft, [x, dy, dx], onto)
            }
            Operation::Add => {
                for (slot, onto) in backward.inputs.iter().flatten() {
                    // The first may be the sum's own gradient.
                    let same = plan.slots[*slot].over == Some(backward.output);
                    if !same || *onto == Onto::Add {
                        let spans = [dy, places.slot(*slot)];
                        pixels::cuda::give(&mut self.draft, spans, *onto, len)?;
                    }
                }
                Ok(())
            }
            Operation::Concat => {
                let mut first = 0;
                for (input, gradient) in layer.inputs.iter().zip(&backward.inputs) {
                    let channels = input.shape.channels;
                    if let Some((slot, onto)) = gradient {
                        let from = Columns {
                            first,
                            ..Columns::all(dy, to.channels)
                        };
                        let columns = [from, Columns::all(places.slot(*slot), channels)];
                        let sizes = [pixels, channels];
                        pixels::cuda::copy(&mut self.draft, sizes, columns, *onto)?;
                    }
                    first += channels;
                }
                Ok(())
            }
            Operation::Slice { first } => {
                let Some((dx, onto)) = dx else { return Ok(()) };
                let target = Columns {
                    first: *first,
                    ..Columns::all(dx, from.channels)
                };
                let columns = [Columns::all(dy, to.channels), target];
                let sizes = [pixels, to.channels];
                match onto {
                    Onto::Write => pixels::cuda::copy_alone(&mut self.draft, sizes, columns),
                    Onto::Add => pixels::cuda::copy(&mut self.draft, sizes, columns, onto),
                }
            }
            Operation::Shuffle { groups } => {
                let Some((dx, onto)) = dx else { return Ok(()) };
                let (groups, sizes) = (to.channels / groups, [pixels, to.channels]);
                shuffle::cuda::run(&mut self.draft, groups, sizes, [dy, dx], onto)
            }
            Operation::Gate => {
                let gates = places.slot(layer.inputs[1].slot);
                if let Some((dx, onto)) = dx {
                    let spans = [gates, dy, dx];
                    gate::cuda::backward_input(&mut self.draft, (images, to), spans, onto)?;
                }
                match gradient(1) {
                    Some((dgates, onto)) => {
                        let spans = [x, dy, dgates];
                        gate::cuda::backward_gates(&mut self.draft, (images, to), spans, onto)
                    }
                    None => Ok(()),
                }
            }
            Operation::Dropout { share, stream } => {
                let Some((dx, onto)) = dx else { return Ok(()) };
                let dropout = self.dropout(*share, *stream);
                dropout.launch(&mut self.draft, [dy, dx], onto, len, places.state)
            }
            Operation::Embedding(_)
            | Operation::LayerNorm { .. }
            | Operation::Attention { .. }
            | Operation::Lstm
            | Operation::Pick(_) => self.backward_sequence(layer, backward),
        }
    }
}
