//! Admission, queues and a device together under overload, with a clock that the tests turn.

use std::time::{Duration, Instant};

use super::*;

const MS: Duration = Duration::from_millis(1);
const OBJECTIVE: Duration = Duration::from_millis(100);
/// The largest batch of 5 ms, and 1 ms for each item, that the objective allows.
const MAX_BATCH_SIZE: usize = 32;

/// What became of a recipe's requests, all of one item.
#[derive(Default)]
struct Fate {
    admitted: usize,
    refused: usize,
    /// Seconds from admission to answer.
    latencies: Vec<f64>,
    pace: Pace,
    waiting: usize,
    running: usize,
}

impl Fate {
    fn p99(&self) -> f64 {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable_by(f64::total_cmp);
        latencies[latencies.len() * 99 / 100]
    }
}

/// The time until the next of some random arrivals of that rate, from numbers that are the same each time (xorshift,
/// Marsaglia 2003).
fn gap(state: &mut u64, rate: f64) -> Duration {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let number = (*state >> 11) as f64 / (1u64 << 53) as f64;
    Duration::from_secs_f64(-(1.0 - number).ln() / rate)
}

fn limits() -> Limits {
    Limits {
        max_batch_size: MAX_BATCH_SIZE,
        max_batch_cost: u64::MAX,
        curve: Curve::line(0.005, 0.001),
        in_flight: 1,
        longest: longest_batch(OBJECTIVE, 1),
    }
}

/// Items a second in full batches.
fn capacity() -> f64 {
    MAX_BATCH_SIZE as f64
        / limits()
            .finish(MAX_BATCH_SIZE, MAX_BATCH_SIZE as u64)
            .as_secs_f64()
}

/// Recipes that are asked at these rates for a while.
fn run(rates: &[f64], time: Duration) -> Vec<Fate> {
    let start = Instant::now();
    let mut state = 88_172_645_463_325_252;
    let mut policy: Policy<Instant> = Policy::new(rates.len(), Duration::ZERO);
    let mut fates: Vec<Fate> = rates.iter().map(|_| Fate::default()).collect();
    for fate in &mut fates {
        fate.pace.expect(1.0 / capacity());
    }
    let mut next: Vec<Instant> = rates
        .iter()
        .map(|&rate| start + gap(&mut state, rate))
        .collect();
    let mut busy: Option<(Instant, Run<Instant>)> = None;
    let mut requests = 0;
    loop {
        let recipe = (0..rates.len()).min_by_key(|&recipe| next[recipe]).unwrap();
        let end = busy.as_ref().map(|(end, _)| *end);
        let now = end.map_or(next[recipe], |end| end.min(next[recipe]));
        if now > start + time {
            return fates;
        }
        if let Some((_, run)) = busy.take_if(|(end, _)| *end <= now) {
            let fate = &mut fates[run.queue.0];
            fate.running -= run.batch.len();
            let arrivals = run.batch.iter().map(|queued| queued.item);
            fate.latencies
                .extend(arrivals.map(|arrival| (now - arrival).as_secs_f64()));
            let saturated = run.left > 0 && fate.waiting > 0;
            fate.pace.answered(run.batch.len(), now, saturated);
            policy.ran(run.queue, run.predicted, run.predicted);
        } else {
            next[recipe] += gap(&mut state, rates[recipe]);
            let fate = &mut fates[recipe];
            let items = fate.waiting + fate.running;
            let ahead = Ahead {
                items,
                requests: items,
            };
            match fate.pace.admit(1, ahead, OBJECTIVE, now) {
                Err(retry_after) => {
                    assert!(retry_after > Duration::ZERO);
                    fate.refused += 1;
                }
                Ok(()) => {
                    fate.admitted += 1;
                    fate.waiting += 1;
                    requests += 1;
                    let wanted = Wanted {
                        request: RequestId(requests),
                        due: now + OBJECTIVE,
                        deadline: now + Duration::from_secs(60),
                    };
                    let queued = Queued {
                        cost: 1,
                        since: now,
                        item: now,
                    };
                    policy.push(QueueId(recipe), wanted, vec![queued]);
                }
            }
        }
        if busy.is_none()
            && let Step::Run(run) = policy.poll(Seat::Own, now, |_| Some(limits()))
        {
            let fate = &mut fates[run.queue.0];
            fate.waiting -= run.batch.len();
            fate.running += run.batch.len();
            busy = Some((now + run.predicted, run));
        }
    }
}

#[test]
fn the_largest_batch_leaves_time_for_the_one_before_it() {
    let longest = longest_batch(OBJECTIVE, 1);
    assert!(limits().finish(MAX_BATCH_SIZE, MAX_BATCH_SIZE as u64) <= longest);
    assert_eq!((longest, longest_batch(90 * MS, 2)), (40 * MS, 24 * MS));
}

#[test]
fn under_overload_the_admitted_are_answered_in_time_and_the_device_is_busy() {
    for times in [1.5, 3.0, 10.0] {
        let seconds = 30.0;
        let fates = run(&[times * capacity()], Duration::from_secs_f64(seconds));
        let fate = &fates[0];
        let in_time = fate
            .latencies
            .iter()
            .filter(|&&latency| latency <= OBJECTIVE.as_secs_f64());
        let goodput = in_time.count() as f64 / seconds;
        assert!(
            goodput >= 0.95 * capacity(),
            "{times}: {goodput} of {}",
            capacity()
        );
        assert!(
            fate.p99() <= 1.2 * OBJECTIVE.as_secs_f64(),
            "{times}: {}",
            fate.p99()
        );
        assert!(fate.refused > 0);
    }
}

#[test]
fn a_flooded_recipe_costs_another_ones_requests_a_batch_at_most() {
    let rate = 0.3 * capacity();
    let time = Duration::from_secs(30);
    let alone = run(&[rate], time);
    let beside = run(&[rate, 10.0 * capacity()], time);
    let batch = limits().finish(MAX_BATCH_SIZE, MAX_BATCH_SIZE as u64);
    let (p99, lone) = (beside[0].p99(), alone[0].p99());
    assert!(p99 <= lone + batch.as_secs_f64(), "{p99}, alone {lone}");
    assert!(
        beside[0].refused * 100 <= beside[0].admitted,
        "{} refused",
        beside[0].refused
    );
    assert!(
        beside[1].p99() <= 1.4 * OBJECTIVE.as_secs_f64(),
        "{}",
        beside[1].p99()
    );
    // Batches of half the length, and the first recipe's small ones, cost some.
    let all = beside
        .iter()
        .map(|fate| fate.latencies.len())
        .sum::<usize>() as f64;
    assert!(all >= 0.7 * capacity() * time.as_secs_f64(), "{all}");
}

#[test]
fn two_flooded_recipes_share_the_device_and_keep_their_objective() {
    let fates = run(
        &[5.0 * capacity(), 5.0 * capacity()],
        Duration::from_secs(30),
    );
    for fate in &fates {
        assert!(
            fate.p99() <= 1.2 * OBJECTIVE.as_secs_f64(),
            "{}",
            fate.p99()
        );
        assert!(
            fate.latencies.len() as f64 >= 0.4 * 30.0 * capacity(),
            "{}",
            fate.latencies.len()
        );
    }
}
