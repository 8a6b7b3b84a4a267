//! The metrics of a stream.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label, Unit};

use super::Registry;

/// How a delivery ended; the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamOutcome {
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

impl StreamOutcome {
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

/// What a message's time goes into; the label `stage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From its turn to its input being there.
    Fetch,
    /// From there to its answer, waiting for its batch included.
    Infer,
    /// From there to its row's commit.
    Write,
    /// From its delivery to its row's commit.
    Total,
}

const STAGES: [(Stage, &str); 4] = [
    (Stage::Fetch, "fetch"),
    (Stage::Infer, "infer"),
    (Stage::Write, "write"),
    (Stage::Total, "total"),
];

/// The metrics of one recipe's stream, registered once so that recording costs no look-up.
pub struct StreamMetrics {
    messages: [Counter; StreamOutcome::ALL.len()],
    stages: [Histogram; STAGES.len()],
    /// Bytes of inputs that were read.
    pub bytes: Counter,
    /// Messages delivered that were not delivered for the first time.
    pub redelivered: Counter,
    /// Messages delivered and not ended.
    pub in_hand: Gauge,
    /// The most that may be in hand now.
    pub window: Gauge,
    /// Bytes of inputs in memory.
    pub bytes_in_hand: Gauge,
    /// Messages that wait at the source, where it knows.
    pub waiting: Gauge,
    /// What was asked of the table in vain and is asked again.
    pub table_retries: Counter,
}

impl std::fmt::Debug for StreamMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamMetrics").finish_non_exhaustive()
    }
}

impl StreamMetrics {
    /// Counts messages that have ended so.
    pub fn ended(&self, outcome: StreamOutcome, count: u64) {
        self.messages[outcome as usize].increment(count);
    }

    /// A message has been through a stage.
    pub fn stage(&self, stage: Stage, time: Duration) {
        self.stages[stage as usize].record(time);
    }
}

impl Registry {
    /// The metrics of a recipe's stream.
    pub fn stream(&self, recipe: &'static str) -> StreamMetrics {
        let label = || Label::new("recipe", recipe);
        self.describe_stream();
        StreamMetrics {
            messages: StreamOutcome::ALL.map(|outcome| {
                let labels = vec![label(), Label::new("outcome", outcome.name())];
                self.counter("galley_stream_messages_total", labels)
            }),
            stages: STAGES.map(|(_, stage)| {
                let labels = vec![label(), Label::new("stage", stage)];
                self.histogram("galley_stream_duration_seconds", labels)
            }),
            bytes: self.counter("galley_stream_bytes_total", vec![label()]),
            redelivered: self.counter("galley_stream_redelivered_total", vec![label()]),
            in_hand: self.gauge("galley_stream_in_hand", vec![label()]),
            window: self.gauge("galley_stream_window", vec![label()]),
            bytes_in_hand: self.gauge("galley_stream_in_hand_bytes", vec![label()]),
            waiting: self.gauge("galley_stream_waiting", vec![label()]),
            table_retries: self.counter("galley_stream_table_retries_total", vec![label()]),
        }
    }

    fn describe_stream(&self) {
        for (name, text) in [
            (
                "galley_stream_messages_total",
                "Messages of a stream by how they ended.",
            ),
            (
                "galley_stream_bytes_total",
                "Bytes of inputs that a stream has read.",
            ),
            (
                "galley_stream_redelivered_total",
                "Messages that were not delivered for the first time.",
            ),
            (
                "galley_stream_table_retries_total",
                "What was asked of the table in vain and is asked again.",
            ),
        ] {
            self.describe_counter(name, text);
        }
        for (name, text) in [
            ("galley_stream_in_hand", "Messages delivered and not ended."),
            (
                "galley_stream_window",
                "The most messages that may be in hand now.",
            ),
            ("galley_stream_in_hand_bytes", "Bytes of inputs in memory."),
            (
                "galley_stream_waiting",
                "Messages that wait at the source, where it knows.",
            ),
        ] {
            self.describe_gauge(name, text);
        }
        self.describe_histogram(
            "galley_stream_duration_seconds",
            Unit::Seconds,
            "What a message's time goes into, by stage.",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_at_the_place_of_their_variant() {
        for (place, (stage, _)) in STAGES.iter().enumerate() {
            assert_eq!(*stage as usize, place);
        }
        for (place, outcome) in StreamOutcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, place);
        }
    }
}
