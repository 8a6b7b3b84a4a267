//! What all text recipes say of themselves.

use galley_core::{Architecture, Entry, InputKind, LoadOptions, RecipeInfo};
use galley_nn::text::TransformerConfig;

/// Texts up to this size are tokenized in less time than another thread takes to wake.
const INLINE_BYTES: usize = 2048;

/// Tokens of a made-up item: a sentence or two.
pub const SAMPLE_TOKENS: usize = 64;

/// The description of a recipe that reads texts and whose cost is their tokens.
pub fn recipe_info(entry: &Entry, options: &LoadOptions, weights: String) -> RecipeInfo {
    RecipeInfo {
        name: entry.name,
        input_kind: InputKind::Json,
        weights,
        dtype: options.dtype.as_str(),
        device: options.device_name(),
        cost_unit: "tokens",
        inline_bytes: INLINE_BYTES,
        max_batch_size: None,
    }
}

/// A text model in figures, with the parameters that were counted while it was loaded.
pub fn architecture(encoder: &TransformerConfig, parameters: u64) -> Architecture {
    Architecture {
        parameters: Some(parameters),
        layers: Some(encoder.layers),
        hidden_size: Some(encoder.hidden),
        attention_heads: Some(encoder.heads),
    }
}
