//! A row of `galley_answers`: what became of one message under one revision of a recipe.

use std::time::SystemTime;

use super::outcome::Outcome;

/// What a row says of its message; the column `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was answered.
    Ok,
    /// It cannot be answered, however often it is tried: no image, not found, not allowed, too large.
    Refused,
    /// It was tried too often.
    GaveUp,
}

impl Status {
    /// As it stands in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::GaveUp => "gave_up",
        }
    }

    /// How a message ends whose row with this status is written.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Ok => Outcome::Written,
            Self::Refused => Outcome::Refused,
            Self::GaveUp => Outcome::GaveUp,
        }
    }
}

/// What all rows of a stream have in common: the other half of their key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The recipe's name.
    pub recipe: String,
    /// The digest of its weights, options and dtype: another model makes other rows.
    pub revision: String,
    /// Who writes: host and process.
    pub worker: String,
}

/// A row to be written. Its key is `id` with the recipe and revision of the table's [`Scope`]; when it is written is the
/// table's to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The message's id.
    pub id: String,
    /// Where the input lay, without what may be secret of it; none for a text in the message itself.
    pub uri: Option<String>,
    /// Which version of it was read: the store's tag, or the digest of a text.
    pub etag: Option<String>,
    /// What became of it.
    pub status: Status,
    /// The answer in JSON, as `/infer` gives it.
    pub answer: Option<String>,
    /// Why there is none.
    pub error: Option<String>,
    /// The input's size.
    pub bytes: Option<u64>,
    /// How often the message had been delivered.
    pub deliveries: u32,
    /// When it was given to the source.
    pub published_at: Option<SystemTime>,
    /// When its input was there.
    pub fetched_at: Option<SystemTime>,
    /// When its answer was.
    pub answered_at: Option<SystemTime>,
    /// How long fetching took, in milliseconds.
    pub fetch_ms: Option<f64>,
    /// How long answering took, in milliseconds, waiting for its batch included.
    pub infer_ms: Option<f64>,
}

/// What came of writing a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there now, and was not before.
    New,
    /// There was one of its key already.
    Duplicate,
    /// There was one of its key already, for another input: another `uri`, or without one another `etag`.
    Conflict,
}

/// What a table knows of a message before it is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    New,
    /// It was begun so many times and has no row: a process died, or works on it.
    Begun(u32),
    /// It has a row.
    Done,
}
