//! What the text recipes share, and no model: tokenizer files ([`Tokenizer`]),
//! windows over texts that are longer than a model takes ([`Document`]), model files ([`ModelFiles`]), and the way from a
//! text or from raw tensors to the tokens that a network reads ([`Reader`]).
//!
//! It is apart from `galley-core` so that recipes without text need no tokenizer, and apart from `galley-nn` because
//! nothing here computes.

mod document;
mod files;
mod info;
mod reader;
mod tensors;
mod tokenizer;
mod windows;

pub use document::Document;
pub use files::{BERT_FILES, HeadConfig, ModelFiles, config_error, expect_setting};
pub use info::{SAMPLE_TOKENS, architecture, recipe_info};
pub use reader::{MAX_TOKENS_HELP, Reader};
pub use tensors::{TensorLimits, packed};
pub use tokenizer::{Tokenizer, Tokens, WordPieceSettings};
pub use windows::{Window, windows};

/// The softmax of one row of logits.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}
