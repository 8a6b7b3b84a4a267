//! BERT token classification recipe: text in, entities out.

use galley_core::Entry;

/// The catalog's entries.
pub const ENTRIES: &[Entry] = &[];
