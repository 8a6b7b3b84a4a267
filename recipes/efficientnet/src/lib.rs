//! EfficientNet recipes: an image file in, its five likeliest classes out.

use galley_core::Entry;

/// The catalog's entries.
pub const ENTRIES: &[Entry] = &[];
