//! A layer on its way there.

use candle_core::Result;

use super::Making;
use crate::{
    graph::{Convolution, Shape},
    ops::{
        Onto, activation, batch_norm,
        convolution::train::cuda::Layer as Trained,
        cross_entropy, gate,
        pixels::{self, cuda::Columns},
        pool::{self, cuda::Pooling},
        shuffle,
    },
    train::{Operation, plan::MOMENTUM},
};

impl Making<'_> {
    /// Pushes the layer of a place in the plan.
    ///
    /// # Errors
    /// The batch is too large for a launch.
    pub(super) fn forward(&mut self, index: usize) -> Result<()> {
        let (plan, places) = (self.plan, self.places);
        let layer = &plan.layers[index];
        let (from, to) = (layer.inputs[0].shape, layer.output.shape);
        let [x, y] = [layer.inputs[0].slot, layer.output.slot].map(|slot| places.slot(slot));
        let images = plan.batch;
        let pixels = images * to.pixels();
        let len = pixels * to.channels;
        match &layer.operation {
            Operation::Convolution(convolution) => {
                let trained = self.trained(convolution, from, to);
                let weight = places.weight(plan, layer.parameters[0]);
                let bias = layer.parameters.get(1);
                let bias = bias.map(|bias| places.weight(plan, *bias));
                trained.forward(&mut self.draft, (weight, bias), x, y)
            }
            Operation::BatchNorm { eps, activation } => {
                let [scale, shift] = [0, 1].map(|i| places.parameter(plan, layer.parameters[i]));
                let norm = batch_norm::cuda::Forward {
                    pixels,
                    channels: to.channels,
                    x,
                    scale,
                    shift,
                    running: [0, 1].map(|i| places.buffer(plan, layer.buffers[i])),
                    momentum: if self.drops { MOMENTUM } else { 0.0 },
                    eps: *eps,
                    residual: layer.inputs.get(1).map(|input| places.slot(input.slot)),
                    activation: *activation,
                    y,
                    statistics: places.statistics(index),
                };
                norm.push(&mut self.draft)
            }
            Operation::Activation(activation) => {
                activation::cuda::forward(&mut self.draft, *activation, [x, y], len)
            }
            Operation::Pool(pool) => {
                let fields = pool::Fields::Pool(pool);
                self.pooling(&fields, [from, to])
                    .forward(&mut self.draft, [x, y])
            }
            Operation::Mean => self
                .pooling(&pool::Fields::Even, [from, to])
                .forward(&mut self.draft, [x, y]),
            Operation::Add => {
                let other = places.slot(layer.inputs[1].slot);
                pixels::cuda::sum(&mut self.draft, [x, other, y], len)
            }
            Operation::Concat => {
                let mut first = 0;
                for input in &layer.inputs {
                    let channels = input.shape.channels;
                    let from = Columns::all(places.slot(input.slot), channels);
                    let to = Columns {
                        first,
                        ..Columns::all(y, to.channels)
                    };
                    let sizes = [pixels, channels];
                    pixels::cuda::copy(&mut self.draft, sizes, [from, to], Onto::Write)?;
                    first += channels;
                }
                Ok(())
            }
            Operation::Slice { first } => {
                let source = Columns {
                    first: *first,
                    ..Columns::all(x, from.channels)
                };
                let columns = [source, Columns::all(y, to.channels)];
                let sizes = [pixels, to.channels];
                pixels::cuda::copy(&mut self.draft, sizes, columns, Onto::Write)
            }
            Operation::Shuffle { groups } => {
                let sizes = [pixels, to.channels];
                shuffle::cuda::run(&mut self.draft, *groups, sizes, [x, y], Onto::Write)
            }
            Operation::Gate => {
                let gates = places.slot(layer.inputs[1].slot);
                gate::cuda::forward(&mut self.draft, (images, to), [x, gates, y])
            }
            Operation::Dropout { share, stream } => {
                let dropout = self.dropout(*share, *stream);
                dropout.launch(&mut self.draft, [x, y], Onto::Write, len, places.state)
            }
            Operation::Embedding(_)
            | Operation::LayerNorm { .. }
            | Operation::Attention { .. }
            | Operation::Lstm
            | Operation::Pick(_) => self.forward_sequence(layer),
        }
    }

    /// Pushes the loss of a place in the plan; where nothing is trained by it, without its gradient.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub(super) fn loss(&mut self, index: usize) -> Result<()> {
        let (plan, places) = (self.plan, self.places);
        let loss = &plan.losses[index];
        let gradient = loss.gradient.filter(|_| self.drops);
        let entropy = cross_entropy::cuda::CrossEntropy {
            batch: plan.batch,
            classes: loss.logits.shape.channels,
            weight: loss.weight,
            logits: places.slot(loss.logits.slot),
            labels: places.labels,
            loss: places.loss(index),
            gradient: gradient.map(|(slot, onto)| (places.slot(slot), onto)),
            state: places.state,
        };
        entropy.launch(&mut self.draft)
    }

    pub(super) fn trained(&self, convolution: &Convolution, from: Shape, to: Shape) -> Trained {
        Trained {
            convolution: convolution.clone(),
            from,
            to,
            images: self.plan.batch,
        }
    }

    pub(super) fn pooling<'a>(
        &self,
        fields: &'a pool::Fields<'a>,
        [from, to]: [Shape; 2],
    ) -> Pooling<'a> {
        Pooling {
            fields,
            images: self.plan.batch,
            from,
            to,
        }
    }
}
