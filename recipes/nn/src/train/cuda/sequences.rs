//! The layers of sequences, there and back.

use candle_core::Result;

use super::Making;
use crate::{
    cuda::Span,
    graph::{Attention, Embedding},
    ops::{attention, embedding, layer_norm, lstm, pick},
    train::{Backward, Layer, Operation},
};

impl Making<'_> {
    pub(super) fn forward_sequence(&mut self, layer: &Layer) -> Result<()> {
        let (plan, places) = (self.plan, self.places);
        let (from, to) = (layer.inputs[0], layer.output);
        let [x, y] = [from.slot, to.slot].map(|slot| places.slot(slot));
        let kept = layer.kept.map(|slot| places.slot(slot));
        let rows = plan.batch * to.shape.pixels();
        match (&layer.operation, kept) {
            (Operation::Embedding(embedding), _) => {
                let table = places.weight(plan, layer.parameters[0]);
                let lookup = self.lookup(embedding, layer);
                lookup.forward(&mut self.draft, [table, y])
            }
            (Operation::LayerNorm { eps }, Some(kept)) => {
                let norm = layer_norm::cuda::Forward {
                    rows,
                    features: to.shape.channels,
                    x,
                    weight: places.parameter(plan, layer.parameters[0]),
                    bias: places.parameter(plan, layer.parameters[1]),
                    eps: *eps,
                    y,
                    kept,
                };
                norm.push(&mut self.draft)
            }
            (Operation::Attention { attention, stream }, Some(log_sums)) => {
                let forward = attention::cuda::Forward {
                    sequences: self.sequences(attention, *stream, layer),
                    qkv: x,
                    out: y,
                    log_sums,
                };
                forward.push(&mut self.draft)
            }
            (Operation::Lstm, Some(kept)) => {
                let [input, recurrent, input_bias, recurrent_bias] = self.all(layer);
                let forward = lstm::cuda::Forward {
                    sizes: self.sizes(layer),
                    x,
                    weights: [input, recurrent],
                    biases: [input_bias, recurrent_bias],
                    y,
                    kept,
                };
                forward.push(&mut self.draft)
            }
            (Operation::Pick(end), _) => {
                let sizes = (plan.batch, from.shape);
                pick::cuda::forward(&mut self.draft, *end, sizes, [x, y])
            }
            _ => unreachable!("it is no layer of sequences"),
        }
    }

    pub(super) fn backward_sequence(&mut self, layer: &Layer, backward: &Backward) -> Result<()> {
        let (plan, places) = (self.plan, self.places);
        let (from, to) = (layer.inputs[0], layer.output);
        let [x, y, dy] = [from.slot, to.slot, backward.output].map(|slot| places.slot(slot));
        let dx = backward.inputs[0].map(|(slot, onto)| (places.slot(slot), onto));
        let kept = layer.kept.map(|slot| places.slot(slot));
        let rows = plan.batch * to.shape.pixels();
        let gradient = |i: usize| places.gradient(plan, layer.parameters[i]);
        match (&layer.operation, kept) {
            (Operation::Embedding(embedding), _) => {
                let lookup = self.lookup(embedding, layer);
                lookup.backward(&mut self.draft, [dy, gradient(0)])
            }
            (Operation::LayerNorm { .. }, Some(kept)) => {
                let norm = layer_norm::cuda::Backward {
                    rows,
                    features: to.shape.channels,
                    x,
                    kept,
                    weight: places.parameter(plan, layer.parameters[0]),
                    dy,
                    dx,
                    dweight: gradient(0),
                    dbias: gradient(1),
                };
                norm.push(&mut self.draft)
            }
            (Operation::Attention { attention, stream }, Some(log_sums)) => {
                let Some(dqkv) = dx else { return Ok(()) };
                let back = attention::cuda::Backward {
                    sequences: self.sequences(attention, *stream, layer),
                    qkv: x,
                    out: y,
                    log_sums,
                    dout: dy,
                    dqkv,
                };
                back.push(&mut self.draft)
            }
            (Operation::Lstm, Some(kept)) => {
                let [input, recurrent, ..] = self.all::<4>(layer);
                let back = lstm::cuda::Backward {
                    sizes: self.sizes(layer),
                    x,
                    weights: [input, recurrent],
                    y,
                    kept,
                    dy,
                    dx,
                    dweights: [gradient(0), gradient(1)],
                    dbiases: [gradient(2), gradient(3)],
                };
                back.push(&mut self.draft)
            }
            (Operation::Pick(end), _) => match dx {
                Some((dx, onto)) => {
                    let sizes = (plan.batch, from.shape);
                    pick::cuda::backward(&mut self.draft, *end, sizes, [dy, dx], onto)
                }
                None => Ok(()),
            },
            _ => unreachable!("it is no layer of sequences"),
        }
    }

    fn lookup(&self, embedding: &Embedding, layer: &Layer) -> embedding::cuda::Lookup {
        let tokens = layer.inputs[0].shape.width;
        embedding::cuda::Lookup {
            ids: self.places.slot(layer.inputs[0].slot),
            sequences: self.plan.batch,
            tokens,
            rows: embedding.rows,
            by: embedding.by,
            padding: embedding.padding,
            features: layer.output.shape.channels,
        }
    }

    fn sequences(
        &self,
        attention: &Attention,
        stream: u32,
        layer: &Layer,
    ) -> attention::cuda::Sequences {
        let features = layer.output.shape.channels;
        let drops = self.drops && attention.dropout > 0.0;
        let dropout = self.dropout(attention.dropout, stream);
        attention::cuda::Sequences {
            batch: self.plan.batch,
            tokens: layer.output.shape.width,
            heads: attention.heads,
            dim: features / attention.heads,
            causal: attention.causal,
            dropout: drops.then_some((dropout, self.places.state)),
        }
    }

    fn sizes(&self, layer: &Layer) -> lstm::cuda::Sizes {
        lstm::cuda::Sizes {
            sequences: self.plan.batch,
            steps: layer.output.shape.width,
            inputs: layer.inputs[0].shape.channels,
            hidden: layer.output.shape.channels,
        }
    }

    /// All tensors of a layer, in the device's element.
    fn all<const N: usize>(&self, layer: &Layer) -> [Span; N] {
        std::array::from_fn(|i| self.places.weight(self.plan, layer.parameters[i]))
    }
}
