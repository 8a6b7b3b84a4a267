//! A transformer as a graph: what training differentiates.

use super::config::{Norm, TensorNames, TransformerConfig};
use crate::{
    activation::Activation,
    graph::{Attention, Builder, Convolution, Embedding, Row, Stored, Value},
};

impl TransformerConfig {
    /// Adds its layers to a description whose input is token ids; gives the features of each token. `prefix` is what names
    /// begin with; `dropout` is the share of what transformers drops in training, wherever it does: after the embeddings and each
    /// block, and of attention's weights.
    pub fn describe(
        &self,
        net: &mut Builder,
        (names, prefix): (&TensorNames, &str),
        dropout: f64,
    ) -> Value {
        let mut layers = Layers {
            config: self,
            names,
            prefix,
            dropout,
            net,
        };
        let mut x = layers.embeddings();
        for layer in 0..self.layers {
            x = match self.norm {
                Norm::Post => layers.post(layer, x),
                Norm::Pre => layers.pre(layer, x),
            };
        }
        match self.norm {
            Norm::Post => x,
            Norm::Pre => layers.norm(2 * self.layers, x),
        }
    }
}

struct Layers<'a> {
    config: &'a TransformerConfig,
    names: &'a TensorNames,
    prefix: &'a str,
    dropout: f64,
    net: &'a mut Builder,
}

impl Layers<'_> {
    fn embeddings(&mut self) -> Value {
        let TransformerConfig {
            vocabulary,
            max_positions,
            token_types,
            ..
        } = *self.config;
        let words = Embedding {
            padding: self.names.padding,
            ..Embedding::new(vocabulary, Row::Id)
        };
        let x = self.table(self.names.words, words);
        let places = Embedding::new(max_positions, Row::Place);
        let places = self.table(self.names.positions, places);
        let mut x = self.net.sum(x, places);
        if token_types > 0 {
            let types = Embedding::new(token_types, Row::First);
            let types = self.table(self.names.types, types);
            x = self.net.sum(x, types);
        }
        if self.config.norm == Norm::Post {
            x = self.norm(0, x);
        }
        self.net.dropout(x, self.dropout)
    }

    fn table(&mut self, name: &str, embedding: Embedding) -> Value {
        let (name, ids) = (self.named(name), self.net.input());
        self.net
            .embedding(&name, ids, embedding, self.config.hidden)
    }

    fn post(&mut self, layer: usize, x: Value) -> Value {
        let y = self.attend(layer, x);
        let y = self.net.sum(y, x);
        let x = self.norm(2 * layer + 1, y);
        let y = self.feed_forward(layer, x);
        let y = self.net.sum(y, x);
        self.norm(2 * layer + 2, y)
    }

    fn pre(&mut self, layer: usize, x: Value) -> Value {
        let y = self.norm(2 * layer, x);
        let y = self.attend(layer, y);
        let x = self.net.sum(y, x);
        let y = self.norm(2 * layer + 1, x);
        let y = self.feed_forward(layer, y);
        self.net.sum(y, x)
    }

    fn attend(&mut self, layer: usize, x: Value) -> Value {
        let TransformerConfig {
            hidden,
            heads,
            causal,
            ..
        } = *self.config;
        let parts = self.names.qkv;
        let parts: Vec<_> = parts
            .iter()
            .map(|name| self.dense(layer, name, x, 3 * hidden / parts.len()))
            .collect();
        let qkv = match parts[..] {
            [qkv] => qkv,
            _ => self.net.concat(&parts),
        };
        let attention = Attention {
            heads,
            causal,
            dropout: self.dropout,
        };
        let y = self.net.attention(qkv, attention);
        let y = self.dense(layer, self.names.attention_output, y, hidden);
        self.net.dropout(y, self.dropout)
    }

    fn feed_forward(&mut self, layer: usize, x: Value) -> Value {
        let y = self.dense(layer, self.names.intermediate, x, self.config.intermediate);
        let y = match self.config.activation {
            Activation::None => y,
            activation => self.net.activation(y, activation),
        };
        let y = self.dense(layer, self.names.output, y, self.config.hidden);
        self.net.dropout(y, self.dropout)
    }

    fn dense(&mut self, layer: usize, name: &str, x: Value, outputs: usize) -> Value {
        let name = self.named(&format!("{}.{layer}.{name}", self.names.layers));
        let stored = match self.names.inputs_first {
            true => Stored::Conv1d,
            false => Stored::Linear,
        };
        let dense = Convolution::dense(outputs, stored);
        self.net.convolution(&name, x, dense)
    }

    fn norm(&mut self, index: usize, x: Value) -> Value {
        let name = self.named(&self.names.norm(self.config, index));
        let eps = f64::from(self.config.layer_norm_eps);
        self.net.layer_norm(&name, x, eps)
    }

    /// A name in a state dict.
    fn named(&self, name: &str) -> String {
        match self.prefix {
            "" => name.into(),
            prefix => format!("{prefix}.{name}"),
        }
    }
}
