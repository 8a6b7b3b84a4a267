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

use super::Speed;

/// How many batches' worth of items, from the first on, are looked through for companions of like cost.
const LOOKAHEAD_BATCHES: usize = 4;

/// The bounds of a batch, on the device that asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The most items of a batch; at least 1.
    pub max_batch_size: usize,
    /// The most that the items of a batch may cost together. One item that costs more runs alone.
    pub max_batch_cost: u64,
    /// What a batch takes there, as far as is known.
    pub speed: Speed,
}

/// Whose items wait; unique while they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

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
struct Request {
    deadline: Instant,
    /// The turns of its items, ascending.
    turns: VecDeque<Turn>,
    cost: u64,
}

/// The items of one recipe that wait for a device.
#[derive(Debug)]
pub struct Queue<T> {
    items: BTreeMap<Turn, (RequestId, Queued<T>)>,
    requests: HashMap<RequestId, Request>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    cost: u64,
    present: u64,
    arrivals: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            requests: HashMap::new(),
            deadlines: BTreeSet::new(),
            cost: 0,
            present: 0,
            arrivals: 0,
        }
    }
}

impl<T> Queue<T> {
    /// How many items wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Since when the item whose turn is next has waited.
    pub fn first(&self) -> Option<Instant> {
        Some(self.items.first_key_value()?.1.1.since)
    }

    /// Adds an item of a request. All items of a request have its deadline.
    pub fn push(&mut self, id: RequestId, deadline: Instant, queued: Queued<T>) {
        let request = self.requests.entry(id).or_insert_with(|| {
            self.deadlines.insert((deadline, id));
            Request {
                deadline,
                turns: VecDeque::new(),
                cost: 0,
            }
        });
        let last = request.turns.back().map_or(0, |turn| turn.time);
        let turn = Turn {
            time: last.max(self.present) + u64::from(queued.cost),
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        request.turns.push_back(turn);
        request.cost += u64::from(queued.cost);
        self.cost += u64::from(queued.cost);
        self.items.insert(turn, (id, queued));
    }

    /// Takes out what is left of a request.
    pub fn take_request(&mut self, id: RequestId) -> Vec<Queued<T>> {
        let Some(request) = self.requests.remove(&id) else {
            return Vec::new();
        };
        self.deadlines.remove(&(request.deadline, id));
        self.cost -= request.cost;
        let items = &mut self.items;
        request
            .turns
            .iter()
            .filter_map(|turn| Some(items.remove(turn)?.1))
            .collect()
    }

    /// Takes out the requests that cannot be answered in time any more: not even if the device did nothing else from
    /// `now` on. Says whether that follows from `speed` alone, as no deadline has passed yet.
    pub fn take_hopeless(&mut self, now: Instant, speed: Speed) -> (Vec<Queued<T>>, bool) {
        // No request needs more than all of them together.
        let horizon = now + speed.predict(self.cost).min(Duration::from_secs(86_400));
        let hopeless: Vec<(Instant, RequestId)> = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= horizon)
            .filter(|(deadline, id)| {
                let needs = self
                    .requests
                    .get(id)
                    .map_or(Duration::ZERO, |request| speed.predict(request.cost));
                deadline
                    .checked_duration_since(now)
                    .is_none_or(|left| left.is_zero() || left < needs)
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
        self.items.len() >= limits.max_batch_size || self.cost >= limits.max_batch_cost
    }

    /// Takes a batch out, its items in the order of their turns. It is empty only if the queue is.
    pub fn take_batch(&mut self, limits: &Limits) -> Vec<Queued<T>> {
        let all = self.items.len() <= limits.max_batch_size && self.cost <= limits.max_batch_cost;
        let turns: Vec<Turn> = match all {
            true => self.items.keys().copied().collect(),
            false => self.choose(limits),
        };
        if let Some(first) = turns.first() {
            self.present = self.present.max(first.time);
        }
        turns.iter().filter_map(|turn| self.take(turn)).collect()
    }

    fn take(&mut self, turn: &Turn) -> Option<Queued<T>> {
        let (id, queued) = self.items.remove(turn)?;
        self.cost -= u64::from(queued.cost);
        let request = self.requests.get_mut(&id)?;
        request.cost -= u64::from(queued.cost);
        if let Ok(place) = request.turns.binary_search(turn) {
            request.turns.remove(place);
        }
        if request.turns.is_empty() {
            self.deadlines.remove(&(request.deadline, id));
            self.requests.remove(&id);
        }
        Some(queued)
    }

    /// The turns of the next batch's items, in order: the first, and those nearest to it in cost.
    fn choose(&self, limits: &Limits) -> Vec<Turn> {
        let window = limits.max_batch_size.saturating_mul(LOOKAHEAD_BATCHES);
        let mut next: Vec<(u32, Turn)> = self
            .items
            .iter()
            .take(window)
            .map(|(turn, (_, queued))| (queued.cost, *turn))
            .collect();
        let Some(&(first, _)) = next.first() else {
            return Vec::new();
        };
        // Stable: among equals the earlier goes first. The first itself stays where it is.
        next[1..].sort_by_key(|(cost, _)| cost.abs_diff(first));
        let mut sum = 0;
        let mut chosen: Vec<Turn> = next
            .into_iter()
            .take(limits.max_batch_size.max(1))
            .enumerate()
            .take_while(|(place, (cost, _))| {
                sum += u64::from(*cost);
                *place == 0 || sum <= limits.max_batch_cost
            })
            .map(|(_, (_, turn))| turn)
            .collect();
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests;
