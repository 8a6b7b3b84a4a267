//! The metrics of the table of jobs.

use metrics::{Counter, Label};

use super::Registry;

/// What happened to a job here; the label `event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// It was stored, and so accepted.
    Stored,
    /// It was taken from the table: its lease had ended, or it had been given back.
    TakenOver,
    /// It was given back, to be taken again: the process ends, or there was no room.
    Released,
    /// Processes ended of it too often.
    GaveUp,
    /// Its lease ended here and somebody else has it; what came of it here was dropped.
    Superseded,
    /// The table was asked for it in vain, and is asked again.
    Retried,
}

impl JobEvent {
    /// All of them, each at the place of its variant.
    const ALL: [(Self, &'static str); 6] = [
        (Self::Stored, "stored"),
        (Self::TakenOver, "taken_over"),
        (Self::Released, "released"),
        (Self::GaveUp, "gave_up"),
        (Self::Superseded, "superseded"),
        (Self::Retried, "retried"),
    ];
}

/// The metrics of one recipe's jobs, registered once so that recording costs no look-up.
pub struct JobMetrics([Counter; JobEvent::ALL.len()]);

impl std::fmt::Debug for JobMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobMetrics").finish_non_exhaustive()
    }
}

impl JobMetrics {
    /// Counts that something happened to a job.
    pub fn count(&self, event: JobEvent) {
        self.0[event as usize].increment(1);
    }
}

impl Registry {
    /// The metrics of a recipe's jobs.
    pub fn jobs(&self, recipe: &'static str) -> JobMetrics {
        self.describe_counter(
            "galley_jobs_total",
            "What happened to asynchronous requests in their table.",
        );
        JobMetrics(JobEvent::ALL.map(|(_, event)| {
            let labels = vec![Label::new("recipe", recipe), Label::new("event", event)];
            self.counter("galley_jobs_total", labels)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_at_the_place_of_their_variant() {
        for (place, (event, _)) in JobEvent::ALL.iter().enumerate() {
            assert_eq!(*event as usize, place);
        }
    }
}
