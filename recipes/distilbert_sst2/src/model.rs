//! DistilBERT with a two-layer classifier on the first token's features.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use galley_nn::text::{Activation, Encoder, EncoderConfig, Linear, Packed, TensorNames};

/// Gives each sequence a logit for each label.
#[derive(Debug)]
pub(crate) struct SequenceClassifier {
    encoder: Encoder,
    pre_classifier: Linear,
    classifier: Linear,
    device: Device,
}

impl SequenceClassifier {
    /// Reads the weights by the names of transformers' `DistilBertForSequenceClassification`.
    pub(crate) fn load(config: &EncoderConfig, labels: usize, vb: &VarBuilder) -> Result<Self> {
        let linear = |name: &str, output| {
            let vb = vb.pp(name);
            let weight = vb.get((output, config.hidden), "weight")?;
            Linear::new(&weight, vb.get(output, "bias")?)
        };
        Ok(Self {
            encoder: Encoder::load(config, &TensorNames::DISTILBERT, &vb.pp("distilbert"))?,
            pre_classifier: linear("pre_classifier", config.hidden)?,
            classifier: linear("classifier", labels)?,
            device: vb.device().clone(),
        })
    }

    /// `[sequences, labels]`; every sequence has a first token.
    pub(crate) fn forward(&self, batch: &Packed) -> Result<Tensor> {
        let hidden = self.encoder.forward(batch)?;
        let starts = &batch.offsets()[..batch.offsets().len() - 1];
        let starts: Vec<u32> = starts.iter().map(|&start| start as u32).collect();
        let first = hidden.index_select(&Tensor::new(starts, &self.device)?, 0)?;
        let features = self.pre_classifier.forward(&first, Activation::Identity)?;
        self.classifier
            .forward(&features.relu()?, Activation::Identity)
    }
}
