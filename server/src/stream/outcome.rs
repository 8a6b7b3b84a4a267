//! How a message ended: the words of metrics, of the summary and of the log.

/// How a delivery ended; the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its row was written: an answer.
    Written,
    /// Its row was there already.
    Duplicate,
    /// Its row was written: it cannot be answered, however often it is tried.
    Refused,
    /// Its row was written: it was tried too often.
    GaveUp,
    /// It has no row and was given back, to be delivered again.
    Returned,
    /// There is a row of its id for another input, which stays as it is.
    Conflict,
}

impl Outcome {
    /// All of them, each at the place of its variant.
    pub const ALL: [Self; 6] = [
        Self::Written,
        Self::Duplicate,
        Self::Refused,
        Self::GaveUp,
        Self::Returned,
        Self::Conflict,
    ];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Duplicate => "duplicate",
            Self::Refused => "refused",
            Self::GaveUp => "gave_up",
            Self::Returned => "returned",
            Self::Conflict => "conflict",
        }
    }
}
