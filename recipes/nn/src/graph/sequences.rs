//! Layers of sequences.

use super::{Builder, Op, Shape, Stored, Value};

/// A table of which each token takes a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// The table's rows.
    pub rows: usize,
    /// Which row a token takes.
    pub by: Row,
    /// The row whose gradient is zero: torch's `padding_idx`.
    pub padding: Option<usize>,
}

/// Which row of a table is a token's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    /// That of its id.
    Id,
    /// That of its place in its sequence.
    Place,
    /// The first one: that of token type 0, where all tokens are of that.
    First,
}

/// `softmax(Q K^T / sqrt(features / heads)) V` for each head. Queries, keys and values are each of all heads side by side, and
/// come one after the other as a token's channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// The heads.
    pub heads: usize,
    /// Whether a token attends to none after it.
    pub causal: bool,
    /// The share of the softmax's results that become zeros in training.
    pub dropout: f64,
}

/// A layer of torch's `LSTM`, with tensors `weight_ih_l0` `[4 * hidden, inputs]`, `weight_hh_l0` `[4 * hidden, hidden]`,
/// `bias_ih_l0` and `bias_hh_l0` `[4 * hidden]`. Gates are in torch's order: input, forget, cell, output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lstm {
    /// What a state dict puts before its tensors' names.
    pub prefix: String,
    /// The number after their `l`.
    pub layer: usize,
}

/// An end of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The first token.
    First,
    /// The last token.
    Last,
}

impl Builder {
    /// A row of `features` values for each id.
    pub fn embedding(
        &mut self,
        name: &str,
        ids: Value,
        embedding: Embedding,
        features: usize,
    ) -> Value {
        let shape = Shape {
            channels: features,
            ..self.shape(ids)
        };
        self.add(name, Op::Embedding(embedding), &[ids], Some(shape))
    }

    /// LayerNorm over each token's features.
    pub fn layer_norm(&mut self, name: &str, x: Value, eps: f64) -> Value {
        self.add(name, Op::LayerNorm { eps }, &[x], None)
    }

    /// Attention from queries, keys and values.
    pub fn attention(&mut self, qkv: Value, attention: Attention) -> Value {
        let name = self.after("attention", qkv);
        self.add(&name, Op::Attention(attention), &[qkv], None)
    }

    /// An LSTM's layer of so many units: its outputs at each step.
    pub fn lstm(&mut self, lstm: Lstm, x: Value, hidden: usize) -> Value {
        let name = format!("{}.l{}", lstm.prefix, lstm.layer);
        let shape = Shape {
            channels: hidden,
            ..self.shape(x)
        };
        self.add(&name, Op::Lstm(lstm), &[x], Some(shape))
    }

    /// A token.
    pub fn pick(&mut self, x: Value, end: End) -> Value {
        let name = self.after("pick", x);
        let shape = Shape {
            width: 1,
            ..self.shape(x)
        };
        self.add(&name, Op::Pick(end), &[x], Some(shape))
    }
}

impl Op {
    /// What it is, if it is a layer of sequences and not of images.
    pub(crate) fn of_sequences(&self) -> Option<&'static str> {
        match self {
            Self::Ids => Some("token ids"),
            Self::Embedding(_) => Some("an embedding"),
            Self::LayerNorm { .. } => Some("a LayerNorm"),
            Self::Attention(_) => Some("attention"),
            Self::Lstm(_) => Some("an LSTM"),
            Self::Pick(_) => Some("one token of a sequence"),
            Self::Convolution(layer) if layer.stored != Stored::Kernel => {
                Some("a linear layer for each token")
            }
            _ => None,
        }
    }
}

impl Embedding {
    /// A table of which all rows are trained.
    pub fn new(rows: usize, by: Row) -> Self {
        Self {
            rows,
            by,
            padding: None,
        }
    }

    /// Its shape, or what it would take.
    pub(super) fn shape(&self, ids: Shape, stated: Option<Shape>) -> Result<Shape, String> {
        let rows = self.rows;
        if self.by == Row::Place && ids.width > rows {
            return Err(format!("{rows} tokens at most"));
        }
        let shape = line(ids, stated)?;
        if rows == 0 {
            return Err("a table of rows".into());
        }
        Ok(shape)
    }
}

impl Attention {
    /// Its shape, or what it would take.
    pub(super) fn shape(&self, qkv: Shape) -> Result<Shape, String> {
        let heads = self.heads;
        let shape = Shape {
            channels: qkv.channels / 3,
            ..qkv
        };
        if heads == 0 || !qkv.channels.is_multiple_of(3 * heads) {
            return Err(format!(
                "queries, keys and values of {heads} heads side by side"
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err("to keep some of its weights".into());
        }
        line(qkv, Some(shape))
    }
}

impl Lstm {
    /// Its tensors.
    pub(super) fn parameters(&self, inputs: usize, hidden: usize) -> Vec<(String, Vec<usize>)> {
        let Self { prefix, layer } = self;
        let gates = 4 * hidden;
        [
            ("weight_ih", vec![gates, inputs]),
            ("weight_hh", vec![gates, hidden]),
            ("bias_ih", vec![gates]),
            ("bias_hh", vec![gates]),
        ]
        .map(|(part, shape)| (format!("{prefix}.{part}_l{layer}"), shape))
        .into()
    }
}

/// The stated shape, if what it is made of is a line of something.
pub(super) fn line(x: Shape, stated: Option<Shape>) -> Result<Shape, String> {
    match stated {
        Some(shape) if x.height == 1 && x.values() > 0 && shape.values() > 0 => Ok(shape),
        _ => Err("a sequence, and features to make of it".into()),
    }
}
