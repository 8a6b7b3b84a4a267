//! DistilBERT sequence classification recipe: text in, label and scores out.

use galley_core::Entry;

/// The catalog's entries.
pub const ENTRIES: &[Entry] = &[];
