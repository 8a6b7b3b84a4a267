//! The points of a load test, one after the other: searches, then what is drawn; or given rates; or recorded times.

use std::time::Duration;

use super::{
    arrivals::Arrivals,
    course::About,
    point::{self, Enough, Plan},
    search::{Next, Search, Trial},
};
use crate::{
    args::LoadArgs,
    error::{Error, Result},
    interrupt,
    output::Output,
    progress::Progress,
    report::record::{Found, Judged, Point, Record},
    served::{LoadGenerator, Payloads},
    stats::Repeats,
};

/// Requests that are due in a point's first second do not count; nor are they sent for longer than those that do.
const LEAD: Duration = Duration::from_secs(1);
/// The least time that a rate is offered for: so long, and so many limits that a server which bears 2 % less than is offered falls
/// behind by one.
const LEAST: Duration = Duration::from_secs(3);
const LEAST_LIMITS: u32 = 50;
/// The least for a rate that is drawn.
const LEAST_DRAWN: Duration = Duration::from_secs(10);
/// What is drawn, as parts of the highest rate found.
const DRAWN: [f64; 9] = [0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5];
/// Connections that are opened before a point, at most; others are opened when they are needed.
const CONNECTIONS: f64 = 256.0;
/// About how many points a search has.
const SEARCHED: usize = 10;

/// What the points have in common, and where they go.
pub(super) struct Session<'a> {
    pub(super) args: &'a LoadArgs,
    pub(super) load: &'a LoadGenerator,
    pub(super) payloads: Payloads,
    /// Counts points.
    pub(super) progress: Progress,
    pub(super) output: Output,
    /// Points so far.
    pub(super) points: u64,
}

/// About how many points there will be, unless times are replayed.
pub(super) fn points(args: &LoadArgs) -> f64 {
    let points = match args.rates.len() {
        0 => args.slo.len() * SEARCHED * args.repeats.get() + DRAWN.len(),
        rates => rates * args.repeats.get(),
    };
    points as f64
}

/// A rate to offer, and for how long.
#[derive(Clone, Copy)]
struct Offer {
    purpose: &'static str,
    repeat: usize,
    rate: f64,
    least: Duration,
    enough: Enough,
}

impl Session<'_> {
    /// Searches the highest rate of each objective, beginning at a rate, and draws what is around the highest of all.
    ///
    /// # Errors
    /// See [`super::run`].
    pub(super) fn search(&mut self, start: f64) -> Result<()> {
        let mut found: Vec<Vec<f64>> = vec![Vec::new(); self.args.slo.len()];
        for repeat in 0..self.args.repeats.get() {
            let mut earlier = Vec::new();
            for (number, rates) in found.iter_mut().enumerate() {
                rates.extend(self.search_one(number, repeat, start, &mut earlier)?);
            }
        }
        let means = found
            .into_iter()
            .filter_map(|rates| Some(Repeats::of(rates)?.mean));
        let highest = means.reduce(f64::max).unwrap_or(start);
        for part in DRAWN {
            self.offer(Offer {
                purpose: "draw",
                repeat: 0,
                rate: highest * part,
                least: LEAST_DRAWN,
                enough: Enough::Known,
            })?;
        }
        Ok(())
    }

    /// Searches the highest rate of one objective. What earlier points decided of it is not tried again.
    fn search_one(
        &mut self,
        number: usize,
        repeat: usize,
        start: f64,
        earlier: &mut Vec<Point>,
    ) -> Result<Option<f64>> {
        let planned = self.progress.finished() + SEARCHED as f64;
        let mut search = Search::new(start);
        for point in earlier
            .iter()
            .filter(|point| point.objectives[number].decided)
        {
            search.note(point.rate, trial(point, &point.objectives[number]));
        }
        let result = loop {
            let rate = match search.next() {
                Next::Try(rate) => rate,
                Next::End(result) => break result,
            };
            let point = self.offer(Offer {
                purpose: "search",
                repeat,
                rate,
                least: LEAST,
                enough: Enough::Decided(number),
            })?;
            search.note(rate, trial(&point, &point.objectives[number]));
            earlier.push(point);
        };
        self.output.add(&Record::Found(Found {
            repeat,
            objective: self.args.slo[number].to_string(),
            batch: self.args.batch.get(),
            rate: result.rate,
            client_bound: result.client_bound,
        }))?;
        // Points that were not needed are no more to wait for.
        self.progress
            .finish_cell(planned - self.progress.finished());
        Ok(result.rate)
    }

    /// Offers the rates that were asked for.
    ///
    /// # Errors
    /// See [`super::run`].
    pub(super) fn rates(&mut self) -> Result<()> {
        for repeat in 0..self.args.repeats.get() {
            for &rate in &self.args.rates {
                let point = self.offer(Offer {
                    purpose: "rates",
                    repeat,
                    rate,
                    least: LEAST_DRAWN,
                    enough: Enough::Known,
                })?;
                if point.requests == 0 {
                    let reason = format!("at {rate} requests a second none was due in that time");
                    return Err(Error::option("--longest", reason));
                }
            }
        }
        Ok(())
    }

    /// Sends at recorded times, of which there is at least one.
    ///
    /// # Errors
    /// See [`super::run`].
    pub(super) fn replay(&mut self, times: &[Duration]) -> Result<()> {
        let span = times[times.len() - 1];
        let about = About {
            purpose: "replay",
            repeat: 0,
            arrivals: "replay",
            seed: None,
            batch: self.args.batch.get(),
            rate: times.len() as f64 / span.as_secs_f64().max(1e-9),
        };
        let plan = Plan {
            times: Box::new(times.iter().copied()),
            objectives: &self.args.slo,
            lead: Duration::ZERO,
            least: span,
            longest: span,
            enough: Enough::Never,
        };
        self.point(about, plan).map(drop)
    }

    fn offer(&mut self, offer: Offer) -> Result<Point> {
        let Offer {
            purpose,
            repeat,
            rate,
            least,
            enough,
        } = offer;
        let args = self.args;
        let seed = args.seed.wrapping_add(self.points);
        let judged: Vec<_> = match enough {
            Enough::Decided(number) => vec![args.slo[number]],
            Enough::Known | Enough::Never => args.slo.clone(),
        };
        let limits = judged
            .iter()
            .map(|objective| objective.limit * LEAST_LIMITS);
        let about = About {
            purpose,
            repeat,
            arrivals: args.arrivals.name(),
            seed: Some(seed),
            batch: args.batch.get(),
            rate,
        };
        let plan = Plan {
            times: Box::new(Arrivals::new(args.arrivals, rate, seed)),
            objectives: &args.slo,
            lead: LEAD.min(args.longest),
            least: limits.fold(least, Duration::max).min(args.longest),
            longest: args.longest,
            enough,
        };
        self.point(about, plan)
    }

    /// Runs a point and records it, also where it was interrupted.
    fn point(&mut self, about: About<'_>, plan: Plan<'_>) -> Result<Point> {
        interrupt::check()?;
        let limits = plan.objectives.iter().map(|objective| objective.limit);
        let limit = limits.max().unwrap_or_default().as_secs_f64();
        let connections = (about.rate * limit).clamp(8.0, CONNECTIONS) as usize;
        let requests = self
            .load
            .requests(&self.payloads, about.batch, connections)?;
        self.progress
            .label(format!("{} {:.4}/s", about.purpose, about.rate));
        let whole = (plan.lead + plan.longest).as_secs_f64().max(1e-9);
        let (course, ended) = {
            let progress = |seconds: f64| self.progress.within((seconds / whole).min(1.0));
            point::run(self.load, &requests, plan, &progress)?
        };
        self.points += 1;
        self.progress.finish_cell(1.0);
        let point = course.record(about, ended);
        if !course.is_empty() {
            self.output.add(&Record::Point(point.clone()))?;
        }
        interrupt::check()?;
        Ok(point)
    }
}

/// What a point says to a search. That an objective was kept stands though the client was late: the server kept it nevertheless.
fn trial(point: &Point, judged: &Judged) -> Trial {
    match (judged.kept, point.client_bound) {
        (true, _) => Trial::Kept,
        (false, true) => Trial::ClientBound,
        (false, false) => Trial::Broken,
    }
}
