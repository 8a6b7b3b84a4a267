//! DistilBERT with a two-layer classifier on the first token's features.

use candle_core::Result;
use candle_nn::VarBuilder;
use galley_nn::{
    Backend,
    text::{Activation, Classifier, EncoderConfig, Head, HeadLayer, Pooling, TensorNames},
};

/// Reads the weights by the names of transformers' `DistilBertForSequenceClassification`. It gives logits `[sequences,
/// labels]`; every sequence has a first token.
pub(crate) fn sequence_classifier(
    config: &EncoderConfig,
    labels: usize,
    backend: &Backend,
    vb: &VarBuilder,
) -> Result<Classifier> {
    let layer = |name: &str, outputs, activation| {
        HeadLayer::load(&vb.pp(name), (config.hidden, outputs), activation)
    };
    let head = Head {
        pooling: Pooling::First,
        layers: vec![
            layer("pre_classifier", config.hidden, Activation::Relu)?,
            layer("classifier", labels, Activation::None)?,
        ],
    };
    let names = &TensorNames::DISTILBERT;
    Classifier::load(config, names, &head, backend, &vb.pp("distilbert"))
}
