//! What became of the requests of one point, and what follows: pure data, told by `point` what happens.

use std::{collections::BTreeMap, time::Duration};

use super::stopping::{self, Estimate, KNOWN, Standing};
use crate::{
    args::Objective,
    report::record::{Judged, Packed, Percentile, Point},
    served::Failure,
    stats::{Latency, milliseconds, percentile},
};

/// The percentile that is watched where there is no objective.
const USUAL: f64 = 99.0;
/// A client that is late by more than this part of what it measures is the bound itself.
const LATE: f64 = 0.1;
/// The latency that lateness is held against where there is no objective.
const USUAL_LIMIT: Duration = Duration::from_millis(100);

/// A request; times are since the point's beginning.
#[derive(Clone, Debug)]
struct Request {
    due: Duration,
    end: Option<End>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// When it was sent.
    pub(super) sent: Duration,
    /// When its answer had been read.
    pub(super) at: Duration,
    pub(super) outcome: Result<(), Failure>,
}

/// The requests of a point, in the order in which they were due.
#[derive(Clone, Debug)]
pub(super) struct Course {
    objectives: Vec<Objective>,
    /// Requests that are due before this are sent but do not count: the server's queue is empty at first.
    lead: Duration,
    /// Requests that the client could have in flight at most.
    most_in_flight: usize,
    requests: Vec<Request>,
}

/// What is known of a point at some moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Look {
    /// Of each objective.
    pub(super) standings: Vec<Standing>,
    /// Whether each percentile is known well enough.
    pub(super) known: bool,
}

/// What a point is called in its record.
#[derive(Clone, Debug)]
pub(super) struct About<'a> {
    pub(super) purpose: &'a str,
    pub(super) repeat: usize,
    pub(super) arrivals: &'a str,
    pub(super) seed: Option<u64>,
    pub(super) batch: usize,
    pub(super) rate: f64,
}

impl Course {
    pub(super) fn new(objectives: &[Objective], lead: Duration, most_in_flight: usize) -> Self {
        Self {
            objectives: objectives.to_vec(),
            lead,
            most_in_flight,
            requests: Vec::new(),
        }
    }

    /// Another request is due.
    pub(super) fn due(&mut self, due: Duration) {
        self.requests.push(Request { due, end: None });
    }

    /// A request of those that were due, by its number from 0, has ended.
    pub(super) fn ended(&mut self, number: usize, end: End) {
        if let Some(request) = self.requests.get_mut(number) {
            request.end = Some(end);
        }
    }

    /// The point was interrupted: what has not been due for as long as the longest limit does not count, as the server may have been
    /// told to end too.
    pub(super) fn interrupted(&mut self, now: Duration) {
        let until = now.saturating_sub(self.longest_limit());
        self.requests.retain(|request| request.due <= until);
    }

    /// What is known now. Of each objective those requests count that have been due for as long as its limit, so that it is known
    /// of all of them whether they are over: none is left out because it takes long.
    pub(super) fn look(&self, now: Duration) -> Look {
        let standing = |objective: &Objective| {
            let over: Vec<bool> = self
                .due_before(now, objective.limit)
                .map(|request| request.is_over(objective.limit))
                .collect();
            stopping::standing(&over, objective.percent)
        };
        let latencies: Vec<_> = self
            .due_before(now, self.longest_limit())
            .map(Request::latency)
            .collect();
        let known = |percent| {
            let known_to =
                stopping::estimate(&latencies, percent).and_then(|estimate| estimate.known_to);
            known_to.is_some_and(|known_to| known_to <= KNOWN)
        };
        Look {
            standings: self.objectives.iter().map(standing).collect(),
            known: self.percentiles().into_iter().all(known),
        }
    }

    /// The record of a point that has ended in this way, all of whose requests have.
    pub(super) fn record(&self, about: About<'_>, ended: &str) -> Point {
        let counted: Vec<&Request> = self.due_before(Duration::MAX, Duration::ZERO).collect();
        let answered: Vec<Duration> = counted
            .iter()
            .filter_map(|request| request.latency())
            .collect();
        let last = counted.last().map_or(self.lead, |request| request.due);
        let seconds = (last - self.lead).as_secs_f64().max(1e-9);
        let mut errors: BTreeMap<String, u64> = BTreeMap::new();
        for end in counted.iter().filter_map(|request| request.end.as_ref()) {
            if let Err(failure) = &end.outcome {
                *errors.entry(failure.to_string()).or_default() += 1;
            }
        }
        let unsent = errors.contains_key(&Failure::Unsent.to_string());
        let mut late: Vec<Duration> = counted
            .iter()
            .filter_map(|request| request.late())
            .collect();
        late.sort_unstable();
        let mut sorted = answered.clone();
        sorted.sort_unstable();
        Point {
            purpose: about.purpose.into(),
            repeat: about.repeat,
            arrivals: about.arrivals.into(),
            seed: about.seed,
            batch: about.batch,
            rate: about.rate,
            seconds,
            requests: counted.len(),
            requests_ok: answered.len(),
            latency_ms: Latency::of(answered.clone()),
            percentiles: self.estimates(&counted),
            objectives: self
                .objectives
                .iter()
                .map(|objective| judged(objective, &counted, seconds))
                .collect(),
            errors,
            client_bound: self.is_late(&late, &sorted)
                || unsent && self.in_flight_is_few(about.rate),
            late_ms: Latency::of(late),
            ended: ended.into(),
            samples_ms: Packed(answered.into_iter().map(milliseconds).collect()),
        }
    }

    /// Whether nothing counts.
    pub(super) fn is_empty(&self) -> bool {
        self.due_before(Duration::MAX, Duration::ZERO)
            .next()
            .is_none()
    }

    fn estimates(&self, counted: &[&Request]) -> Vec<Percentile> {
        let latencies: Vec<_> = counted.iter().map(|request| request.latency()).collect();
        let of = |percent| {
            let estimate: Option<Estimate> = stopping::estimate(&latencies, percent);
            Percentile {
                percent,
                ms: estimate.map(|estimate| milliseconds(estimate.value)),
                known_to: estimate.and_then(|estimate| estimate.known_to),
            }
        };
        let mut percents = vec![50.0];
        percents.extend(self.percentiles());
        percents.dedup();
        percents.into_iter().map(of).collect()
    }

    /// The percentiles that matter, ascending.
    fn percentiles(&self) -> Vec<f64> {
        let mut percents: Vec<f64> = self
            .objectives
            .iter()
            .map(|objective| objective.percent)
            .collect();
        if percents.is_empty() {
            percents.push(USUAL);
        }
        percents.sort_unstable_by(f64::total_cmp);
        percents.dedup();
        percents
    }

    /// Whether requests were sent so late that it is felt in the percentile: by a part of the limit, or of the latency itself where that
    /// is more, as it is of a server that falls behind.
    fn is_late(&self, late: &[Duration], answered: &[Duration]) -> bool {
        let limits = self.objectives.iter().map(|objective| objective.limit);
        let limit = limits.min().unwrap_or(USUAL_LIMIT);
        let strictest = self.percentiles().last().copied().unwrap_or(USUAL);
        let latency = percentile(answered, strictest).unwrap_or_default();
        let felt = limit.max(latency).mul_f64(LATE);
        percentile(late, strictest).is_some_and(|late| late > felt)
    }

    /// Whether fewer requests could be in flight than a server may have that keeps its objectives (by Little's law: what comes in a
    /// limit's time). More in flight than that are the server's.
    fn in_flight_is_few(&self, rate: f64) -> bool {
        (self.most_in_flight as f64) < rate * self.longest_limit().as_secs_f64()
    }

    fn longest_limit(&self) -> Duration {
        let limits = self.objectives.iter().map(|objective| objective.limit);
        limits.max().unwrap_or(USUAL_LIMIT)
    }

    /// Requests that count and have been due for so long.
    fn due_before(&self, now: Duration, since: Duration) -> impl Iterator<Item = &Request> {
        let until = now.saturating_sub(since);
        let counting = self
            .requests
            .iter()
            .skip_while(|request| request.due < self.lead);
        counting.take_while(move |request| request.due <= until)
    }
}

impl Request {
    /// From when it was due until its answer was there; none where it was not answered well.
    fn latency(&self) -> Option<Duration> {
        let end = self.end.as_ref().filter(|end| end.outcome.is_ok())?;
        Some(end.at.saturating_sub(self.due))
    }

    fn is_over(&self, limit: Duration) -> bool {
        self.latency().is_none_or(|latency| latency > limit)
    }

    /// How late it was sent; none where it was not.
    fn late(&self) -> Option<Duration> {
        let end = self
            .end
            .as_ref()
            .filter(|end| end.outcome != Err(Failure::Unsent))?;
        Some(end.sent.saturating_sub(self.due))
    }
}

fn judged(objective: &Objective, requests: &[&Request], seconds: f64) -> Judged {
    let over: Vec<bool> = requests
        .iter()
        .map(|request| request.is_over(objective.limit))
        .collect();
    let within = over.iter().filter(|&&over| !over).count();
    let standing = stopping::standing(&over, objective.percent);
    let share = within as f64 / over.len().max(1) as f64;
    Judged {
        objective: objective.to_string(),
        limit_ms: milliseconds(objective.limit),
        within,
        goodput_per_s: within as f64 / seconds,
        kept: match standing {
            Standing::Kept => true,
            Standing::Broken => false,
            // Too near to tell: what was seen decides.
            Standing::Open => share >= objective.percent / 100.0,
        },
        decided: standing != Standing::Open,
    }
}

#[cfg(test)]
mod tests;
