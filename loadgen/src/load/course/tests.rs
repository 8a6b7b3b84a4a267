use proptest::prelude::*;

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn objective(text: &str) -> Objective {
    text.parse().unwrap()
}

fn about(rate: f64) -> About<'static> {
    About {
        purpose: "search",
        repeat: 0,
        arrivals: "uniform",
        seed: Some(1),
        batch: 1,
        rate,
    }
}

/// A request every millisecond from `lead` on, of which each has an end as told by its number.
fn course(
    slo: &[&str],
    count: u64,
    end: impl Fn(u64) -> Option<(u64, u64, Result<(), Failure>)>,
) -> Course {
    let objectives: Vec<Objective> = slo.iter().map(|text| objective(text)).collect();
    let mut course = Course::new(&objectives, MS(0), 1000);
    for number in 0..count {
        course.due(MS(number));
        if let Some((sent, took, outcome)) = end(number) {
            let end = End {
                sent: MS(number + sent),
                at: MS(number + took),
                outcome,
            };
            course.ended(number as usize, end);
        }
    }
    course
}

#[test]
fn latency_counts_from_when_a_request_was_due() {
    // Sent 30 ms late, answered 10 ms later.
    let course = course(&["p99=35ms"], 1000, |_| Some((30, 40, Ok(()))));
    let point = course.record(about(1000.0), "decided");
    assert_eq!(point.latency_ms.unwrap().p50, 40.0);
    assert_eq!(
        (point.objectives[0].within, point.objectives[0].kept),
        (0, false)
    );
    // That is the client's doing, and it says so.
    assert!(point.client_bound);
    assert_eq!(point.late_ms.unwrap().p99, 30.0);
}

#[test]
fn a_server_that_falls_behind_is_not_the_clients_fault() {
    // Sent 8 ms late, which is much of 50 ms and little of a second.
    let point = |took| {
        course(&["p99=50ms"], 1000, |_| Some((8, took, Ok(())))).record(about(1000.0), "decided")
    };
    assert!(point(40).client_bound);
    assert!(!point(1000).client_bound && !point(1000).objectives[0].kept);
    // Whatever a client is behind by, it sees itself.
    let course = course(&["p99=50ms"], 1000, |number| {
        Some((number, number + 5, Ok(())))
    });
    assert!(course.record(about(1000.0), "decided").client_bound);
}

#[test]
fn what_fails_counts_as_late_and_by_its_cause() {
    let course = course(&["p90=50ms", "p99=50ms"], 1000, |number| {
        Some(match number % 20 {
            0 => (0, 1, Err(Failure::Status(429))),
            _ => (0, 10, Ok(())),
        })
    });
    let point = course.record(about(1000.0), "known");
    assert_eq!(point.errors, [("status 429".to_owned(), 50)].into());
    let kept: Vec<bool> = point.objectives.iter().map(|judged| judged.kept).collect();
    assert_eq!(kept, [true, false]);
    assert_eq!(point.objectives[0].within, 950);
    assert!(
        (point.objectives[0].goodput_per_s - 950.0).abs() < 1.0,
        "{point:?}"
    );
    let ms: Vec<Option<f64>> = point
        .percentiles
        .iter()
        .map(|percentile| percentile.ms)
        .collect();
    assert_eq!(ms, [Some(10.0), Some(10.0), None]);
    assert!(!point.client_bound);
}

#[test]
fn what_is_still_under_way_is_over_once_its_limit_has_passed() {
    let course = course(&["p99=50ms"], 2000, |number| {
        (number < 1000).then_some((0, 1, Ok(())))
    });
    assert_eq!(course.look(MS(1000)).standings, [Standing::Kept]);
    assert_eq!(course.look(MS(1100)).standings, [Standing::Open]);
    assert_eq!(course.look(MS(2000)).standings, [Standing::Broken]);
    assert!(course.look(MS(1000)).known && !course.look(MS(2000)).known);
}

#[test]
fn an_interrupted_point_keeps_what_is_beyond_doubt() {
    let mut course = course(&["p99=50ms"], 1000, |number| {
        (number < 990).then_some((0, 1, Ok(())))
    });
    course.interrupted(MS(1000));
    let point = course.record(about(1000.0), "interrupted");
    assert_eq!((point.requests, point.requests_ok), (951, 951));
}

#[test]
fn the_lead_does_not_count() {
    let mut course = Course::new(&[objective("p50=1s")], MS(500), 8);
    for number in 0..500 {
        course.due(MS(number));
    }
    assert!(course.is_empty());
    course.due(MS(1500));
    assert!(!course.is_empty());
    let point = course.record(about(1.0), "interrupted");
    assert_eq!((point.requests, point.seconds), (1, 1.0));
}

#[test]
fn requests_that_could_not_be_sent_are_the_clients_where_the_server_may_have_more_in_flight() {
    let end = |number| {
        Some(if number % 2 == 0 {
            (0, 5, Ok(()))
        } else {
            (0, 0, Err(Failure::Unsent))
        })
    };
    let point = |rate| course(&["p99=50ms"], 1000, end).record(about(rate), "decided");
    // 1000 in flight are 50 ms of 20000 a second.
    assert!(point(30_000.0).client_bound);
    let overloaded = point(10_000.0);
    assert!(!overloaded.client_bound && !overloaded.objectives[0].kept);
    assert_eq!(overloaded.errors["not sent"], 500);
}

proptest! {
    #[test]
    fn every_request_is_within_a_limit_or_not(
        took in prop::collection::vec(prop::option::of(0..100u64), 1..200),
        limit in 1..100u64,
    ) {
        let slo = format!("p99={limit}ms");
        let course = course(&[&slo], took.len() as u64, |number| {
            Some(took[number as usize].map_or((0, 1, Err(Failure::Timeout)), |took| (0, took, Ok(()))))
        });
        let point = course.record(about(1000.0), "known");
        let within = took.iter().flatten().filter(|&&took| took <= limit).count();
        prop_assert_eq!(point.objectives[0].within, within);
        prop_assert_eq!(point.requests_ok as u64 + point.errors.values().sum::<u64>(), point.requests as u64);
        prop_assert_eq!(point.samples_ms.0.len(), point.requests_ok);
    }
}
