//! What the text recipes share, and no model: a text and its options ([`TextInput`]), tokenizer files ([`Tokenizer`]),
//! windows over texts that are longer than a model takes ([`Document`]), model files ([`ModelFiles`]) and raw tensors.
//!
//! It is apart from `galley-core` so that recipes without text need no tokenizer, and apart from `galley-nn` because
//! nothing here computes.

mod document;
mod files;
mod info;
mod input;
pub mod tensors;
mod tokenizer;
mod windows;

pub use document::{Document, pack};
pub use files::{HeadConfig, ModelFiles, expect_setting};
pub use info::{SAMPLE_TOKENS, recipe_info};
pub use input::TextInput;
pub use tokenizer::{Tokenizer, Tokens, WordPieceSettings};
pub use windows::{Window, windows};

/// The softmax of one row of logits.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}
