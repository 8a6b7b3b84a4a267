//! DeepSegment recipe: unpunctuated text in, sentences out.

use galley_core::Entry;

/// The catalog's entries.
pub const ENTRIES: &[Entry] = &[];
