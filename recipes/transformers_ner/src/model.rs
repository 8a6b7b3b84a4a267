//! BERT with a linear layer over each token's features.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use galley_nn::text::{Activation, Encoder, EncoderConfig, Linear, Packed, TensorNames};

/// Gives each token a logit for each label.
#[derive(Debug)]
pub(crate) struct TokenClassifier {
    encoder: Encoder,
    classifier: Linear,
}

impl TokenClassifier {
    /// Reads the weights by the names of transformers' `BertForTokenClassification`.
    pub(crate) fn load(config: &EncoderConfig, labels: usize, vb: &VarBuilder) -> Result<Self> {
        let head = vb.pp("classifier");
        let weight = head.get((labels, config.hidden), "weight")?;
        Ok(Self {
            encoder: Encoder::load(config, &TensorNames::BERT, &vb.pp("bert"))?,
            classifier: Linear::new(&weight, head.get(labels, "bias")?)?,
        })
    }

    /// `[tokens, labels]`.
    pub(crate) fn forward(&self, batch: &Packed) -> Result<Tensor> {
        let hidden = self.encoder.forward(batch)?;
        self.classifier.forward(&hidden, Activation::Identity)
    }
}
