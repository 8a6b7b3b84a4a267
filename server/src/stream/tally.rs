//! What a stream has come to: its metrics, and the same numbers for the summary at its end.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::outcome::Outcome;
use crate::metrics::StreamMetrics;

/// Counts what a stream does.
#[derive(Debug)]
pub struct Tally {
    metrics: StreamMetrics,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    bytes: AtomicU64,
}

impl Tally {
    /// Nothing yet.
    pub fn new(metrics: StreamMetrics) -> Self {
        Self {
            metrics,
            outcomes: Default::default(),
            bytes: AtomicU64::new(0),
        }
    }

    /// The metrics that are only shown.
    pub fn metrics(&self) -> &StreamMetrics {
        &self.metrics
    }

    /// So many deliveries have ended so.
    pub fn ended(&self, outcome: Outcome, count: u64) {
        self.outcomes[outcome as usize].fetch_add(count, Ordering::Relaxed);
        self.metrics.ended(outcome, count);
    }

    /// An input of so many bytes was read.
    pub fn read(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.bytes.increment(bytes);
    }

    /// How many deliveries have ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// What it has come to in this time.
    pub fn summary(&self, time: Duration, price_per_hour: Option<f64>) -> Summary {
        Summary {
            outcomes: Outcome::ALL.map(|outcome| (outcome, self.count(outcome))),
            bytes: self.bytes.load(Ordering::Relaxed),
            time,
            price_per_hour,
        }
    }
}

/// What a stream came to.
#[derive(Clone, Debug)]
pub struct Summary {
    outcomes: [(Outcome, u64); Outcome::ALL.len()],
    bytes: u64,
    /// From the first delivery to the last commit.
    time: Duration,
    price_per_hour: Option<f64>,
}

impl std::fmt::Display for Summary {
    /// One line: counts by outcome, rows and bytes a second, and what a million rows cost.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (outcome, count) in self.outcomes {
            write!(f, "{} {count}, ", outcome.name())?;
        }
        let is_row = |outcome| {
            matches!(
                outcome,
                Outcome::Written | Outcome::Refused | Outcome::GaveUp
            )
        };
        let rows: u64 = self
            .outcomes
            .iter()
            .filter(|(outcome, _)| is_row(*outcome))
            .map(|(_, count)| count)
            .sum();
        let seconds = self.time.as_secs_f64();
        let rate = |count: u64| count as f64 / seconds.max(1e-3);
        write!(
            f,
            "{rows} rows in {seconds:.1} s: {:.1} rows/s, {:.1} MB/s",
            rate(rows),
            rate(self.bytes) / 1e6
        )?;
        if let Some(price) = self.price_per_hour.filter(|_| rows > 0) {
            let cost = price * seconds / 3600.0;
            let million = cost / rows as f64 * 1e6;
            write!(f, ", cost {cost:.4} ({million:.2} a million rows)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;

    #[test]
    fn a_summary_has_counts_rates_and_the_cost() {
        let registry = Registry::new().unwrap();
        let tally = Tally::new(registry.stream("echo"));
        tally.ended(Outcome::Written, 150);
        tally.ended(Outcome::Refused, 50);
        tally.ended(Outcome::Duplicate, 7);
        tally.read(3_000_000);
        let summary = tally.summary(Duration::from_secs(2), Some(3.6));
        assert_eq!(
            summary.to_string(),
            "written 150, duplicate 7, refused 50, gave_up 0, returned 0, conflict 0, \
             200 rows in 2.0 s: 100.0 rows/s, 1.5 MB/s, cost 0.0020 (10.00 a million rows)"
        );
        let text = registry.render();
        let line = r#"galley_stream_messages_total{recipe="echo",outcome="refused"} 50"#;
        assert!(text.contains(line), "{text}");
    }
}
