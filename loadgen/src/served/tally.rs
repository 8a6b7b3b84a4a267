//! What the clients of one run saw, each on its own, put together when all are done.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::answer::Failure;

/// What has been seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Latencies of requests answered well.
    pub(crate) latencies: Vec<Duration>,
    /// Requests answered well and not.
    pub(crate) requests: usize,
    /// Examples answered well.
    pub(crate) items_ok: usize,
    /// Failed requests by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    /// When the last answer was complete.
    pub(crate) ended: Option<Instant>,
}

impl Tally {
    /// Notes how a request of `items` examples ended.
    pub(crate) fn note(
        &mut self,
        outcome: Result<(), Failure>,
        items: usize,
        latency: Duration,
        ended: Instant,
    ) {
        self.requests += 1;
        self.ended = Some(ended);
        match outcome {
            Ok(()) => {
                self.items_ok += items;
                self.latencies.push(latency);
            }
            Err(failure) => *self.errors.entry(failure.to_string()).or_default() += 1,
        }
    }

    /// Adds what another client saw.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.requests += other.requests;
        self.items_ok += other.items_ok;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.ended = self.ended.max(other.ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_good_answers_have_latencies() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut one = Tally::default();
        one.note(Ok(()), 32, second, now);
        let mut other = Tally::default();
        other.note(Err(Failure::Status(500)), 32, second, now + second);
        other.note(Err(Failure::Status(500)), 32, second, now);
        one.merge(other);
        assert_eq!(
            (one.requests, one.items_ok, one.latencies.len()),
            (3, 32, 1)
        );
        assert_eq!(one.errors, [("status 500".to_owned(), 2)].into());
        assert_eq!(one.ended, Some(now));
    }
}
