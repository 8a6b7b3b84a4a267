//! The one list of all recipes, which the server and the benchmark both read. Nothing else names concrete recipes.

mod training;

use galley_core::{AnyRecipe, Entry, LoadError, LoadOptions};
pub use galley_nn::device_uuid;
pub use training::{Training, optimizer, trainable, trainer};

static CRATES: [&[Entry]; 6] = [
    galley_efficientnet::ENTRIES,
    galley_torchvision::ENTRIES,
    galley_deepsegment::ENTRIES,
    galley_encoders::ENTRIES,
    galley_superbench::ENTRIES,
    galley_echo::ENTRIES,
];

/// The recipes that `galley serve` serves when none are named: those with real bundled weights.
pub const DEFAULT_RECIPES: [&str; 3] = ["efficientnet_lite0", "deepsegment_en", "transformers_ner"];

/// Every recipe.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    CRATES.into_iter().flatten()
}

/// How many times as fast matrix products are in bf16 as in f32 on this processor, if it has bf16 (see
/// [`galley_nn::bf16_gain`]).
pub fn bf16_gain() -> Option<f64> {
    galley_nn::bf16_gain()
}

/// The recipe of this name.
///
/// # Errors
/// There is none; the message lists the names that exist.
pub fn find(name: &str) -> Result<&'static Entry, LoadError> {
    entries()
        .find(|entry| entry.name == name)
        .ok_or_else(|| LoadError::UnknownRecipe {
            name: name.into(),
            known: entries()
                .map(|entry| entry.name)
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// Loads the recipe of this name.
///
/// # Errors
/// There is no such recipe, its weights are missing or wrong, or the device cannot run it.
pub fn load(name: &str, options: &LoadOptions) -> Result<AnyRecipe, LoadError> {
    let entry = find(name)?;
    if let Some(unknown) = options
        .options
        .keys()
        .find(|key| !entry.options.iter().any(|(known, _)| known == key))
    {
        let known: Vec<_> = entry.options.iter().map(|(key, _)| *key).collect();
        return Err(LoadError::invalid(
            format!("option {name}.{unknown}"),
            if known.is_empty() {
                format!("{name} has no options")
            } else {
                format!("expected one of {}", known.join(", "))
            },
        ));
    }
    (entry.load)(entry, options)
}
