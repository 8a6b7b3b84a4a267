//! When a batch is formed and out of which items: a pure state machine that does no I/O, spawns nothing and reads no
//! clock (`now` is an argument), so that it can be tested to the end.
//!
//! The batch is bound late: [`Queue::poll`] is called when a device can take a batch, and chooses among all that is
//! ready then. The oldest item always goes. Where not everything fits, its companions are those nearest to it in cost,
//! out of the items next in line; so the item at place `n` waits for at most `n` more batches.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How many batches' worth of items, from the oldest on, are looked through for companions of like cost.
const LOOKAHEAD_BATCHES: usize = 4;

/// The bounds of a batch, and how long one may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The most items of a batch; at least 1.
    pub max_batch_size: usize,
    /// The most that the items of a batch may cost together. One item that costs more runs alone.
    pub max_batch_cost: u64,
    /// How long the oldest item may wait for a batch to fill. Zero: an idle device starts at once.
    pub max_queue_delay: Duration,
}

/// An item that waits.
#[derive(Clone, Debug)]
pub struct Queued<T> {
    /// What it will cost the device.
    pub cost: u32,
    /// When it joined the queue.
    pub since: Instant,
    /// When its answer is no longer wanted.
    pub deadline: Option<Instant>,
    /// What it is.
    pub item: T,
}

impl<T> Queued<T> {
    fn expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// What a device should do now.
#[derive(Debug)]
pub enum Step<T> {
    /// Run these items, oldest first.
    Run(Vec<Queued<T>>),
    /// Wait until then, or until an item comes.
    WaitUntil(Instant),
    /// Nothing waits.
    Idle,
}

/// The items of one recipe that wait for a device.
#[derive(Debug)]
pub struct Queue<T> {
    policy: Policy,
    items: VecDeque<Queued<T>>,
    cost: u64,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            items: VecDeque::new(),
            cost: 0,
        }
    }

    /// The bounds in force.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Changes the bounds, when a measurement or an out-of-memory error has shown better ones.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Since when the oldest item has waited.
    pub fn oldest(&self) -> Option<Instant> {
        self.items.front().map(|queued| queued.since)
    }

    /// Adds an item at the end.
    pub fn push(&mut self, queued: Queued<T>) {
        self.cost += u64::from(queued.cost);
        self.items.push_back(queued);
    }

    /// Takes out the items whose deadline has passed.
    pub fn take_expired(&mut self, now: Instant) -> Vec<Queued<T>> {
        // Deadlines need not be in order; but without a single expired one nothing is moved.
        if !self.items.iter().any(|queued| queued.expired(now)) {
            return Vec::new();
        }
        self.take_where(|queued| queued.expired(now))
    }

    /// Takes out the items for which `unwanted` holds, keeping the order of the others.
    pub fn take_where(&mut self, unwanted: impl Fn(&Queued<T>) -> bool) -> Vec<Queued<T>> {
        let mut taken = Vec::new();
        for queued in std::mem::take(&mut self.items) {
            if unwanted(&queued) {
                self.cost -= u64::from(queued.cost);
                taken.push(queued);
            } else {
                self.items.push_back(queued);
            }
        }
        taken
    }

    /// Says what a device that is free at `now` should do. Expired items are not looked for here.
    pub fn poll(&mut self, now: Instant) -> Step<T> {
        let Some(oldest) = self.oldest() else {
            return Step::Idle;
        };
        let ripe = oldest + self.policy.max_queue_delay;
        if now < ripe && !self.is_full_batch() {
            return Step::WaitUntil(ripe);
        }
        Step::Run(self.take_batch())
    }

    fn is_full_batch(&self) -> bool {
        self.items.len() >= self.policy.max_batch_size || self.cost >= self.policy.max_batch_cost
    }

    fn take_batch(&mut self) -> Vec<Queued<T>> {
        if self.items.len() <= self.policy.max_batch_size && self.cost <= self.policy.max_batch_cost
        {
            self.cost = 0;
            return std::mem::take(&mut self.items).into();
        }
        let chosen = self.choose();
        let ahead = chosen.last().map_or(0, |last| last + 1);
        let mut rest = self.items.split_off(ahead);
        let mut batch = Vec::with_capacity(chosen.len());
        let mut passed_over = VecDeque::with_capacity(ahead - chosen.len());
        let mut next = chosen.iter().peekable();
        for (place, queued) in std::mem::take(&mut self.items).into_iter().enumerate() {
            if next.next_if_eq(&&place).is_some() {
                self.cost -= u64::from(queued.cost);
                batch.push(queued);
            } else {
                passed_over.push_back(queued);
            }
        }
        passed_over.append(&mut rest);
        self.items = passed_over;
        batch
    }

    /// The places of the next batch's items, in order: the oldest, and those nearest to it in cost.
    fn choose(&self) -> Vec<usize> {
        let window = self
            .items
            .len()
            .min(self.policy.max_batch_size.saturating_mul(LOOKAHEAD_BATCHES));
        let first = self.items[0].cost;
        let mut places: Vec<usize> = (0..window).collect();
        // Stable: among equals the older goes first.
        places.sort_by_key(|&place| {
            if place == 0 {
                0
            } else {
                1 + u64::from(self.items[place].cost.abs_diff(first))
            }
        });
        let mut cost = 0;
        let mut chosen: Vec<usize> = places
            .into_iter()
            .take(self.policy.max_batch_size.max(1))
            .take_while(|&place| {
                cost += u64::from(self.items[place].cost);
                place == 0 || cost <= self.policy.max_batch_cost
            })
            .collect();
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(max_batch_size: usize, max_batch_cost: u64, delay_ms: u64) -> Policy {
        Policy {
            max_batch_size,
            max_batch_cost,
            max_queue_delay: Duration::from_millis(delay_ms),
        }
    }

    fn queued<T>(item: T, cost: u32, since: Instant) -> Queued<T> {
        Queued {
            cost,
            since,
            deadline: None,
            item,
        }
    }

    fn run<T: std::fmt::Debug>(step: Step<T>) -> Vec<T> {
        match step {
            Step::Run(batch) => batch.into_iter().map(|queued| queued.item).collect(),
            other => panic!("expected a batch, got {other:?}"),
        }
    }

    #[test]
    fn a_lone_item_starts_at_once_unless_a_delay_is_asked_for() {
        let now = Instant::now();
        let mut eager = Queue::new(policy(8, 100, 0));
        eager.push(queued("a", 1, now));
        assert_eq!(run(eager.poll(now)), ["a"]);
        assert!(matches!(eager.poll(now), Step::Idle));

        let mut patient = Queue::new(policy(2, 100, 5));
        patient.push(queued("a", 1, now));
        let ripe = now + Duration::from_millis(5);
        assert!(matches!(patient.poll(now), Step::WaitUntil(until) if until == ripe));
        patient.push(queued("b", 1, now));
        assert_eq!(
            run(patient.poll(now)),
            ["a", "b"],
            "a full batch does not wait"
        );
        patient.push(queued("c", 1, now));
        assert_eq!(run(patient.poll(ripe)), ["c"]);
    }

    #[test]
    fn companions_are_the_nearest_in_cost_and_keep_their_order() {
        let now = Instant::now();
        let mut queue = Queue::new(policy(3, 1000, 0));
        for (item, cost) in [
            ("short", 10),
            ("long", 90),
            ("short2", 11),
            ("long2", 91),
            ("short3", 9),
        ] {
            queue.push(queued(item, cost, now));
        }
        assert_eq!(run(queue.poll(now)), ["short", "short2", "short3"]);
        assert_eq!(run(queue.poll(now)), ["long", "long2"]);
    }

    #[test]
    fn an_item_above_the_budget_runs_alone() {
        let now = Instant::now();
        let mut queue = Queue::new(policy(8, 50, 0));
        queue.push(queued("huge", 500, now));
        queue.push(queued("small", 1, now));
        assert_eq!(run(queue.poll(now)), ["huge"]);
        assert_eq!(run(queue.poll(now)), ["small"]);
    }

    #[test]
    fn expired_items_leave_and_the_others_keep_their_order() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut queue = Queue::new(policy(8, 50, 0));
        for (item, deadline) in [(0, Some(now)), (1, None), (2, Some(later)), (3, Some(now))] {
            queue.push(Queued {
                cost: 1,
                since: now,
                deadline,
                item,
            });
        }
        let gone: Vec<_> = queue
            .take_expired(now)
            .into_iter()
            .map(|queued| queued.item)
            .collect();
        assert_eq!(gone, [0, 3]);
        assert!(queue.take_expired(now).is_empty());
        assert_eq!(run(queue.poll(now)), [1, 2]);
    }

    #[derive(Clone, Debug)]
    enum Action {
        Push { cost: u32, expires_ms: Option<u64> },
        Poll,
        Expire,
        Cancel(usize),
        Advance(u64),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (1u32..200, proptest::option::of(0u64..20)).prop_map(|(cost, expires_ms)| Action::Push { cost, expires_ms }),
            2 => Just(Action::Poll),
            1 => Just(Action::Expire),
            1 => (0usize..64).prop_map(Action::Cancel),
            1 => (0u64..10).prop_map(Action::Advance),
        ]
    }

    proptest! {
        /// Every item leaves exactly once; no batch breaks a bound, is empty or leaves the oldest behind; batches and
        /// what stays are in arrival order; nothing is passed over more often than its place in line allows.
        #[test]
        fn every_item_leaves_exactly_once_within_the_bounds(
            actions in proptest::collection::vec(action(), 1..200),
            max_batch_size in 1usize..9,
            max_batch_cost in 1u64..400,
            delay_ms in 0u64..6,
        ) {
            let policy = policy(max_batch_size, max_batch_cost, delay_ms);
            let mut now = Instant::now();
            let mut queue = Queue::new(policy);
            let mut pushed = 0usize;
            let mut left = Vec::new();
            let mut patience: std::collections::BTreeMap<usize, usize> = Default::default();
            for action in actions {
                match action {
                    Action::Push { cost, expires_ms } => {
                        let deadline = expires_ms.map(|ms| now + Duration::from_millis(ms));
                        patience.insert(pushed, queue.len());
                        queue.push(Queued { cost, since: now, deadline, item: pushed });
                        pushed += 1;
                    }
                    Action::Advance(ms) => now += Duration::from_millis(ms),
                    Action::Expire => {
                        for queued in queue.take_expired(now) {
                            prop_assert!(queued.deadline.is_some_and(|deadline| deadline <= now));
                            left.push(queued.item);
                        }
                    }
                    Action::Cancel(item) => {
                        left.extend(queue.take_where(|queued| queued.item == item).into_iter().map(|queued| queued.item));
                    }
                    Action::Poll => {
                        let oldest = queue.items.front().map(|queued| queued.item);
                        match queue.poll(now) {
                            Step::Idle => prop_assert!(oldest.is_none()),
                            Step::WaitUntil(ripe) => {
                                prop_assert!(ripe > now && delay_ms > 0);
                                prop_assert!(queue.len() < max_batch_size);
                            }
                            Step::Run(batch) => {
                                prop_assert_eq!(Some(batch[0].item), oldest);
                                prop_assert!(batch.len() <= max_batch_size);
                                let cost: u64 = batch.iter().map(|queued| u64::from(queued.cost)).sum();
                                prop_assert!(cost <= max_batch_cost || batch.len() == 1);
                                prop_assert!(batch.is_sorted_by_key(|queued| queued.item));
                                left.extend(batch.into_iter().map(|queued| queued.item));
                                for queued in &queue.items {
                                    let patience = patience.get_mut(&queued.item).expect("pushed");
                                    prop_assert!(*patience > 0, "item {} was starved", queued.item);
                                    *patience -= 1;
                                }
                            }
                        }
                    }
                }
                prop_assert!(queue.items.iter().is_sorted_by_key(|queued| queued.item));
                prop_assert_eq!(queue.cost, queue.items.iter().map(|queued| u64::from(queued.cost)).sum::<u64>());
            }
            left.extend(queue.items.iter().map(|queued| queued.item));
            left.sort_unstable();
            prop_assert_eq!(left, (0..pushed).collect::<Vec<_>>());
        }
    }
}
