//! The items of one recipe that wait for a device, in the order of fair turns, and the batches formed of them.
//!
//! Between requests cost is shared by virtual time (self-clocked fair queueing, Golestani 1994): an item's turn is its
//! request's last turn, or the present if that has passed, plus its cost; the smallest turn goes first, and the present
//! is the turn of the item that went last. So a request of one item goes before the second half of a bulk request,
//! items of a request keep their order, and nobody starves: whoever comes later has a later turn than the present.
//!
//! A batch is bound late: it is formed when a device can take it, out of all that is ready then. The item whose turn it
//! is always goes; where not everything fits, its companions are those nearest to it in cost among the next in line. So
//! the item at place `n` waits for at most `n` batches of those that are there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{Curve, Speed};

/// How many batches' worth of items, from the first on, are looked through for companions of like cost.
const LOOKAHEAD_BATCHES: usize = 4;
/// What lies further ahead than this is never hopeless.
const HORIZON: Duration = Duration::from_secs(86_400);

/// The bounds of a batch, on the device that asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The most items of a batch; at least 1.
    pub max_batch_size: usize,
    /// The most that the items of a batch may cost together. One item that costs more runs alone.
    pub max_batch_cost: u64,
    /// What a batch takes there, as far as is known.
    pub curve: Curve,
    /// How many batches the device has in hand at once: one waits for the others.
    pub in_flight: u32,
    /// The most that a batch may take, for the sake of those that wait meanwhile.
    pub longest: Duration,
}

impl Limits {
    /// How long it is expected to take until a batch that is formed now is answered.
    pub(super) fn finish(&self, items: usize, cost: u64) -> Duration {
        self.curve.predict(items, cost) * self.in_flight
    }

    /// Whether so many items, of so many that wait and what they cost, take no longer than `time`.
    pub(super) fn is_in_time(
        &self,
        items: usize,
        time: Duration,
        waiting: usize,
        cost: u64,
    ) -> bool {
        let mean = cost as f64 / waiting.max(1) as f64;
        self.curve.predict(items, (mean * items as f64) as u64) <= time
    }

    /// The same with so few items, of so many that wait and what they cost, that a batch takes no longer than `time`. Where not
    /// even one would, nothing is gained by a small batch.
    fn within(mut self, time: Duration, waiting: usize, cost: u64) -> Self {
        let in_time = |items: usize| self.is_in_time(items, time, waiting, cost);
        let most = self.max_batch_size.min(waiting);
        if in_time(most) || !in_time(1) {
            return self;
        }
        let (mut fits, mut exceeds) = (1, most);
        while fits + 1 < exceeds {
            let middle = fits.midpoint(exceeds);
            match in_time(middle) {
                true => fits = middle,
                false => exceeds = middle,
            }
        }
        self.max_batch_size = fits;
        self
    }
}

/// Whose items wait; unique while they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Whose items are pushed, and when their answers are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The request.
    pub request: RequestId,
    /// By when: its objective.
    pub due: Instant,
    /// From then on they are of no use.
    pub deadline: Instant,
}

/// An item that waits.
#[derive(Clone, Debug)]
pub struct Queued<T> {
    /// What it will cost the device.
    pub cost: u32,
    /// When it joined the queue.
    pub since: Instant,
    /// What it is.
    pub item: T,
}

/// When an item goes: by its virtual time, among equals by its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    time: u64,
    arrival: u64,
}

/// A request of which items wait.
#[derive(Debug)]
struct Request<T> {
    due: Instant,
    deadline: Instant,
    /// Its items by their turns, which ascend.
    items: VecDeque<(Turn, Queued<T>)>,
    cost: u64,
}

/// An item while a batch is being chosen.
struct Candidate<T> {
    request: RequestId,
    turn: Turn,
    queued: Queued<T>,
}

/// The items of one recipe that wait for a device.
#[derive(Debug)]
pub struct Queue<T> {
    requests: HashMap<RequestId, Request<T>>,
    /// Each request by the turn of its first item.
    heads: BTreeMap<Turn, RequestId>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    len: usize,
    cost: u64,
    present: u64,
    arrivals: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            requests: HashMap::new(),
            heads: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            len: 0,
            cost: 0,
            present: 0,
            arrivals: 0,
        }
    }
}

impl<T> Queue<T> {
    /// How many items wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Since when the item whose turn is next has waited, and when it is due.
    pub fn first(&self) -> Option<(Instant, Instant)> {
        let (request, queued) = self.head()?;
        Some((queued.since, request.due))
    }

    /// What all that waits costs.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Adds items of a request, all of which are wanted at the same time.
    pub fn push(&mut self, wanted: Wanted, items: impl IntoIterator<Item = Queued<T>>) {
        let id = wanted.request;
        let request = self.requests.entry(id).or_insert_with(|| Request {
            due: wanted.due,
            deadline: wanted.deadline,
            items: VecDeque::new(),
            cost: 0,
        });
        let waited = !request.items.is_empty();
        for queued in items {
            let cost = u64::from(queued.cost);
            let last = request.items.back().map_or(0, |(turn, _)| turn.time);
            let turn = Turn {
                time: last.max(self.present) + cost,
                arrival: self.arrivals,
            };
            self.arrivals += 1;
            self.len += 1;
            self.cost += cost;
            request.cost += cost;
            request.items.push_back((turn, queued));
        }
        match request.items.front() {
            Some(_) if waited => {}
            Some(&(turn, _)) => {
                self.heads.insert(turn, id);
                self.deadlines.insert((request.deadline, id));
            }
            None => drop(self.requests.remove(&id)),
        }
    }

    /// Takes out what is left of a request.
    pub fn take_request(&mut self, id: RequestId) -> Vec<Queued<T>> {
        let Some(request) = self.requests.remove(&id) else {
            return Vec::new();
        };
        if let Some((turn, _)) = request.items.front() {
            self.heads.remove(turn);
        }
        self.deadlines.remove(&(request.deadline, id));
        self.len -= request.items.len();
        self.cost -= request.cost;
        request
            .items
            .into_iter()
            .map(|(_, queued)| queued)
            .collect()
    }

    /// Takes out the requests that cannot be answered in time any more: not even if the device did nothing else from
    /// `now` on. Says whether that follows from `speed` alone, as no deadline has passed yet.
    pub fn take_hopeless(&mut self, now: Instant, speed: Speed) -> (Vec<Queued<T>>, bool) {
        // No request needs more than all of them together.
        let horizon = now + speed.predict(self.cost).min(HORIZON);
        let hopeless: Vec<(Instant, RequestId)> = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= horizon)
            .filter(|(deadline, id)| {
                let cost = self.requests.get(id).map_or(0, |request| request.cost);
                *deadline <= now || *deadline - now < speed.predict(cost)
            })
            .copied()
            .collect();
        let predicted =
            !hopeless.is_empty() && hopeless.iter().all(|(deadline, _)| *deadline > now);
        let taken = hopeless
            .into_iter()
            .flat_map(|(_, id)| self.take_request(id))
            .collect();
        (taken, predicted)
    }

    /// Whether more waits than a batch holds.
    pub fn fills(&self, limits: &Limits) -> bool {
        self.len >= limits.max_batch_size || self.cost >= limits.max_batch_cost
    }

    /// Takes a batch out, its items in the order of their turns, and not so many that the first would be late for their sake.
    /// It is empty only if the queue is.
    pub fn take_batch(&mut self, limits: &Limits, now: Instant) -> Vec<Queued<T>> {
        let Some((_, due)) = self.first() else {
            return Vec::new();
        };
        let time = due.saturating_duration_since(now);
        let limits = limits
            .clone()
            .within(limits.longest, self.len, self.cost)
            .within(time / limits.in_flight, self.len, self.cost);
        let limits = &limits;
        let Some(first) = self.head().map(|(_, queued)| queued.cost) else {
            return Vec::new();
        };
        // Whole queues, and items that all cost the same, leave nothing to choose.
        let all = self.len <= limits.max_batch_size && self.cost <= limits.max_batch_cost;
        let mut batch: Vec<Candidate<T>> = Vec::new();
        let mut sum = 0;
        while let Some(cost) = self.head().map(|(_, queued)| queued.cost) {
            let fits = batch.len() < limits.max_batch_size
                && sum + u64::from(cost) <= limits.max_batch_cost;
            if !batch.is_empty() && !all && (!fits || cost != first) {
                break;
            }
            sum += u64::from(cost);
            batch.extend(self.pop());
        }
        if let Some(candidate) = batch.first() {
            self.present = self.present.max(candidate.turn.time);
        }
        let is_full =
            batch.len() >= limits.max_batch_size || sum + u64::from(first) > limits.max_batch_cost;
        if !is_full && !self.is_empty() {
            self.choose_companions(&mut batch, sum, limits);
        }
        for candidate in &batch {
            self.forget_if_empty(candidate.request);
        }
        batch
            .into_iter()
            .map(|candidate| candidate.queued)
            .collect()
    }

    /// Adds those nearest in cost to the first, out of the next in line.
    fn choose_companions(&mut self, batch: &mut Vec<Candidate<T>>, mut sum: u64, limits: &Limits) {
        let window = limits.max_batch_size.saturating_mul(LOOKAHEAD_BATCHES) - batch.len();
        let mut next: Vec<Candidate<T>> = std::iter::from_fn(|| self.pop()).take(window).collect();
        let first = batch[0].queued.cost;
        // Stable: among equals the earlier goes first.
        next.sort_by_key(|candidate| candidate.queued.cost.abs_diff(first));
        let room = limits.max_batch_size - batch.len();
        let chosen = next.iter().take(room).take_while(|candidate| {
            sum += u64::from(candidate.queued.cost);
            sum <= limits.max_batch_cost
        });
        let mut passed_over = next.split_off(chosen.count());
        batch.append(&mut next);
        batch.sort_unstable_by_key(|candidate| candidate.turn);
        // Last first, so that each request has its items in order again.
        passed_over.sort_unstable_by_key(|candidate| candidate.turn);
        while let Some(candidate) = passed_over.pop() {
            self.put_back(candidate);
        }
    }

    fn head(&self) -> Option<(&Request<T>, &Queued<T>)> {
        let (_, id) = self.heads.first_key_value()?;
        let request = self.requests.get(id)?;
        Some((request, &request.items.front()?.1))
    }

    /// Takes the item out whose turn is next. Its request stays, even without items.
    fn pop(&mut self) -> Option<Candidate<T>> {
        let (_, id) = self.heads.pop_first()?;
        let request = self.requests.get_mut(&id)?;
        let (turn, queued) = request.items.pop_front()?;
        if let Some(&(next, _)) = request.items.front() {
            self.heads.insert(next, id);
        }
        self.len -= 1;
        self.cost -= u64::from(queued.cost);
        request.cost -= u64::from(queued.cost);
        Some(Candidate {
            request: id,
            turn,
            queued,
        })
    }

    fn put_back(&mut self, candidate: Candidate<T>) {
        let Some(request) = self.requests.get_mut(&candidate.request) else {
            return;
        };
        if let Some((turn, _)) = request.items.front() {
            self.heads.remove(turn);
        }
        self.heads.insert(candidate.turn, candidate.request);
        self.len += 1;
        self.cost += u64::from(candidate.queued.cost);
        request.cost += u64::from(candidate.queued.cost);
        request.items.push_front((candidate.turn, candidate.queued));
    }

    fn forget_if_empty(&mut self, id: RequestId) {
        if let Some(request) = self.requests.get(&id)
            && request.items.is_empty()
        {
            self.deadlines.remove(&(request.deadline, id));
            self.requests.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests;
