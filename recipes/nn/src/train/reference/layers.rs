//! The layers of sequences, as a step meets them.

use super::{
    Step,
    sequences::{Attention, LayerNorm, Lstm},
};
use crate::{
    graph::{Embedding, Op, Row},
    ops::dropout::TOGETHER,
};

impl Step<'_> {
    /// What a layer of sequences gives; or with the gradient of that those of what it read and of its tensors, in their order.
    pub(super) fn sequence(&self, index: usize, x: &[f64], dy: Option<&[f64]>) -> Vec<Vec<f64>> {
        let node = &self.graph.nodes()[index];
        let (from, to) = (self.graph.shape(node.inputs[0]), node.shape);
        let names = self.graph.parameters_of(node);
        let tensors: Vec<_> = names
            .iter()
            .map(|(name, _)| &self.weights[name][..])
            .collect();
        match &node.op {
            Op::LayerNorm { eps } => {
                let norm = LayerNorm {
                    weight: tensors[0],
                    bias: tensors[1],
                    eps: *eps,
                };
                dy.map_or_else(|| vec![norm.forward(x)], |dy| norm.backward(x, dy))
            }
            Op::Attention(attention) => {
                let (batch, heads) = (self.labels.len(), attention.heads);
                let each = from.width.next_multiple_of(TOGETHER);
                let count = batch * from.width * heads * each;
                let factors = (self.factors)(index, count, attention.dropout);
                let offsets: Vec<usize> = (0..=batch).map(|i| i * from.width).collect();
                let attention = Attention {
                    offsets: &offsets,
                    heads,
                    causal: attention.causal,
                    left: &|row, head, key| factors[(row * heads + head) * each + key],
                };
                let [y, _] = attention.forward(x);
                dy.map_or_else(|| vec![y], |dy| attention.backward(x, dy))
            }
            Op::Lstm(_) => {
                let lstm = Lstm {
                    steps: from.width,
                    hidden: to.channels,
                    tensors: [tensors[0], tensors[1], tensors[2], tensors[3]],
                };
                dy.map_or_else(|| vec![lstm.forward(x)], |dy| lstm.backward(x, dy))
            }
            Op::Embedding(Embedding { by, padding, .. }) => {
                let (table, features) = (tensors[0], to.channels);
                let rows = x.iter().enumerate().map(|(token, id)| match by {
                    Row::Id => *id as usize,
                    Row::Place => token % from.width,
                    Row::First => 0,
                });
                let Some(dy) = dy else {
                    let rows = rows.flat_map(|row| &table[row * features..][..features]);
                    return vec![rows.copied().collect()];
                };
                let mut dtable = vec![0.0; table.len()];
                let rows = rows.zip(dy.chunks_exact(features));
                for (row, dy) in rows.filter(|(row, _)| Some(*row) != *padding) {
                    for (to, dy) in dtable[row * features..].iter_mut().zip(dy) {
                        *to += dy;
                    }
                }
                vec![vec![0.0; x.len()], dtable]
            }
            _ => unreachable!("it is no layer of sequences"),
        }
    }
}
