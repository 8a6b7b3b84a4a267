//! Recipes that share a device, with a clock that the tests turn.

use proptest::prelude::*;

use super::{super::Curve, *};

const MS: Duration = Duration::from_millis(1);

/// A device that takes what it is predicted to.
struct Rig {
    policy: Policy<u64>,
    limits: Vec<Limits>,
    now: Instant,
    requests: u64,
}

impl Rig {
    /// Recipes by the milliseconds that an item takes and the most items of a batch.
    fn new(recipes: &[(u32, usize)], delay: Duration) -> Self {
        let limits = |&(ms, max_batch_size): &(u32, usize)| Limits {
            max_batch_size,
            max_batch_cost: u64::MAX,
            curve: Curve::line(0.0, f64::from(ms) / 1000.0),
            in_flight: 1,
            longest: Duration::MAX,
        };
        Self {
            policy: Policy::new(recipes.len(), delay),
            limits: recipes.iter().map(limits).collect(),
            now: Instant::now(),
            requests: 0,
        }
    }

    fn push(&mut self, recipe: usize, items: usize, within: Duration) -> u64 {
        self.requests += 1;
        let queued = Queued {
            cost: 1,
            since: self.now,
            item: self.requests,
        };
        let wanted = Wanted {
            request: RequestId(self.requests),
            due: self.now + within,
            deadline: self.now + within,
        };
        self.policy
            .push(QueueId(recipe), wanted, vec![queued; items]);
        self.requests
    }

    fn step(&mut self) -> Step<u64> {
        let limits = self.limits.clone();
        self.policy
            .poll(Seat::Own, self.now, |id| Some(limits[id.0].clone()))
    }

    /// Runs a batch and lets its time pass.
    fn run(&mut self) -> Option<(usize, Vec<u64>)> {
        match self.step() {
            Step::Run(run) => {
                self.now += run.predicted;
                self.policy.ran(run.queue, run.predicted, run.predicted);
                let items = run.batch.into_iter().map(|queued| queued.item);
                Some((run.queue.0, items.collect()))
            }
            _ => None,
        }
    }
}

const LONG: Duration = Duration::from_secs(3600);
/// 10 ms an item.
const SPEED: Speed = Speed {
    fixed: 0.0,
    per_cost: 0.01,
};

#[test]
fn a_lone_item_starts_at_once_unless_a_delay_is_asked_for() {
    let mut eager = Rig::new(&[(1, 8)], Duration::ZERO);
    eager.push(0, 1, LONG);
    assert_eq!(eager.run(), Some((0, vec![1])));
    assert!(matches!(eager.step(), Step::Idle));

    let mut patient = Rig::new(&[(1, 2), (1, 2)], 5 * MS);
    let start = patient.now;
    patient.push(0, 1, LONG);
    assert!(matches!(patient.step(), Step::WaitUntil(until) if until == start + 5 * MS));
    patient.push(1, 2, LONG);
    assert_eq!(
        patient.run(),
        Some((1, vec![2, 2])),
        "a full batch does not wait"
    );
    patient.now = start + 5 * MS;
    assert_eq!(patient.run(), Some((0, vec![1])));
}

#[test]
fn a_recipe_that_may_not_be_taken_keeps_nobody_waiting() {
    let mut rig = Rig::new(&[(1, 8), (1, 8)], Duration::ZERO);
    rig.push(0, 1, LONG);
    rig.push(1, 1, LONG);
    let limits = rig.limits[1].clone();
    let step = rig
        .policy
        .poll(Seat::Own, rig.now, |id| (id.0 == 1).then(|| limits.clone()));
    assert!(matches!(step, Step::Run(run) if run.queue == QueueId(1)));
    let step = rig.policy.poll(Seat::Own, rig.now, |_| None);
    assert!(matches!(step, Step::Idle));
}

#[test]
fn a_light_recipe_waits_for_one_batch_of_a_flooded_one() {
    let mut rig = Rig::new(&[(100, 8), (1, 8)], Duration::ZERO);
    rig.push(0, 800, LONG);
    for _ in 0..5 {
        assert_eq!(rig.run().unwrap().0, 0);
        let lone = rig.push(1, 1, LONG);
        assert_eq!(rig.run(), Some((1, vec![lone])));
    }
}

#[test]
fn what_is_short_goes_beside_what_is_long_until_it_has_been_given_as_much() {
    let mut rig = Rig::new(&[(100, 1), (1, 8), (20, 1)], Duration::ZERO);
    rig.push(0, 10, LONG);
    assert!(matches!(rig.step(), Step::Run(run) if run.queue == QueueId(0)));
    rig.push(1, 1000, LONG);
    rig.push(2, 1, LONG);
    let limits = rig.limits.clone();
    let mut beside = || {
        let short = |id: QueueId| Limits {
            longest: 12 * MS,
            ..limits[id.0].clone()
        };
        let limits = |id: QueueId| (id.0 > 0).then(|| short(id));
        rig.policy.poll(Seat::Beside, rig.now, limits)
    };
    let mut given = Duration::ZERO;
    while let Step::Run(run) = beside() {
        assert_eq!(run.queue, QueueId(1));
        // Three wait, and share the longest time.
        assert!(run.predicted <= 4 * MS, "{:?}", run.predicted);
        given += run.predicted;
    }
    assert!((100 * MS..=104 * MS).contains(&given), "{given:?}");
}

#[test]
fn backlogged_recipes_get_the_same_time() {
    let mut rig = Rig::new(&[(10, 4), (1, 16), (3, 1)], Duration::ZERO);
    let start = rig.now;
    for recipe in 0..3 {
        rig.push(recipe, 10_000, LONG);
    }
    let mut time = [Duration::ZERO; 3];
    while rig.now < start + Duration::from_secs(3) {
        let before = rig.now;
        let (recipe, _) = rig.run().unwrap();
        time[recipe] += rig.now - before;
    }
    for spent in time {
        let seconds = spent.as_secs_f64();
        assert!((0.95..1.05).contains(&seconds), "{time:?}");
    }
}

#[test]
fn a_recipe_that_was_idle_has_saved_nothing_up() {
    let mut rig = Rig::new(&[(10, 1), (10, 1)], Duration::ZERO);
    rig.push(0, 2000, LONG);
    for _ in 0..1000 {
        rig.run().unwrap();
    }
    rig.push(1, 1000, LONG);
    let turns: Vec<usize> = (0..20).map(|_| rig.run().unwrap().0).collect();
    assert_eq!(turns.iter().filter(|&&recipe| recipe == 0).count(), 10);
}

#[test]
fn what_a_batch_really_took_is_what_counts() {
    let mut rig = Rig::new(&[(10, 1), (10, 1)], Duration::ZERO);
    rig.push(0, 100, LONG);
    rig.push(1, 100, LONG);
    let mut runs = [0, 0];
    for _ in 0..80 {
        let Step::Run(run) = rig.step() else {
            panic!("work is there")
        };
        // The first recipe takes three times what was predicted.
        let factor = if run.queue.0 == 0 { 3 } else { 1 };
        rig.policy
            .ran(run.queue, run.predicted, run.predicted * factor);
        runs[run.queue.0] += 1;
    }
    assert_eq!(runs, [20, 60]);
}

#[test]
fn hopeless_requests_leave_before_the_device_wastes_time_on_them() {
    let mut rig = Rig::new(&[(10, 4)], Duration::ZERO);
    rig.policy.set_speed(QueueId(0), SPEED);
    let late = rig.push(0, 1, 5 * MS);
    let bulk = rig.push(0, 100, 900 * MS);
    rig.push(0, 1, 20 * MS);
    let lost = rig.policy.take_hopeless(rig.now);
    assert_eq!(lost.len(), 101);
    assert!(
        lost.iter()
            .all(|(_, queued)| [late, bulk].contains(&queued.item))
    );
    assert_eq!(rig.run(), Some((0, vec![3])));
}

#[test]
fn a_prediction_that_lets_nothing_be_tried_is_doubted() {
    let mut rig = Rig::new(&[(10, 4)], Duration::ZERO);
    rig.policy.set_speed(QueueId(0), SPEED.times(20.0));
    let tries = (0..10)
        .take_while(|_| {
            rig.push(0, 1, 50 * MS);
            !rig.policy.take_hopeless(rig.now).is_empty()
        })
        .count();
    assert_eq!(tries, 2, "200 ms, 100 ms, 50 ms");
    assert!(rig.run().is_some());
}

proptest! {
    /// Whatever others have to do, an item of a recipe that had nothing waits for at most one batch of each of them.
    #[test]
    fn a_lone_request_waits_for_a_batch_of_each_recipe_at_most(
        recipes in proptest::collection::vec((1u32..50, 1usize..40), 2..6),
        backlog in 50usize..500,
        before in 0usize..60,
    ) {
        let mut rig = Rig::new(&recipes, Duration::ZERO);
        for recipe in 1..recipes.len() {
            rig.push(recipe, backlog, LONG);
        }
        for _ in 0..before {
            rig.run();
        }
        let lone = rig.push(0, 1, LONG);
        let mut seen = vec![0; recipes.len()];
        loop {
            let (recipe, items) = rig.run().unwrap();
            if items == [lone] {
                break;
            }
            seen[recipe] += 1;
            prop_assert!(seen[recipe] <= 1, "{seen:?}");
        }
    }

    /// While two recipes both have work, the times that they are given differ by a batch of each at most.
    #[test]
    fn time_is_shared_to_within_a_batch(
        recipes in proptest::collection::vec((1u32..50, 1usize..40), 2..5),
        runs in 1usize..200,
    ) {
        let mut rig = Rig::new(&recipes, Duration::ZERO);
        for recipe in 0..recipes.len() {
            rig.push(recipe, 10_000, LONG);
        }
        let mut given = vec![0u64; recipes.len()];
        for _ in 0..runs {
            let (recipe, items) = rig.run().unwrap();
            given[recipe] += items.len() as u64 * u64::from(recipes[recipe].0);
        }
        let largest = recipes.iter().map(|&(ms, size)| u64::from(ms) * size as u64).max().unwrap();
        let (least, most) = (given.iter().min().unwrap(), given.iter().max().unwrap());
        prop_assert!(most - least <= largest, "{given:?}, a batch {largest}");
    }
}
