//! Turns and batches, by example and by property.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

fn limits(max_batch_size: usize, max_batch_cost: u64) -> Limits {
    Limits {
        max_batch_size,
        max_batch_cost,
        curve: Curve::default(),
        in_flight: 1,
        longest: Duration::MAX,
    }
}

/// Until then, and not late before.
fn wanted(request: u64, deadline: Instant) -> Wanted {
    Wanted {
        request: RequestId(request),
        due: deadline,
        deadline,
    }
}

struct Rig {
    queue: Queue<&'static str>,
    start: Instant,
}

impl Rig {
    fn new() -> Self {
        Self {
            queue: Queue::default(),
            start: Instant::now(),
        }
    }

    /// Items of one request, by name and cost, to be answered within so many milliseconds.
    fn push(&mut self, request: u64, within_ms: u64, items: &[(&'static str, u32)]) {
        let since = self.start;
        let queued = items
            .iter()
            .map(|&(item, cost)| Queued { cost, since, item });
        let deadline = since + Duration::from_millis(within_ms);
        self.queue.push(wanted(request, deadline), queued);
    }

    fn batch(&mut self, size: usize, cost: u64) -> Vec<&'static str> {
        names(self.queue.take_batch(&limits(size, cost), self.start))
    }
}

/// What waits, in the order of turns.
fn in_line<T: Copy>(queue: &Queue<T>) -> Vec<(Turn, RequestId, T)> {
    let items = queue.requests.iter().flat_map(|(id, request)| {
        let items = request.items.iter();
        items.map(|(turn, queued)| (*turn, *id, queued.item))
    });
    let mut items: Vec<_> = items.collect();
    items.sort_by_key(|(turn, ..)| *turn);
    items
}

fn names(batch: Vec<Queued<&'static str>>) -> Vec<&'static str> {
    batch.into_iter().map(|queued| queued.item).collect()
}

#[test]
fn companions_are_the_nearest_in_cost_and_keep_their_order() {
    let mut rig = Rig::new();
    let items = [
        ("short", 10),
        ("long", 90),
        ("short2", 11),
        ("long2", 91),
        ("short3", 9),
    ];
    rig.push(1, 1000, &items);
    assert_eq!(rig.batch(3, 1000), ["short", "short2", "short3"]);
    assert_eq!(rig.batch(3, 1000), ["long", "long2"]);
    assert!(rig.batch(3, 1000).is_empty());
}

#[test]
fn an_item_above_the_budget_runs_alone() {
    let mut rig = Rig::new();
    rig.push(1, 1000, &[("huge", 500)]);
    rig.push(2, 1000, &[("small", 1)]);
    assert_eq!(rig.batch(8, 50), ["small"]);
    assert_eq!(rig.batch(8, 50), ["huge"]);
    rig.push(1, 1000, &[("huge", 500), ("small", 1)]);
    assert_eq!(rig.batch(8, 50), ["huge"]);
}

#[test]
fn a_small_request_goes_before_the_rest_of_a_bulk_one() {
    let mut rig = Rig::new();
    rig.push(1, 1000, &[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]);
    assert_eq!(rig.batch(2, 100), ["a", "b"]);
    rig.push(2, 1000, &[("lone", 1)]);
    rig.push(3, 1000, &[("two", 1), ("three", 1)]);
    assert_eq!(rig.batch(2, 100), ["lone", "two"]);
    assert_eq!(rig.batch(8, 100), ["c", "three", "d", "e"]);
}

#[test]
fn turns_are_by_cost_and_not_by_number() {
    let mut rig = Rig::new();
    rig.push(1, 1000, &[("long", 100), ("longer", 100)]);
    let short: Vec<_> = ["a", "b", "c", "d"].map(|name| (name, 40)).to_vec();
    rig.push(2, 1000, &short);
    let order: Vec<_> = (0..6).flat_map(|_| rig.batch(1, 1000)).collect();
    assert_eq!(order, ["a", "b", "long", "c", "d", "longer"]);
}

#[test]
fn what_cannot_be_answered_in_time_leaves_and_the_others_keep_their_turns() {
    let mut rig = Rig::new();
    rig.push(1, 100, &[("a", 10), ("b", 10)]);
    rig.push(2, 5, &[("late", 10)]);
    rig.push(3, 100, &[("bulk", 60), ("bulk2", 60)]);
    let speed = Speed {
        fixed: 0.0,
        per_cost: 0.001,
    };
    let (gone, predicted) = rig.queue.take_hopeless(rig.start, speed);
    assert_eq!(names(gone), ["late", "bulk", "bulk2"]);
    assert!(predicted, "no deadline has passed");
    assert_eq!(rig.queue.take_hopeless(rig.start, speed).0.len(), 0);
    let later = rig.start + Duration::from_millis(100);
    let (gone, predicted) = rig.queue.take_hopeless(later, Speed::default());
    assert_eq!(names(gone), ["a", "b"]);
    assert!(!predicted);
    assert!(rig.queue.is_empty() && rig.queue.deadlines.is_empty());
}

/// 10 ms, and 1 ms an item, with room for 100 of them.
#[test]
fn a_batch_is_closed_so_that_the_first_is_not_late_unless_it_is_already() {
    let batch = |within_ms: u64, in_flight: u32, longest_ms: u64| {
        let start = Instant::now();
        let due = start + Duration::from_millis(within_ms);
        let mut queue = Queue::default();
        for request in 0..200 {
            let times = Wanted {
                due,
                ..wanted(request, start + Duration::from_secs(60))
            };
            queue.push(
                times,
                [Queued {
                    cost: 1,
                    since: start,
                    item: request,
                }],
            );
        }
        let limits = Limits {
            curve: Curve::line(0.01, 0.001),
            in_flight,
            longest: Duration::from_millis(longest_ms),
            ..limits(100, u64::MAX)
        };
        queue.take_batch(&limits, start).len()
    };
    assert_eq!(
        [200, 111, 51, 12].map(|within| batch(within, 1, 1000)),
        [100, 100, 41, 2]
    );
    assert_eq!([51, 25].map(|within| batch(within, 2, 1000)), [15, 2]);
    assert_eq!(batch(10, 1, 1000), 100, "late in any case");
    assert_eq!(batch(200, 1, 30), 20, "others wait meanwhile");
}

#[derive(Clone, Debug)]
enum Action {
    Push { request: u64, cost: u32 },
    Batch,
    Cancel(u64),
    Hopeless(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (0u64..6, 1u32..200).prop_map(|(request, cost)| Action::Push { request, cost }),
        3 => Just(Action::Batch),
        1 => (0u64..6).prop_map(Action::Cancel),
        1 => (0u64..20).prop_map(Action::Hopeless),
    ]
}

proptest! {
    /// Every item leaves exactly once; no batch breaks a bound, is empty or leaves the first behind; items of a request
    /// that cost the same keep their order; nothing is passed over more often than its place in line allows, newcomers
    /// with earlier turns counted.
    #[test]
    fn every_item_leaves_exactly_once_within_the_bounds(
        actions in proptest::collection::vec(action(), 1..200),
        max_batch_size in 1usize..9,
        max_batch_cost in 1u64..400,
    ) {
        let limits = limits(max_batch_size, max_batch_cost);
        let start = Instant::now();
        let mut queue = Queue::default();
        let mut pushed = 0usize;
        let mut left: Vec<usize> = Vec::new();
        let mut owner: HashMap<usize, (u64, u32)> = HashMap::new();
        let mut passed: BTreeMap<usize, usize> = BTreeMap::new();
        for action in actions {
            match action {
                Action::Push { request, cost } => {
                    let deadline = start + Duration::from_millis(request);
                    owner.insert(pushed, (request, cost));
                    let before = queue.len();
                    queue.push(wanted(request, deadline), [Queued { cost, since: start, item: pushed }]);
                    // Those that it goes before may wait one batch longer.
                    let line = in_line(&queue);
                    let place = line.iter().position(|(.., item)| *item == pushed).unwrap();
                    passed.insert(pushed, place);
                    for (.., item) in &line[place + 1..] {
                        *passed.get_mut(item).unwrap() += 1;
                    }
                    prop_assert_eq!(queue.len(), before + 1);
                    pushed += 1;
                }
                Action::Cancel(request) => {
                    let taken = queue.take_request(RequestId(request));
                    for queued in &taken {
                        prop_assert_eq!(owner[&queued.item].0, request);
                    }
                    left.extend(taken.into_iter().map(|queued| queued.item));
                }
                Action::Hopeless(ms) => {
                    let now = start + Duration::from_millis(ms);
                    let (taken, _) = queue.take_hopeless(now, Speed::default());
                    for queued in &taken {
                        prop_assert!(owner[&queued.item].0 <= ms);
                    }
                    left.extend(taken.into_iter().map(|queued| queued.item));
                }
                Action::Batch => {
                    let first = in_line(&queue).first().map(|(.., item)| *item);
                    let batch = queue.take_batch(&limits, start);
                    prop_assert_eq!(batch.is_empty(), first.is_none());
                    if let Some(first) = first {
                        prop_assert_eq!(batch[0].item, first);
                    }
                    prop_assert!(batch.len() <= max_batch_size);
                    let cost: u64 = batch.iter().map(|queued| u64::from(queued.cost)).sum();
                    prop_assert!(cost <= max_batch_cost || batch.len() == 1);
                    for (.., item) in in_line(&queue) {
                        let patience = passed.get_mut(&item).unwrap();
                        prop_assert!(batch.is_empty() || *patience > 0, "item {item} was starved");
                        *patience = patience.saturating_sub(1);
                        let like = |other: &Queued<usize>| other.item > item && owner[&other.item] == owner[&item];
                        prop_assert!(!batch.iter().any(like), "item {item} was overtaken by its like");
                    }
                    left.extend(batch.into_iter().map(|queued| queued.item));
                }
            }
            let line = in_line(&queue);
            let cost: u64 = line.iter().map(|(.., item)| u64::from(owner[item].1)).sum();
            prop_assert_eq!((queue.len(), queue.cost), (line.len(), cost));
            prop_assert_eq!(queue.requests.len(), queue.deadlines.len());
            prop_assert_eq!(queue.requests.len(), queue.heads.len());
            prop_assert!(queue.requests.values().all(|request| request.items.iter().is_sorted_by_key(|(turn, _)| *turn)));
            prop_assert_eq!(queue.heads.first_key_value().map(|(turn, _)| *turn), line.first().map(|(turn, ..)| *turn));
            prop_assert!(line.iter().all(|(turn, ..)| turn.time >= queue.present));
        }
        left.extend(in_line(&queue).into_iter().map(|(.., item)| item));
        left.sort_unstable();
        prop_assert_eq!(left, (0..pushed).collect::<Vec<_>>());
    }

    /// However large the others are, a request of one item goes within so many batches as the requests before it fill
    /// with one item each, and a bulk request beside a stream of small ones goes on too.
    #[test]
    fn a_lone_item_waits_for_a_few_batches_and_a_bulk_request_is_not_starved(
        bulks in 1u64..6,
        items in 20usize..200,
        max_batch_size in 1usize..33,
        after in 0usize..5,
    ) {
        let limits = limits(max_batch_size, u64::MAX);
        let start = Instant::now();
        let deadline = start + Duration::from_secs(1);
        let mut queue = Queue::default();
        let queued = |item: u64| Queued { cost: 10, since: start, item };
        for bulk in 0..bulks {
            queue.push(wanted(bulk, deadline), (0..items).map(|_| queued(bulk)));
        }
        for _ in 0..after {
            queue.take_batch(&limits, start);
        }
        queue.push(wanted(99, deadline), [queued(99)]);
        let mut waited = 0;
        while !queue.is_empty() && !queue.take_batch(&limits, start).iter().any(|queued| queued.item == 99) {
            waited += 1;
        }
        // Of each bulk request at most two items go before it: that of the present turn and that of its own.
        prop_assert!(waited <= 1 + (2 * bulks as usize).div_ceil(max_batch_size), "waited for {waited} batches");

        // Newcomers for half of the places: the bulk requests still get their turns.
        let mut batches = 0;
        while queue.requests.keys().any(|id| id.0 < bulks) {
            for place in 0..max_batch_size / 2 {
                let id = 1000 + (batches * max_batch_size + place) as u64;
                queue.push(wanted(id, deadline), [queued(id)]);
            }
            queue.take_batch(&limits, start);
            batches += 1;
            prop_assert!(batches <= 4 * (items * bulks as usize + 1), "starved after {batches} batches");
        }
    }
}
