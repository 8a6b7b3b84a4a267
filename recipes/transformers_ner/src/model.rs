//! BERT with a linear layer over each token's features.

use candle_core::Result;
use candle_nn::VarBuilder;
use galley_nn::{
    Backend,
    text::{Activation, Classifier, EncoderConfig, Head, HeadLayer, Pooling, TensorNames},
};

/// Reads the weights by the names of transformers' `BertForTokenClassification`. It gives logits `[tokens, labels]`.
pub(crate) fn token_classifier(
    config: &EncoderConfig,
    labels: usize,
    backend: &Backend,
    vb: &VarBuilder,
) -> Result<Classifier> {
    let shape = (config.hidden, labels);
    let head = Head {
        pooling: Pooling::Tokens,
        layers: vec![HeadLayer::load(
            &vb.pp("classifier"),
            shape,
            Activation::None,
        )?],
    };
    Classifier::load(config, &TensorNames::BERT, &head, backend, &vb.pp("bert"))
}
