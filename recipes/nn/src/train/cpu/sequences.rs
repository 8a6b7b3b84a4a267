//! The layers of sequences, there and back.

use super::{Numbers, Pass, State};
use crate::{
    aligned::Aligned,
    graph::{Attention, Embedding},
    ops::{
        attention::{self, Kept, Tokens},
        dropout::Dropout,
        embedding::Lookup,
        layer_norm::{self, LayerNorm},
        lstm, pick,
    },
    train::{Backward, Operation},
};

// SAFETY, for all operators: as in `forward` and `backward`.
impl Pass<'_> {
    pub(super) fn forward_sequence(&self, state: &mut State, numbers: &Numbers) {
        let (level, layer, memory) = (self.level, self.layer, self.memory);
        let (from, to) = (layer.inputs[0], layer.output);
        // SAFETY: as above.
        let (x, y, kept) = unsafe {
            let kept = layer.kept.map(|slot| memory.write(slot));
            (
                memory.read(from.slot),
                memory.write(to.slot),
                kept.unwrap_or_default(),
            )
        };
        match &layer.operation {
            Operation::Embedding(embedding) => {
                let [table] = self.tensors(&numbers.parameters);
                self.lookup(embedding, x).forward(table, y);
            }
            Operation::LayerNorm { eps } => {
                let norm = self.layer_norm(*eps, &numbers.parameters);
                layer_norm::forward(level, x, norm, y, kept);
            }
            Operation::Attention { attention, .. } => {
                let kept = Kept {
                    log_sums: kept,
                    dropout: self.dropout(attention),
                };
                let tokens = tokens(state, attention);
                attention::forward(level, x, tokens, Some(kept), y);
            }
            Operation::Lstm => {
                let State::Lstm(lstm) = state else {
                    unreachable!("an LSTM has its own state")
                };
                let kept = halves(kept, y.len());
                lstm.forward(level, self.tensors(&numbers.parameters), x, y, kept);
            }
            Operation::Pick(end) => pick::forward(*end, from.shape, x, y),
            _ => unreachable!("it is no layer of sequences"),
        }
    }

    pub(super) fn backward_sequence(
        &self,
        state: &mut State,
        numbers: &mut Numbers,
        backward: &Backward,
    ) {
        let (level, layer, memory) = (self.level, self.layer, self.memory);
        let (from, to) = (layer.inputs[0], layer.output);
        // SAFETY: as above. What an operator does not read may be gone, and something else be written there.
        let (x, y, dy, dx, kept) = unsafe {
            let read = |is_read: bool, slot| if is_read { memory.read(slot) } else { &[] };
            (
                read(layer.operation.reads_input(0), from.slot),
                read(layer.operation.reads_output(), to.slot),
                memory.read(backward.output),
                backward.inputs[0].map(|(slot, onto)| (memory.write(slot), onto)),
                layer
                    .kept
                    .map(|slot| memory.write(slot))
                    .unwrap_or_default(),
            )
        };
        match &layer.operation {
            Operation::Embedding(embedding) => {
                let [dtable] = self.all_gradients(&mut numbers.gradients);
                self.lookup(embedding, x).backward(dy, dtable);
            }
            Operation::LayerNorm { eps } => {
                let norm = self.layer_norm(*eps, &numbers.parameters);
                let gradients = self.all_gradients(&mut numbers.gradients);
                layer_norm::backward(level, (x, kept), norm, dy, dx, gradients);
            }
            Operation::Attention { attention, .. } => {
                let Some(dx) = dx else { return };
                let pass = attention::Backward {
                    qkv: x,
                    out: y,
                    log_sums: kept,
                    dropout: self.dropout(attention),
                    dout: dy,
                };
                attention::backward(level, &pass, tokens(state, attention), dx);
            }
            Operation::Lstm => {
                let State::Lstm(lstm) = state else {
                    unreachable!("an LSTM has its own state")
                };
                let [input, recurrent, ..] = self.tensors::<4>(&numbers.parameters);
                let kept = halves(kept, y.len());
                let gradients = self.all_gradients(&mut numbers.gradients);
                lstm.backward(level, [input, recurrent], [x, y, dy], kept, dx, gradients);
            }
            Operation::Pick(end) => {
                if let Some(dx) = dx {
                    pick::backward(*end, from.shape, dy, dx);
                }
            }
            _ => unreachable!("it is no layer of sequences"),
        }
    }

    fn layer_norm<'a>(&self, eps: f64, parameters: &'a Aligned) -> LayerNorm<'a> {
        let [weight, bias] = self.tensors(parameters);
        LayerNorm {
            weight,
            bias,
            eps: eps as f32,
        }
    }

    fn lookup<'a>(&self, embedding: &Embedding, ids: &'a [f32]) -> Lookup<'a> {
        Lookup {
            ids,
            tokens: self.layer.inputs[0].shape.width,
            by: embedding.by,
            padding: embedding.padding,
            features: self.layer.output.shape.channels,
        }
    }

    /// What of its weights an attention drops.
    fn dropout(&self, attention: &Attention) -> Option<Dropout> {
        (self.drops && attention.dropout > 0.0)
            .then(|| Dropout::new(attention.dropout, self.stream))
    }

    /// All of the layer's tensors.
    fn tensors<'a, const N: usize>(&self, parameters: &'a Aligned) -> [&'a [f32]; N] {
        let tensors = &self.plan.parameters;
        std::array::from_fn(|i| super::tensor(tensors, self.layer.parameters[i], parameters))
    }

    /// The gradients of all of the layer's tensors.
    fn all_gradients<'a, const N: usize>(&self, gradients: &'a mut Aligned) -> [&'a mut [f32]; N] {
        let (mut rest, mut start) = (gradients.as_mut_slice(), 0);
        // They come one after the other.
        std::array::from_fn(|i| {
            let range = self.plan.parameters[self.layer.parameters[i]].range.clone();
            let (_, after) = std::mem::take(&mut rest).split_at_mut(range.start - start);
            let (own, after) = after.split_at_mut(range.len());
            (rest, start) = (after, range.end);
            own
        })
    }
}

/// Sequences of one length.
fn tokens<'a>(state: &'a State, attention: &Attention) -> Tokens<'a> {
    let State::Offsets(offsets) = state else {
        unreachable!("attention has offsets")
    };
    Tokens {
        offsets,
        heads: attention.heads,
        causal: attention.causal,
    }
}

/// What an LSTM keeps: its gates, and so many cells.
fn halves(kept: &mut [f32], cells: usize) -> lstm::Kept<&mut [f32]> {
    let (gates, cells) = kept.split_at_mut(kept.len() - cells);
    lstm::Kept { gates, cells }
}
