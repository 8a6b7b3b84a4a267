//! One point: requests sent at their times, whatever became of those before, until enough is known of them.
//!
//! No thread is late because of another's work: one waits for each due time and hands the request to the load generator's threads in
//! turn, and the caller's collects what becomes of them and looks from time to time whether it is enough. goose, which drives closed
//! loops here, has users who wait for their answers; here nobody waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    course::{Course, End, Look},
    stopping::Standing,
};
use crate::{
    args::Objective,
    error::Result,
    interrupt,
    served::{Failure, LoadGenerator, Place, Requests, Threads},
};

/// How soon a point ends that was interrupted, and how often progress shows.
const TICK: Duration = Duration::from_millis(50);
/// From one look to the next time grows by this, so that looks are few and chance has few chances.
const NEXT_LOOK: f64 = 1.25;
/// Time to get ready before the first request is due.
const READY: Duration = Duration::from_millis(20);
/// Descriptors for other things than connections.
const OTHER_FILES: u64 = 128;
/// More connections than this exhaust a machine's ports.
const MOST_CONNECTIONS: u64 = 16_384;

/// What ends a point before its times do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Enough {
    /// The standing of one objective, or known percentiles.
    Decided(usize),
    /// Known percentiles, or that all objectives are broken: latency grows then as long as the point goes on.
    Known,
    /// Nothing.
    Never,
}

/// A point to run.
pub(super) struct Plan<'a> {
    /// Since the beginning, ascending.
    pub(super) times: Box<dyn Iterator<Item = Duration> + Send + 'a>,
    pub(super) objectives: &'a [Objective],
    /// Requests that are due before this do not count.
    pub(super) lead: Duration,
    /// The least and the most time that requests that count are sent for.
    pub(super) least: Duration,
    pub(super) longest: Duration,
    pub(super) enough: Enough,
}

/// What happens to requests.
enum Event {
    Due(Duration),
    Ended(usize, End),
    Failed(crate::Error),
}

/// Where requests go and what is told of them.
struct Sender<'a> {
    requests: &'a Requests,
    threads: &'a Threads,
    started: Instant,
    in_flight: Arc<AtomicUsize>,
    most: usize,
    stop: &'a AtomicBool,
    events: mpsc::Sender<Event>,
}

/// Runs a point; gives what became of its requests and why it ended. `progress` is told the seconds since its beginning.
///
/// # Errors
/// The corpus cannot be read.
pub(super) fn run(
    load: &LoadGenerator,
    requests: &Requests,
    plan: Plan<'_>,
    progress: &dyn Fn(f64),
) -> Result<(Course, &'static str)> {
    let most = most_in_flight();
    let stop = AtomicBool::new(false);
    let (events, received) = mpsc::channel();
    let sender = Sender {
        requests,
        threads: load.threads(),
        started: Instant::now() + READY,
        in_flight: Arc::default(),
        most,
        stop: &stop,
        events,
    };
    let started = sender.started;
    let Plan {
        times,
        objectives,
        lead,
        least,
        longest,
        enough,
    } = plan;
    thread::scope(|scope| {
        scope.spawn(|| sender.send(times));
        let mut course = Course::new(objectives, lead, most);
        let mut next_look = least;
        let mut shown = Duration::ZERO;
        let (mut ended, mut interrupted_at) = (None, None);
        let mut failed = None;
        loop {
            match received.recv_timeout(TICK) {
                Ok(Event::Due(due)) => course.due(due),
                Ok(Event::Ended(number, end)) => course.ended(number, end),
                Ok(Event::Failed(error)) => failed = Some(error),
                Err(mpsc::RecvTimeoutError::Timeout) => (),
                // All senders are gone: every request has ended.
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            let now = started.elapsed();
            let counting = now.saturating_sub(lead);
            if ended.is_none() && interrupt::requested() {
                ended = Some("interrupted");
                interrupted_at = Some(now);
            } else if ended.is_none() && enough != Enough::Never && counting >= next_look {
                next_look = counting.mul_f64(NEXT_LOOK).min(longest.max(least));
                ended = enough.ends(&course.look(now));
                if ended.is_none() && counting >= longest {
                    ended = Some("longest");
                }
            }
            if ended.is_some() || failed.is_some() {
                stop.store(true, Ordering::Relaxed);
            }
            if now >= shown + TICK {
                shown = now;
                progress(now.as_secs_f64());
            }
        }
        if let Some(at) = interrupted_at {
            course.interrupted(at);
        }
        match failed {
            Some(error) => Err(error),
            None => Ok((course, ended.unwrap_or("replayed"))),
        }
    })
}

impl Enough {
    fn ends(self, look: &Look) -> Option<&'static str> {
        let broken = |standing: &Standing| *standing == Standing::Broken;
        let decided = match self {
            Self::Decided(objective) => look.standings[objective] != Standing::Open,
            Self::Known => !look.standings.is_empty() && look.standings.iter().all(broken),
            Self::Never => return None,
        };
        match (decided, look.known) {
            (_, true) => Some("known"),
            (true, false) => Some("decided"),
            (false, false) => None,
        }
    }
}

impl Sender<'_> {
    /// Hands over each request when it is due, each on its own.
    fn send(self, times: impl Iterator<Item = Duration>) {
        for (number, due) in times.enumerate() {
            // Made before it is due.
            let request = match self.requests.build(number) {
                Ok(request) => request,
                Err(error) => {
                    let _ = self.events.send(Event::Failed(error));
                    return;
                }
            };
            if !self.wait(due) {
                return;
            }
            // The receiver lives as long as any sender.
            let _ = self.events.send(Event::Due(due));
            if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.most {
                self.in_flight.fetch_sub(1, Ordering::Relaxed);
                let end = End {
                    sent: due,
                    at: due,
                    outcome: Err(Failure::Unsent),
                };
                let _ = self.events.send(Event::Ended(number, end));
                continue;
            }
            let Place { handle, link } = self.threads.place(number).clone();
            let (requests, events) = (self.requests.clone(), self.events.clone());
            let (started, in_flight) = (self.started, self.in_flight.clone());
            handle.spawn(async move {
                // Its first poll: what the thread was behind by counts as the client's.
                let sent = started.elapsed().max(due);
                let outcome = requests.send(&link, request).await;
                let at = started.elapsed();
                in_flight.fetch_sub(1, Ordering::Relaxed);
                let _ = events.send(Event::Ended(number, End { sent, at, outcome }));
            });
        }
    }

    /// Waits until a time since the beginning; false where the point has ended.
    fn wait(&self, due: Duration) -> bool {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = (self.started + due).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(TICK));
        }
    }
}

/// Requests that can be in flight, each of which is a connection.
pub(super) fn most_in_flight() -> usize {
    let files = files().unwrap_or(1024);
    files.saturating_sub(OTHER_FILES).clamp(1, MOST_CONNECTIONS) as usize
}

/// Files that this process may open, as many as the system allows.
#[cfg(unix)]
fn files() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let wanted = hard.min(MOST_CONNECTIONS + OTHER_FILES).max(soft);
    let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok();
    Some(if raised { wanted } else { soft })
}

#[cfg(not(unix))]
fn files() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(standings: &[Standing], known: bool) -> Look {
        Look {
            standings: standings.to_vec(),
            known,
        }
    }

    #[test]
    fn a_search_ends_a_point_when_its_objective_is_decided() {
        let open = look(&[Standing::Broken, Standing::Open], false);
        assert_eq!(Enough::Decided(0).ends(&open), Some("decided"));
        assert_eq!(Enough::Decided(1).ends(&open), None);
        let known = look(&[Standing::Open], true);
        assert_eq!(Enough::Decided(0).ends(&known), Some("known"));
    }

    #[test]
    fn a_drawn_point_goes_on_until_its_percentiles_are_known_or_beyond_hope() {
        use Standing::{Broken, Kept, Open};
        for (standings, known, expected) in [
            (&[Kept, Kept][..], false, None),
            (&[Broken, Open], false, None),
            (&[Broken, Broken], false, Some("decided")),
            (&[Kept, Open], true, Some("known")),
            (&[], false, None),
            (&[], true, Some("known")),
        ] {
            assert_eq!(
                Enough::Known.ends(&look(standings, known)),
                expected,
                "{standings:?}"
            );
            assert_eq!(Enough::Never.ends(&look(standings, known)), None);
        }
    }
}
