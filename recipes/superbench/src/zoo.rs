//! The models, by SuperBench's names.

use galley_nn::{
    lstm::LstmConfig,
    text::{Activation, Norm, TransformerConfig},
};

use crate::network::CLASSES;

/// A model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) family: Family,
    /// Features of a token, or of a step.
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    /// Attention heads of a layer.
    heads: usize,
}

/// What it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Bert,
    Gpt2,
    Lstm,
}

use Family::{Bert, Gpt2, Lstm};

/// All of them.
pub(crate) static MODELS: [Model; 7] = [
    model(
        "bert-base",
        "token ids in, logits out: BERT base",
        Bert,
        [768, 12, 12],
    ),
    model(
        "bert-large",
        "token ids in, logits out: BERT large",
        Bert,
        [1024, 24, 16],
    ),
    model(
        "gpt2-small",
        "token ids in, logits out: GPT-2 small",
        Gpt2,
        [768, 12, 12],
    ),
    model(
        "gpt2-medium",
        "token ids in, logits out: GPT-2 medium",
        Gpt2,
        [1024, 24, 16],
    ),
    model(
        "gpt2-large",
        "token ids in, logits out: GPT-2 large",
        Gpt2,
        [1280, 36, 20],
    ),
    model(
        "gpt2-xl",
        "token ids in, logits out: GPT-2 XL",
        Gpt2,
        [1600, 48, 25],
    ),
    model(
        "lstm",
        "rows of 256 numbers in, logits out: an LSTM of 8 layers",
        Lstm,
        [1024, 8, 0],
    ),
];

const fn model(
    name: &'static str,
    summary: &'static str,
    family: Family,
    [hidden, layers, heads]: [usize; 3],
) -> Model {
    Model {
        name,
        summary,
        family,
        hidden,
        layers,
        heads,
    }
}

/// The model of this name.
pub(crate) fn find(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

impl Family {
    /// SuperBench's name for benchmarks of it.
    pub(crate) const fn group(self) -> &'static str {
        match self {
            Bert => "bert",
            Gpt2 => "gpt",
            Lstm => "lstm",
        }
    }
}

impl Model {
    /// As a transformer; not for an LSTM.
    pub(crate) fn transformer(&self) -> TransformerConfig {
        let gpt2 = self.family == Gpt2;
        TransformerConfig {
            vocabulary: if gpt2 { 50_257 } else { 30_522 },
            max_positions: if gpt2 { 1024 } else { 512 },
            token_types: if gpt2 { 0 } else { 2 },
            hidden: self.hidden,
            intermediate: 4 * self.hidden,
            layers: self.layers,
            heads: self.heads,
            layer_norm_eps: if gpt2 { 1e-5 } else { 1e-12 },
            norm: if gpt2 { Norm::Pre } else { Norm::Post },
            causal: gpt2,
            activation: if gpt2 {
                Activation::GeluTanh
            } else {
                Activation::Gelu
            },
        }
    }

    /// As an LSTM.
    pub(crate) fn lstm(&self) -> LstmConfig {
        LstmConfig {
            input: 256,
            hidden: self.hidden,
            layers: self.layers,
            bidirectional: false,
        }
    }

    /// Multiplications, each with an addition, that the model and its linear layer take for a sequence of so many tokens.
    pub(crate) fn multiply_adds(&self, tokens: usize) -> u64 {
        let linear = (self.hidden * CLASSES) as u64;
        match self.family {
            Bert => {
                let pooler = (self.hidden * self.hidden) as u64;
                self.transformer().multiply_adds(tokens) + pooler + linear
            }
            Gpt2 => self.transformer().multiply_adds(tokens) + tokens as u64 * linear,
            Lstm => self.lstm().multiply_adds(tokens) + linear,
        }
    }

    /// Attention heads of a layer, where it has any.
    pub(crate) fn attention_heads(&self) -> Option<usize> {
        Some(self.heads).filter(|&heads| heads > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_take_so_many_multiply_adds() {
        // Billions for 512 tokens; attention over all pairs, and what of it a causal triangle leaves out.
        for (name, all, masked) in [
            ("bert-base", 48.3, 0.0),
            ("bert-large", 167.5, 0.0),
            ("gpt2-small", 48.4, 4.8 / 2.0),
            ("gpt2-medium", 167.6, 12.9 / 2.0),
            ("gpt2-large", 386.6, 24.2 / 2.0),
            ("gpt2-xl", 795.3, 40.3 / 2.0),
            ("lstm", 32.7, 0.0),
        ] {
            let model = MODELS.iter().find(|model| model.name == name).unwrap();
            let billions = model.multiply_adds(512) as f64 / 1e9;
            assert!(
                (billions - (all - masked)).abs() < 0.13,
                "{name}: {billions}"
            );
        }
    }
}
