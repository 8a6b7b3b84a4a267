//! What is wrong with a description.

use std::fmt;

/// The first layer of a description that does not fit what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The layer's name.
    pub layer: String,
    /// What it would take.
    pub wanted: String,
    /// What it was given.
    pub got: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, wanted, got } = self;
        write!(f, "{layer}: expected {wanted}, got {got}")
    }
}

impl std::error::Error for Mistake {}

impl From<Mistake> for candle_core::Error {
    fn from(mistake: Mistake) -> Self {
        Self::msg(mistake)
    }
}
